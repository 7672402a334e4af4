"""Vectors of numbers, one for each of several atoms: a type of Numba with ``+ - *``.

Sums of such vectors stay in registers, which loops over arrays would send through memory.  For
kernels that do the same for every atom, so that atoms can stand side by side.
"""

import operator

import numpy as np
from numba import njit, types
from numba.core.cgutils import ir  # the builder of instructions (llvmlite) that comes with Numba
from numba.extending import intrinsic, models, overload, register_model

# Sums may be reordered; NaN and infinity must survive.
FLAGS = {"contract", "reassoc", "nsz", "arcp"}


class Lanes(types.Type):
    """Numbers of one type in vector registers, one for each of `count` atoms.

    Complex numbers are two vectors, of the real and of the imaginary parts.
    """

    def __init__(self, dtype, count):
        self.dtype, self.count = dtype, count
        self.real = getattr(dtype, "underlying_float", dtype)
        super().__init__(name=f"Lanes({dtype}, {count})")


LANES = {
    dtype: Lanes(dtype, count)
    for dtype, count in ((types.float32, 16), (types.float64, 8), (types.complex128, 8))
}


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        vector = _vector(manager, lanes)
        complex_ = lanes.real != lanes.dtype
        kind = ir.LiteralStructType([vector, vector]) if complex_ else vector
        super().__init__(manager, lanes, kind)


def _vector(manager, lanes):
    return ir.VectorType(manager.lookup(lanes.real).get_value_type(), lanes.count)


def _split(builder, lanes, value):
    """The vectors (or, of scalars, the numbers) that make up a value."""
    if lanes.real == lanes.dtype:
        return [value]
    return [builder.extract_value(value, part) for part in (0, 1)]


def _join(context, builder, lanes, parts):
    if lanes.real == lanes.dtype:
        return parts[0]
    value = ir.Constant(context.get_value_type(lanes), ir.Undefined)
    for n, part in enumerate(parts):
        value = builder.insert_value(value, part, n)
    return value


def _shuffle(builder, x, y, order):
    kind = ir.VectorType(ir.IntType(32), len(order))
    return builder.shuffle_vector(x, y, ir.Constant(kind, list(order)))


def _places(context, builder, array_type, array, index, lanes):
    """Pointers to the vectors that start at ``array[index]``."""
    data = context.make_array(array_type)(context, builder, array).data
    kind = _vector(context.data_model_manager, lanes).as_pointer()
    first = builder.bitcast(builder.gep(data, [index]), kind)
    if lanes.real == lanes.dtype:
        return [first]
    return [first, builder.gep(first, [ir.Constant(ir.IntType(64), 1)])]


@intrinsic
def load(typing_context, array, index):
    """Lanes ``array[index : index + width]``."""

    def code(context, builder, signature, arguments):
        lanes = signature.return_type
        places = _places(context, builder, signature.args[0], *arguments, lanes)
        parts = [builder.load(place, align=lanes.real.bitwidth // 8) for place in places]
        if len(parts) == 2:
            # re im re im ... in memory
            whole = range(2 * lanes.count)
            parts = [_shuffle(builder, *parts, whole[part::2]) for part in (0, 1)]
        return _join(context, builder, lanes, parts)

    return LANES[array.dtype](array, types.intp), code


@intrinsic
def store(typing_context, array, index, value):
    def code(context, builder, signature, arguments):
        lanes = signature.args[2]
        parts = _split(builder, lanes, arguments[2])
        if len(parts) == 2:
            n = lanes.count
            order = np.arange(2 * n).reshape(2, n).T.ravel().tolist()
            parts = [_shuffle(builder, *parts, half) for half in (order[:n], order[n:])]
        places = _places(context, builder, signature.args[0], *arguments[:2], lanes)
        for part, place in zip(parts, places):
            builder.store(part, place, align=lanes.real.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, value), code


@intrinsic
def fill(typing_context, value):
    """The same number in all lanes."""
    lanes = LANES[value]

    def code(context, builder, signature, arguments):
        nothing = ir.Constant(_vector(context.data_model_manager, lanes), ir.Undefined)
        parts = []
        for number in _split(builder, lanes, arguments[0]):
            first = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
            parts.append(_shuffle(builder, first, nothing, [0] * lanes.count))
        return _join(context, builder, lanes, parts)

    return lanes(value), code


def _sum(builder, x, y):
    return [builder.fadd(a, b, flags=sorted(FLAGS)) for a, b in zip(x, y)]


def _difference(builder, x, y):
    return [builder.fsub(a, b, flags=sorted(FLAGS)) for a, b in zip(x, y)]


def _product(builder, x, y):
    def times(a, b):
        return builder.fmul(a, b, flags=sorted(FLAGS))

    if len(x) == 1:
        return [times(x[0], y[0])]
    real = _difference(builder, [times(x[0], y[0])], [times(x[1], y[1])])
    return real + _sum(builder, [times(x[0], y[1])], [times(x[1], y[0])])


def _add_operator(function, of_parts):
    @intrinsic
    def compute(typing_context, x, y):
        def code(context, builder, signature, arguments):
            parts = of_parts(builder, *(_split(builder, x, value) for value in arguments))
            return _join(context, builder, x, parts)

        return x(x, y), code

    @overload(function)
    def _operate(x, y):
        if isinstance(x, Lanes) and x == y:
            return lambda x, y: compute(x, y)


_add_operator(operator.add, _sum)
_add_operator(operator.sub, _difference)
_add_operator(operator.mul, _product)


def n_lanes(array):
    """Atoms side by side: lanes of a vector of the dtype of an array."""
    raise NotImplementedError("compiled by the overload below")


@overload(n_lanes)
def _n_lanes_overload(array):
    width = LANES[array.dtype].count
    return lambda array: width


@njit(cache=True)
def scratch(n, like):
    """n numbers of the dtype of `like` from a multiple of 64 bytes on: no vector in two lines."""
    array = np.empty(n + 64 // like.itemsize, like.dtype)
    first = -array.ctypes.data % 64 // like.itemsize
    return array[first : first + n]
