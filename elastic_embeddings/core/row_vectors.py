"""Moving, adding and measuring short runs of float32 in compiled code: LLVM vectors of a width known at compile time.

numba leaves loops over a dozen elements scalar. A row is handled as `dim // lanes` vectors of `lanes` elements, where
`lanes = lanes_of(dim)`. Indexes are taken as they are: no wrap-around, no bounds check.
"""

from __future__ import annotations

from math import gcd
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_ALIGNMENT_BYTES = 4
_MOST_LANES = 16  # a cache line


def lanes_of(dim: int) -> int:
    """Return how many elements one vector holds for rows of `dim`: a power of two that divides it, 16 at most."""
    return gcd(dim, _MOST_LANES)


@intrinsic(prefer_literal=True)
def copy_vector(typing: Any, target: Any, i: Any, source: Any, j: Any, lanes: Any) -> Any:
    """Set `target[i : i + lanes]` to `source[j : j + lanes]`; flat contiguous arrays, `lanes` a constant."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        """Emit the instructions."""
        moved = _load(context, builder, signature, arguments, 2, lanes.literal_value)
        _store(context, builder, signature, arguments, moved)
        return context.get_dummy_value()

    return types.void(target, i, source, j, lanes), generate


@intrinsic(prefer_literal=True)
def add_vector(typing: Any, target: Any, i: Any, source: Any, j: Any, lanes: Any) -> Any:
    """Add `source[j : j + lanes]` to `target[i : i + lanes]`; flat contiguous float arrays, `lanes` a constant."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        """Emit the instructions."""
        first = _load(context, builder, signature, arguments, 0, lanes.literal_value)
        second = _load(context, builder, signature, arguments, 2, lanes.literal_value)
        _store(context, builder, signature, arguments, builder.fadd(first, second))
        return context.get_dummy_value()

    return types.void(target, i, source, j, lanes), generate


@intrinsic(prefer_literal=True)
def sum_of_squares(typing: Any, source: Any, i: Any, lanes: Any) -> Any:
    """Return the sum of the squares of `source[i : i + lanes]`, added up in halves, so that it is the same on every machine."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        """Emit the instructions."""
        values = _load(context, builder, signature, arguments, 0, lanes.literal_value)
        squares, count = builder.fmul(values, values), lanes.literal_value
        while count > 1:
            count //= 2
            halves = [_elements(builder, squares, first, count) for first in (0, count)]
            squares = builder.fadd(*halves)
        return builder.extract_element(squares, ir.Constant(ir.IntType(32), 0))

    return source.dtype(source, i, lanes), generate


def _elements(builder: Any, vector: Any, first: int, count: int) -> Any:
    """The vector of `count` elements from `first` on."""
    places = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(first, first + count)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), places)


def _pointer(
    context: Any, builder: Any, signature: Any, arguments: Any, place: int, lanes: int
) -> Any:
    """The address of the array argument at `place`, indexed by the argument behind it, as that of a vector."""
    array = context.make_array(signature.args[place])(context, builder, arguments[place])
    index = context.cast(builder, arguments[place + 1], signature.args[place + 1], types.intp)
    element = context.get_data_type(signature.args[place].dtype)
    return builder.bitcast(
        builder.gep(array.data, [index]), ir.VectorType(element, lanes).as_pointer()
    )


def _load(
    context: Any, builder: Any, signature: Any, arguments: Any, place: int, lanes: int
) -> Any:
    pointer = _pointer(context, builder, signature, arguments, place, lanes)
    return builder.load(pointer, align=_ALIGNMENT_BYTES)


def _store(context: Any, builder: Any, signature: Any, arguments: Any, value: Any) -> None:
    builder.store(
        value,
        _pointer(context, builder, signature, arguments, 0, value.type.count),
        align=_ALIGNMENT_BYTES,
    )
