"""Private and low-level APIs of other libraries: check this file when one of them is upgraded.

Importing this module loads none of the libraries; each function imports what it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# ---------------------------------------------------------------------------------------------
# numba and llvmlite, for compiled kernels. Tested with numba 0.68 and llvmlite 0.50.
# Both ship without annotations, hence the `Any`s.
# ---------------------------------------------------------------------------------------------

_ALIGNMENT_BYTES = 4  # rows of odd widths start at any float32, so vectors are not aligned


class VectorIntrinsics(NamedTuple):
    """Operations on short runs of float32, which become single vector instructions.

    Indexes must be in range: there is no wrap-around and no bounds check.

    Attributes:
        copy: (target, i, source, j, lanes): set `target[i : i + lanes]` to `source[j : j + lanes]`.
        add: (target, i, source, j, lanes): add `source[j : j + lanes]` to `target[i : i + lanes]`.
        sum_of_squares: (source, i, lanes): the sum of squares of `source[i : i + lanes]`.
    """

    copy: Callable[..., Any]
    add: Callable[..., Any]
    sum_of_squares: Callable[..., Any]


@contextmanager
def numba_cache_folder(folder: str) -> Iterator[None]:
    """Make functions that are decorated in this context use `folder` as their cache.

    numba has no argument for it: `njit(cache=True)` reads the global `numba.config.CACHE_DIR`.
    """
    import numba

    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = folder
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def prefetch_intrinsic() -> Callable[..., Any]:
    """Return `prefetch(array, index)` for compiled code; numba has no prefetch instruction.

    It asks for the cache line of `array[index]`. The array is one-dimensional; the index may be
    out of range.
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            offset = context.cast(builder, arguments[1], signature.args[1], types.intp)
            byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
            shape = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
            instruction = cgutils.get_or_insert_function(
                builder.module, shape, "llvm.prefetch.p0i8"
            )
            # Flags: for reading (0), keep in every cache level (3), data (1).
            flags = [ir.Constant(flag, value) for value in (0, 3, 1)]
            address = builder.bitcast(builder.gep(data, [offset]), byte)
            builder.call(instruction, [address, *flags])
            return context.get_dummy_value()

        return types.void(array, index), generate

    return cast(Callable[..., Any], prefetch)


def vector_intrinsics() -> VectorIntrinsics:
    """Return vector operations for compiled code, whose `lanes` is a compile-time constant.

    numba emits scalar code for loops over a dozen elements, so LLVM vectors are emitted here.
    """
    from numba import types
    from numba.extending import intrinsic

    def assignment(combine: Callable[..., Any]) -> Callable[..., Any]:
        @intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
        def assign(
            typing_context: Any, target: Any, i: Any, source: Any, j: Any, lanes: Any
        ) -> Any:
            def generate(context: Any, builder: Any, *call: Any) -> Any:
                addresses = [_vector_address(context, builder, call, at, lanes) for at in (0, 2)]
                # Rows of odd width of a 16-bit type start at any multiple of 2 bytes.
                align = min(_ALIGNMENT_BYTES, target.dtype.bitwidth // 8)
                vectors = [builder.load(each, align=align) for each in addresses]
                builder.store(combine(builder, *vectors), addresses[0], align=align)
                return context.get_dummy_value()

            return types.void(target, i, source, j, lanes), generate

        return cast(Callable[..., Any], assign)

    @intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
    def sum_of_squares(typing_context: Any, source: Any, i: Any, lanes: Any) -> Any:
        def generate(context: Any, builder: Any, *call: Any) -> Any:
            address = _vector_address(context, builder, call, 0, lanes)
            values = builder.load(address, align=_ALIGNMENT_BYTES)
            return _sum(builder, builder.fmul(values, values))

        return source.dtype(source, i, lanes), generate

    return VectorIntrinsics(
        copy=assignment(lambda builder, target, source: source),
        add=assignment(lambda builder, target, source: builder.fadd(target, source)),
        sum_of_squares=sum_of_squares,
    )


def _vector_address(context: Any, builder: Any, call: Any, at: int, lanes: Any) -> Any:
    """Return the address of a vector: argument `at` is the array, the next one the index."""
    from llvmlite import ir
    from numba import types

    signature, arguments = call
    array = context.make_array(signature.args[at])(context, builder, arguments[at])
    index = context.cast(builder, arguments[at + 1], signature.args[at + 1], types.intp)
    vector = ir.VectorType(context.get_data_type(signature.args[at].dtype), lanes.literal_value)
    return builder.bitcast(builder.gep(array.data, [index]), vector.as_pointer())


def _sum(builder: Any, vector: Any) -> Any:
    """Return the sum of a vector's elements."""
    from llvmlite import ir

    # The halves are added until one element is left. This order is the same on every machine,
    # whatever its vector width, and so are the bits of the sum.
    count = vector.type.count
    while count > 1:
        count //= 2
        undefined = ir.Constant(vector.type, ir.Undefined)
        low, high = (
            ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(first, first + count)))
            for first in (0, count)
        )
        vector = builder.fadd(
            builder.shuffle_vector(vector, undefined, low),
            builder.shuffle_vector(vector, undefined, high),
        )
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


# ---------------------------------------------------------------------------------------------
# TensorFlow and Keras. Tested with TensorFlow 2.21.0 and Keras 3.15.
# ---------------------------------------------------------------------------------------------


def is_watched(tensor: tf.Tensor) -> bool:
    """Return whether a gradient tape records operations on a tensor.

    An `ElasticEmbedding` that is called without `training` trains only under a tape. TensorFlow has
    no public function for this question.
    """
    from tensorflow.python.eager import record

    return bool(record.should_record_backprop([tensor]))


def all_layers(model: keras.Model) -> list[Any]:
    """Return the layers of a model, those inside nested models and layers included.

    The public `model.layers` has only the outer ones.
    """
    return list(model._flatten_layers())


def functional_of(model: keras.Model) -> keras.Model:
    """Return the functional model inside a sequential one; other models are returned unchanged."""
    return getattr(model, "_functional", None) or model


def calls_in(functional: keras.Model, layer: keras.layers.Layer) -> list[Any]:
    """Return the first argument, a symbolic tensor, of each call of a layer in a functional model.

    Keras has no public access to the graph of a model. A subclassed model has no graph.
    """
    by_depth = getattr(functional, "_nodes_by_depth", {})
    nodes = [node for nodes in by_depth.values() for node in nodes]
    return [node.arguments.args[0] for node in layer._inbound_nodes if node in nodes]
