"""Kernels of the GPU have the names and arguments of their twins on the CPU."""

import ast
from itertools import product
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
DIRECTIONS = ("_forward", "_backward", "_gradient")

# module.function -> why there is no twin; an entry whose twin exists fails
NONE_YET = "no kernel for the GPU yet"
MISSING: dict[str, str] = {}

# what stands in the twin for some arguments in a row; of each entry one holds, or none
CHUNKS = [("chunks",), ("pair_offset",), ()]  # () where a block is an atom and no pair is written
SLOPES = [("d_positions", "d_strain"), ("d_separations",)]

SCRATCH = ("deltas",)
"""What only kernels of the GPU need."""


def functions_of(source) -> dict[str, tuple[str, ...]]:
    """Arguments of every public kernel, by name."""
    return {
        node.name: tuple(argument.arg for argument in node.args.args)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and node.name.endswith(DIRECTIONS)
    }


def kernels_of(folder) -> dict[str, tuple[str, ...]]:
    return {
        f"{path.stem}.{name}": arguments
        for path in sorted((KERNELS / folder).glob("*.py"))
        for name, arguments in functions_of(path.read_text()).items()
    }


def replaced(arguments, old, new):
    """Arguments with `new` in place of those of `old`, which stand in a row."""
    for k in range(len(arguments)):
        if arguments[k : k + len(old)] == old:
            return arguments[:k] + new + arguments[k + len(old) :]
    return arguments


def are_twins(cpu, cuda) -> bool:
    """Whether the arguments of a kernel of the GPU are those of its twin."""
    allowed = {
        replaced(replaced(cpu, CHUNKS[0], chunks), SLOPES[0], slopes)
        for chunks, slopes in product(CHUNKS, SLOPES)
    }
    return tuple(name for name in cuda if name not in SCRATCH) in allowed


CPU, CUDA = kernels_of("cpu"), kernels_of("cuda")


def test_twins_are_found():
    assert {"chebyshev.chebyshev_forward", "networks.networks_gradient"} <= set(CPU) & set(CUDA)


@pytest.mark.parametrize("name", CPU)
def test_a_kernel_has_its_twin(name):
    if name in MISSING:
        assert name not in CUDA, f"{name} is there: take it off MISSING"
        return
    assert name in CUDA, f"{name} has no twin in kernels/cuda"
    assert are_twins(CPU[name], CUDA[name]), f"cpu {CPU[name]}, cuda {CUDA[name]}"


def test_nothing_is_listed_that_the_processor_lacks():
    assert set(MISSING) <= set(CPU)
    assert set(CUDA) <= set(CPU)


@pytest.mark.parametrize(
    ("arguments", "fit"),
    [
        ("g, r, chunks, a, b, d_positions, d_strain", True),
        ("g, r, pair_offset, a, b, d_separations", True),
        ("g, r, a, b, d_separations", True),
        ("g, r, pair_offset, b, a, d_separations", False),
        ("r, g, pair_offset, a, b, d_separations", False),
        ("g, pair_offset, r, a, b, d_separations", False),
        ("g, r, pair_offset, a, d_separations", False),
        ("g, r, pair_offset, a, b, d_separations, d_strain", False),
        ("g, r, pair_offset, a, b, c, d_separations", False),
        ("g, r, pair_offset, a, b, d_strain, d_positions", False),
    ],
)
def test_swapped_and_lacking_arguments_are_refused(arguments, fit):
    source = "def x_backward({}): pass"
    cpu = functions_of(source.format("g, r, chunks, a, b, d_positions, d_strain"))
    assert are_twins(cpu["x_backward"], functions_of(source.format(arguments))["x_backward"]) is fit
