"""Every operation of the step on device slabs has a GPU kernel; nothing goes through the host.

The test traces the step of a device table and looks up each operation's GPU kernels, for its types,
in the installed TensorFlow. It needs no GPU: it proves placement, not speed. The index pass, a
`tf.numpy_function` that passes int32 rows on, runs on the host and is not in this step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from elastic_embeddings.optimizers.proximal import DynamicL1
from elastic_embeddings.optimizers.rules import GroupAdam
from elastic_embeddings.slabs.slab import SlabSpec
from elastic_embeddings.table import ElasticTable

DIM, FIELDS = 4, 3
_FEW = 16
_AXES = {"r0", "r1", "reduction_indices"}
"""Arguments that list axes: as short as a shape, though their static size is unknown."""
_NO_KERNEL = {
    "Placeholder",
    "NoOp",
    "Const",
    "Identity",
    "StatefulPartitionedCall",
    "PartitionedCall",
}
"""Placed by the runtime itself, wherever their consumers are."""
_HOST_BY_DESIGN = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}


@pytest.fixture(scope="module")
def step() -> tf.Graph:
    """The traced step: gather, an MLP, gradients, and the updates of rows and dense weights."""
    slab = ElasticTable(
        {
            "vectors": SlabSpec(
                DIM, GroupAdam(0.1, l1=0.01, l2=0.01, l21=0.01, dynamic_l1=DynamicL1(2.0, 5))
            )
        },
        device="device",
    ).slabs["vectors"]
    weights = [tf.Variable(tf.ones([FIELDS * DIM, 8])), tf.Variable(tf.ones([8, 1]))]

    def learn(
        rows: tf.Tensor, inverse: tf.Tensor, counts: tf.Tensor, label: tf.Tensor, number: tf.Tensor
    ) -> tf.Tensor:
        vectors = slab.gather_rows(rows, inverse)
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            hidden = tf.nn.relu(tf.reshape(vectors, [-1, FIELDS * DIM]) @ weights[0])
            logits = (hidden @ weights[1])[:, 0]
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(label, logits))
        gradients = tape.gradient(loss, [vectors, *weights])
        slab.update_rows(rows, inverse, gradients[0], number, counts)
        for weight, gradient in zip(weights, gradients[1:], strict=True):
            weight.assign_sub(0.1 * gradient)
        return loss

    rows = tf.TensorSpec([None], tf.int32)
    label, number = tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int64)
    return (
        tf.function(learn, autograph=False)
        .get_concrete_function(rows, rows, rows, label, number)
        .graph
    )


def test_every_operation_of_the_step_has_a_gpu_kernel(step: tf.Graph) -> None:
    operations = list(_operations(step))
    without = sorted({f"{op.type} {_types(op)}" for op in operations if not _has_gpu_kernel(op)})
    assert without == []
    assert {"ResourceGather", "ResourceScatterUpdate", "MatMul", "UnsortedSegmentSum"} <= {
        op.type for op in operations
    }


def test_nothing_in_the_step_is_host_code(step: tf.Graph) -> None:
    assert not {op.type for op in _operations(step)} & _HOST_BY_DESIGN


def test_nothing_of_a_batch_passes_through_host_memory(step: tf.Graph) -> None:
    """Shapes, axes and handles may be arguments in host memory, rows and vectors may not."""
    host = {
        f"{op.type} {_types(op)}: {t.shape}"
        for op in _operations(step)
        for t in _in_host_memory(op)
        if not _is_small(t)
    }
    assert host == set()


def test_the_check_finds_what_passes_through_host_memory() -> None:
    traced = tf.function(lambda x: x > 0).get_concrete_function(
        tf.TensorSpec([None], tf.int32)
    )  # a trap: float32 would not
    assert any(not _is_small(t) for op in _operations(traced.graph) for t in _in_host_memory(op))


def test_the_check_finds_what_has_no_gpu_kernel() -> None:
    graph = (
        tf.function(lambda x: tf.strings.as_string(x))
        .get_concrete_function(tf.TensorSpec([None], tf.int64))
        .graph
    )
    assert any(not _has_gpu_kernel(op) for op in _operations(graph))
    host = tf.function(lambda x: tf.numpy_function(np.abs, [x], tf.int64)).get_concrete_function(
        tf.TensorSpec([], tf.int64)
    )
    assert {op.type for op in _operations(host.graph)} & _HOST_BY_DESIGN


def _operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """The operations of a graph and of the functions it calls."""
    yield from graph.get_operations()
    for name in graph._functions:
        yield from graph._get_function(name).graph.get_operations()


def _has_gpu_kernel(operation: tf.Operation) -> bool:
    return operation.type in _NO_KERNEL or any(
        _fits(kernel, operation) for kernel in _gpu_kernels(operation.type)
    )


def _gpu_kernels(kind: str) -> list[Any]:
    """GPU kernels and those for all devices; wheels for CPUs may list GPU kernels as well."""
    return [
        k
        for k in kernels.get_registered_kernels_for_op(kind).kernel
        if k.device_type in ("GPU", "DEFAULT")
    ]


def _fits(kernel: Any, operation: tf.Operation) -> bool:
    """Whether the kernel takes the types of the operation."""
    return all(
        _attribute(operation, c.name) in list(c.allowed_values.list.type) for c in kernel.constraint
    )


def _in_host_memory(operation: tf.Operation) -> list[tf.Tensor]:
    """The inputs and outputs that the operation's GPU kernel wants in host memory."""
    fitting = [kernel for kernel in _gpu_kernels(operation.type) if _fits(kernel, operation)]
    names = {name for kernel in fitting[:1] for name in kernel.host_memory_arg}
    definition = operation.op_def
    tensors = [*_named(definition.input_arg, operation.inputs, operation)]
    tensors += _named(definition.output_arg, operation.outputs, operation)
    return [tensor for name, tensor in tensors if name in names - _AXES]


def _named(
    arguments: Iterable[Any], tensors: Iterable[tf.Tensor], operation: tf.Operation
) -> list[tuple[str, tf.Tensor]]:
    """Tensors with the names of the arguments they are; an argument may be a list of tensors."""
    names = [
        arg.name
        for arg in arguments
        for _ in range(operation.get_attr(arg.number_attr) if arg.number_attr else 1)
    ]
    return list(zip(names, tensors, strict=True))


def _is_small(tensor: tf.Tensor) -> bool:
    """Whether the tensor's size does not depend on the batch."""
    return tensor.dtype == tf.resource or (
        tensor.shape.is_fully_defined() and tensor.shape.num_elements() <= _FEW
    )


def _attribute(operation: tf.Operation, name: str) -> int:
    value = operation.node_def.attr[name]
    return value.type or (value.list.type[0] if value.list.type else 0)


def _types(operation: tf.Operation) -> str:
    return ", ".join(
        f"{name}={value.type}" for name, value in operation.node_def.attr.items() if value.type
    )
