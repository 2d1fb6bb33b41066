"""Bilinear samples: one by one, and of eight orbits at a time in vectors that the compiler does not find by itself.

Neighbours in a row are fetched together, so that a sample takes two loads of two pixels; places are read one by one,
since taking numbers out of vectors costs more than the samples. An orbit fills a vector of its eight places; eight of
them are transposed in registers, so that each place of the orbits comes out in a row of its own. Both forms are made of
the same operations in the same order, so they round alike.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

_FLOAT, _INT, _LONG, _BITS = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.IntType(8)
_PAIR, _EIGHT, _PLACES = ir.VectorType(_FLOAT, 2), ir.VectorType(_FLOAT, 8), ir.VectorType(_INT, 8)


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def bilinear(
    context: Any, upper_left: Any, upper_right: Any, lower_left: Any, lower_right: Any, low: Any, right: Any
) -> Any:
    """The sample between four pixels, ``low`` below the upper and ``right`` of the left ones; all float32."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _interpolated(builder, arguments[:4], *arguments[4:])

    return types.float32(*[types.float32] * 6), generated


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def eight_orbits(context: Any, plane: Any, side: Any, index: Any, low: Any, right: Any, first: Any, out: Any) -> Any:
    """out[:, first : first + 8] are the samples of ``plane`` (H*W,) float32 at eight rows of the taps (O, 8).

    ``side`` is H, int64, ``first`` int64; index int32, low and right float32; out (8, O) float32. All contiguous.
    Returns false, and does nothing, where an index is below 0 (outside the image).
    """
    for array, kind in ((plane, "float32"), (index, "int32"), (low, "float32"), (right, "float32"), (out, "float32")):
        if not isinstance(array, types.Array) or array.layout != "C" or str(array.dtype) != kind:
            raise TypingError(f"{array} is no contiguous array of {kind}")
    return types.boolean(plane, types.int64, index, low, right, types.int64, out), _generated


def _generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    plane, index, low, right, out = (
        context.make_array(signature.args[number])(context, builder, arguments[number]) for number in (0, 2, 3, 4, 6)
    )
    side, first = arguments[1], arguments[5]
    start = builder.mul(first, _long(8))

    def eight(table: Any, orbit: int, kind: Any) -> Any:
        place = builder.gep(table.data, [builder.add(start, _long(8 * orbit))])
        return builder.load(builder.bitcast(place, kind.as_pointer()), align=4)

    signs = eight(index, 0, _PLACES)
    for orbit in range(1, 8):
        signs = builder.or_(signs, eight(index, orbit, _PLACES))
    outside = builder.icmp_signed("<", signs, ir.Constant(_PLACES, [0] * 8))
    complete = builder.icmp_unsigned("==", builder.bitcast(outside, _BITS), ir.Constant(_BITS, 0))
    with builder.if_then(complete, likely=True):
        samples = []
        for orbit in range(8):
            places = builder.gep(index.data, [builder.add(start, _long(8 * orbit))])
            pixels = _neighbours(builder, plane.data, places, side)
            samples.append(_interpolated(builder, pixels, eight(low, orbit, _EIGHT), eight(right, orbit, _EIGHT)))
        count = cgutils.unpack_tuple(builder, out.shape)[1]
        for place, row in enumerate(_transposed(builder, samples)):
            at = builder.gep(out.data, [builder.add(first, builder.mul(count, _long(place)))])
            builder.store(row, builder.bitcast(at, _EIGHT.as_pointer()), align=4)
    return complete


def _long(number: int) -> Any:
    return ir.Constant(_LONG, number)


def _shuffled(builder: Any, one: Any, other: Any, order: Sequence[int]) -> Any:
    """The numbers ``order`` of two vectors, one after the other."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT, len(order)), list(order)))


def _neighbours(builder: Any, plane: Any, places: Any, side: Any) -> list[Any]:
    """The pixels at eight places, those right of them, and the same two of the row below."""
    upper: list[Any] = []
    lower: list[Any] = []
    for number in range(8):
        place = builder.sext(builder.load(builder.gep(places, [_long(number)])), _LONG)
        pixel = builder.gep(plane, [place])
        for pairs, at in ((upper, pixel), (lower, builder.gep(pixel, [side]))):
            pairs.append(builder.load(builder.bitcast(at, _PAIR.as_pointer()), align=4))
    found = []
    for pairs in (upper, lower):
        fours = [_shuffled(builder, pairs[even], pairs[even + 1], range(4)) for even in range(0, 8, 2)]
        # Places 0 1 4 5 and 2 3 6 7: one shuffle within the halves of the vectors then puts eight in order.
        one, other = (_shuffled(builder, fours[half], fours[half + 2], range(8)) for half in (0, 1))
        found.append(_shuffled(builder, one, other, (0, 2, 8, 10, 4, 6, 12, 14)))
        found.append(_shuffled(builder, one, other, (1, 3, 9, 11, 5, 7, 13, 15)))
    return found


def _interpolated(builder: Any, pixels: Sequence[Any], low: Any, right: Any) -> Any:
    """The samples between ``pixels``, the four of `_neighbours`: numbers or vectors."""
    kind, (upper_left, upper_right, lower_left, lower_right) = low.type, pixels
    one = ir.Constant(kind, [1.0] * 8 if kind == _EIGHT else 1.0)
    up, left = builder.fsub(one, low), builder.fsub(one, right)
    # Fused where the processor can, and never otherwise than here.
    name = "llvm.fmuladd.v8f32" if kind == _EIGHT else "llvm.fmuladd.f32"
    fused = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)

    def plus(row: Any, column: Any, pixel: Any, total: Any) -> Any:
        return builder.call(fused, [builder.fmul(row, column), pixel, total])

    upper = plus(up, left, upper_left, builder.fmul(builder.fmul(up, right), upper_right))
    return plus(low, right, lower_right, plus(low, left, lower_left, upper))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Eight vectors of eight, transposed: pairs of neighbours, fours, halves."""
    pairs, fours = [], []
    for first in range(0, 8, 2):
        for order in ((0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)):
            pairs.append(_shuffled(builder, rows[first], rows[first + 1], order))
    for one, other in ((0, 2), (1, 3), (4, 6), (5, 7)):
        for order in ((0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)):
            fours.append(_shuffled(builder, pairs[one], pairs[other], order))
    halves = (range(4), range(8, 12)), (range(4, 8), range(12, 16))
    return [_shuffled(builder, fours[i], fours[i + 4], [*own, *other]) for own, other in halves for i in range(4)]
