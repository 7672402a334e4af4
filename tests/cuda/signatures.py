"""Types of the arguments of every kernel, for compiling without a GPU (tests/cuda/test_ptx.py)."""

from numba import types

F64, I64, I32, I16 = types.float64, types.int64, types.int32, types.int16


def array(kind, dimensions):
    """Type of a C-contiguous array."""
    return types.Array(kind, dimensions, "C")


# positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift
PAIRS = (
    array(F64, 2), array(F64, 3), array(I64, 1), array(I32, 1), array(I64, 1), array(I64, 1),
    array(I64, 1), array(I32, 1), array(I16, 2),
)  # fmt: skip
PLACE = PAIR_OFFSET = array(I64, 1)
INDICES, TILES, SWITCH = array(I64, 1), array(I64, 2), types.boolean
DOUBLES, ROWS, TENSORS = array(F64, 1), array(F64, 2), array(F64, 3)
FROZEN = array(types.boolean, 1)
LABELS = (DOUBLES, ROWS, TENSORS)  # energy, forces, virial


def _chebyshev_tables(f, *, backward):
    series = array(f, 1)
    tables = (series, DOUBLES, *[series] * (2 if backward else 1))
    return *tables, *[array(f, 2)] * 4


def _density_tables(f):
    return array(f, 1), DOUBLES, array(f, 2), array(f, 2), I64


def _power_arguments(f):
    return array(f, 2), I64, PAIRS[3], PLACE, f, array(f, 1), TILES, INDICES, SWITCH


def _symmetry_function_tables(f):
    """From the type of the cutoff to the weights of members."""
    return (
        I64, *[array(f, 2)] * 4, TILES, DOUBLES,
        INDICES, TILES, array(f, 1), array(f, 1), INDICES, TILES, DOUBLES,
        TILES, array(f, 2), TILES, TILES, array(f, 1),
    )  # fmt: skip


# constants, sine, cosine, reach, pair_table, switches
def _bispectrum_geometry(f):
    return *[array(f, 1)] * 3, ROWS, array(f, 3), INDICES


# out_start, out, term_start, first, second, coefficient
def _bispectrum_products(f):
    short = array(types.uint16, 1)
    return INDICES, INDICES, INDICES, short, short, array(f, 1)


# name -> (module, kernel, function of the working type that gives the types of the arguments)
SIGNATURES = {
    "atomic_environment_forward": ("atomic_environment", "_forward_kernel", lambda f: (
        *PAIRS, PLACE, array(f, 1), DOUBLES, *[array(f, 1)] * 5, I64, *[array(f, 2)] * 3,
    )),
    "atomic_environment_backward": ("atomic_environment", "_backward_kernel", lambda f: (
        array(f, 2), *PAIRS, PAIR_OFFSET, PLACE, array(f, 1), DOUBLES, *[array(f, 1)] * 6, I64,
        *[array(f, 2)] * 2,
    )),
    "bispectrum_forward": ("bispectrum", "_forward_kernel", lambda f: (
        *PAIRS, PLACE, *_bispectrum_geometry(f), array(f, 2), I64, array(f, 1), array(f, 1),
        INDICES, INDICES, array(f, 1), *_bispectrum_products(f), array(f, 2), array(f, 2), I64,
        array(f, 2), array(f, 3),
    )),
    "bispectrum_backward": ("bispectrum", "_backward_kernel", lambda f: (
        array(f, 2), array(f, 3), *PAIRS, PAIR_OFFSET, PLACE, *_bispectrum_geometry(f), I64, I64,
        INDICES, INDICES, array(f, 1), *_bispectrum_products(f), I64, INDICES, INDICES,
        array(f, 1), TILES, array(f, 2), array(f, 1), array(f, 2), I64, array(f, 2),
    )),
    "chebyshev_forward": ("chebyshev", "_forward_kernel", lambda f: (
        *PAIRS, PLACE, *_chebyshev_tables(f, backward=False), array(f, 2), array(f, 2), I64,
        array(f, 2), array(f, 3),
    )),
    "chebyshev_backward": ("chebyshev", "_backward_kernel", lambda f: (
        array(f, 2), array(f, 3), *PAIRS, PAIR_OFFSET, PLACE,
        *_chebyshev_tables(f, backward=True), array(f, 2), I64, array(f, 2),
    )),
    "density_forward": ("density", "_forward_kernel", lambda f: (
        *PAIRS, *_density_tables(f), array(f, 3),
    )),
    "density_backward": ("density", "_backward_kernel", lambda f: (
        array(f, 3), *PAIRS, PAIR_OFFSET, *_density_tables(f), I64, array(f, 2),
    )),
    "power_spectrum_forward": ("power_spectrum", "_forward_kernel", lambda f: (
        *_power_arguments(f), *[array(f, 2)] * 3,
    )),
    "power_spectrum_backward": ("power_spectrum", "_backward_kernel", lambda f: (
        array(f, 2), *_power_arguments(f), array(f, 2), I64, array(f, 2),
    )),
    "symmetry_functions_forward": ("symmetry_functions", "_forward_kernel", lambda f: (
        *PAIRS, PLACE, *_symmetry_function_tables(f), array(f, 2), array(f, 2), I64, I64, I64,
        array(f, 2),
    )),
    "symmetry_functions_backward": ("symmetry_functions", "_backward_kernel", lambda f: (
        array(f, 2), *PAIRS, PAIR_OFFSET, PLACE, *_symmetry_function_tables(f), array(f, 2),
        I64, I64, I64, I64, array(f, 2),
    )),
    "quadratic_forward": ("quadratic", "_forward_kernel", lambda f: (
        array(f, 2), *[array(types.uint16, 1)] * 2, array(f, 1), INDICES, *[array(f, 2)] * 3,
    )),
    "quadratic_backward": ("quadratic", "_backward_kernel", lambda f: (
        array(f, 2), array(f, 2), INDICES, array(f, 2), array(f, 2),
    )),
    "reduced_forward": ("reduced", "_forward_kernel", lambda f: (
        array(f, 1), I64, array(f, 1), INDICES, *[array(f, 2)] * 3,
    )),
    "reduced_backward": ("reduced", "_backward_kernel", lambda f: (
        array(f, 2), array(f, 1), INDICES, array(f, 2), array(f, 1), array(f, 2),
    )),
    "rows_around": ("elemental", "_around_kernel", lambda f: (
        PAIRS[3], INDICES, INDICES, I64, INDICES,
    )),
    "elemental_forward": ("elemental", "_forward_kernel", lambda f: (
        array(f, 2), I64, INDICES, *[array(f, 2)] * 3,
    )),
    "elemental_backward": ("elemental", "_backward_kernel", lambda f: (
        array(f, 2), I64, array(f, 2), array(f, 2),
    )),
    "zbl_forward": ("zbl", "_forward_kernel", lambda f: (
        *PAIRS, *[ROWS] * 7, F64, DOUBLES, ROWS, ROWS,
    )),
    "networks_forward": ("networks", "_forward_kernel", lambda f: (
        array(f, 1), array(f, 1), TILES, TILES, INDICES, I64, TILES,
        array(f, 1), array(f, 1), DOUBLES,
    )),
    "networks_backward": ("networks", "_backward_kernel", lambda f: (
        array(f, 1), array(f, 1), TILES, INDICES, I64, TILES, I64, array(f, 1), array(f, 1),
    )),
    "networks_gradient": ("networks", "_gradient_kernel", lambda f: (
        array(f, 1), array(f, 1), array(f, 1), DOUBLES, array(f, 1), TILES, INDICES, I64, SWITCH,
        TILES, INDICES, ROWS,
    )),
    "opposite_pairs": ("pairs", "_opposite_kernel", lambda f: (
        PAIRS[3], INDICES, INDICES, INDICES, *PAIRS[7:], I64, INDICES,
    )),
    "sum_separations": ("pairs", "_sum_kernel", lambda f: (
        array(f, 2), *PAIRS[:3], *PAIRS[4:], PAIR_OFFSET, INDICES, ROWS, ROWS,
    )),
    "displace": ("replicas", "_displace_kernel", lambda f: (
        ROWS, ROWS, TENSORS, TENSORS, INDICES, PAIRS[3], PLACE, INDICES, DOUBLES, DOUBLES,
        ROWS, TENSORS, INDICES, PLACE,
    )),
    "step_lengths": ("replicas", "_steps_kernel", lambda f: (
        ROWS, TENSORS, INDICES, F64, F64, DOUBLES,
    )),
    "gather_structures": ("batches", "_gather_kernel", lambda f: (
        INDICES, INDICES, TILES, INDICES, INDICES, ROWS, TENSORS, PAIRS[3], INDICES, INDICES,
        *PAIRS[:4], INDICES, INDICES, PLACE,
    )),
    "gather_rows": ("batches", "_gather_rows_kernel", lambda f: (
        INDICES, INDICES, INDICES, ROWS, ROWS,
    )),
    "loss_sums": ("losses", "_sums_kernel", lambda f: (
        *LABELS, *LABELS, ROWS, DOUBLES, PAIRS[3], INDICES, DOUBLES, I64, F64,
        *[DOUBLES] * 3, ROWS,
    )),
    "loss_totals": ("losses", "_totals_kernel", lambda f: (ROWS, DOUBLES)),
    "loss_slopes": ("losses", "_slopes_kernel", lambda f: (
        *LABELS, *LABELS, ROWS, DOUBLES, PAIRS[3], INDICES, I64, F64, *[DOUBLES] * 4, F64,
        DOUBLES, *LABELS, ROWS,
    )),
    "replica_weights": ("losses", "_weights_kernel", lambda f: (DOUBLES,) * 5),
    "fill": ("reductions", "_fill_kernel", lambda f: (array(f, 1), f)),
    "sum_energies": ("reductions", "_energies_kernel", lambda f: (
        DOUBLES, PLACE, PAIRS[3], INDICES, F64, DOUBLES, I64, DOUBLES,
    )),
    "weigh_rows": ("reductions", "_rows_kernel", lambda f: (
        DOUBLES, INDICES, PLACE, F64, DOUBLES,
    )),
    "sum_chunks": ("reductions", "_chunks_kernel", lambda f: (ROWS, DOUBLES)),
    "forces_and_virials": (
        "reductions", "_forces_kernel", lambda f: (ROWS, ROWS, INDICES, TENSORS)
    ),
    "add": ("reductions", "_add_kernel", lambda f: (array(f, 1), DOUBLES, array(f, 1))),
    "take": ("adam", "_take_kernel", lambda f: (
        DOUBLES, F64, SWITCH, FROZEN, F64, *[DOUBLES] * 4,
    )),
    "update": ("adam", "_update_kernel", lambda f: (
        DOUBLES, DOUBLES, FROZEN, *[F64] * 10, *[DOUBLES] * 4, array(f, 1),
    )),
}  # fmt: skip
