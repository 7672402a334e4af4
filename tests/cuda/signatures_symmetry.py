"""Entries of `SIGNATURES` (tests/cuda/signatures.py) for symmetry functions."""

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
INDICES, TABLE, DOUBLES = array(I64, 1), array(I64, 2), array(F64, 1)


def _symmetry_function_tables(f):
    """From the type of the cutoff to the weights of members."""
    return (
        I64, *[array(f, 2)] * 4, TABLE, DOUBLES,
        INDICES, TABLE, array(f, 1), array(f, 1), INDICES, TABLE, DOUBLES,
        TABLE, array(f, 2), TABLE, TABLE, array(f, 1),
    )  # fmt: skip


# name -> (module, kernel, function of the working type that gives the types of the arguments)
SIGNATURES = {
    "symmetry_functions_forward": ("symmetry_functions", "_forward_kernel", lambda f: (
        *PAIRS, PLACE, *_symmetry_function_tables(f), array(f, 2), array(f, 2), I64, I64, I64,
        array(f, 2),
    )),
    "symmetry_functions_backward": ("symmetry_functions", "_backward_kernel", lambda f: (
        array(f, 2), *PAIRS, PAIR_OFFSET, PLACE, *_symmetry_function_tables(f), array(f, 2),
        I64, I64, I64, I64, array(f, 2),
    )),
}  # fmt: skip
