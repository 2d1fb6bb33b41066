"""Eight bilinear samples at a time, in vectors that the compiler does not find by itself.

Neighbours in a row are fetched together, so that a sample takes two loads of two pixels; their order of operations is
that of `kernels._interpolate`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

_FLOAT, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_PAIR, _EIGHT, _PLACES = ir.VectorType(_FLOAT, 2), ir.VectorType(_FLOAT, 8), ir.VectorType(_INT, 8)
_FUSED = ("contract",)


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def eight_samples(context: Any, plane: Any, side: Any, index: Any, low: Any, right: Any, at: Any, out: Any) -> Any:
    """out[at : at + 8] are the samples of ``plane`` (H*W,) float32 at the taps index, low, right[at : at + 8].

    ``side`` is H, int64, ``at`` int64; taps and out are contiguous, in any shape, and ``at`` counts as if they were
    flat. Index int32, the others float32; an index below 0 gives 0.
    """
    for array in (plane, index, low, right, out):
        if not isinstance(array, types.Array) or array.layout != "C":
            raise TypingError(f"{array} is no contiguous array")
    return types.void(plane, types.int64, index, low, right, types.int64, out), _generated


def _generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    def data(number: int) -> Any:
        return context.make_array(signature.args[number])(context, builder, arguments[number]).data

    def vector(number: int, kind: Any) -> Any:
        return builder.bitcast(builder.gep(data(number), [arguments[5]]), kind.as_pointer())

    places = builder.load(vector(2, _PLACES), align=4)
    low, right = (builder.load(vector(number, _EIGHT), align=4) for number in (3, 4))
    nothing = ir.Constant(_PLACES, [0] * 8)
    inside = builder.icmp_signed(">=", places, nothing)
    safe, plane = builder.select(inside, places, nothing), data(0)
    upper_left, upper_right = _neighbours(builder, plane, safe, ir.Constant(_LONG, 0))
    lower_left, lower_right = _neighbours(builder, plane, safe, arguments[1])
    one = ir.Constant(_EIGHT, [1.0] * 8)
    up, left = builder.fsub(one, low), builder.fsub(one, right)

    def times(*factors: Any) -> Any:
        product = factors[0]
        for factor in factors[1:]:
            product = builder.fmul(product, factor, flags=_FUSED)
        return product

    upper = builder.fadd(times(up, left, upper_left), times(up, right, upper_right), flags=_FUSED)
    lower = builder.fadd(times(low, left, lower_left), upper, flags=_FUSED)
    value = builder.fadd(times(low, right, lower_right), lower, flags=_FUSED)
    value = builder.select(inside, value, ir.Constant(_EIGHT, [0.0] * 8))
    builder.store(value, vector(6, _EIGHT), align=4)
    return context.get_dummy_value()


def _neighbours(builder: Any, plane: Any, places: Any, offset: Any) -> tuple[Any, Any]:
    """The pixels at eight places, ``offset`` pixels on, and those right of them."""
    pairs = []
    for number in range(8):
        place = builder.sext(builder.extract_element(places, ir.Constant(_INT, number)), _LONG)
        pointer = builder.gep(plane, [builder.add(place, offset)])
        pairs.append(builder.load(builder.bitcast(pointer, _PAIR.as_pointer()), align=4))

    def joined(one: Any, other: Any, order: range) -> Any:
        return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT, len(order)), list(order)))

    fours = [joined(pairs[even], pairs[even + 1], range(4)) for even in range(0, 8, 2)]
    first, second = joined(fours[0], fours[1], range(8)), joined(fours[2], fours[3], range(8))
    return joined(first, second, range(0, 16, 2)), joined(first, second, range(1, 16, 2))
