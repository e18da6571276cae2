"""Scratch memory: used again when it is free, and never while anything refers to it."""

import gc

import numpy as np
import pytest

from elastic_embeddings.core.memory import scratch_array

SHAPE = (30_000, 16)


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.slow
def test_memory_is_used_again_once_nothing_refers_to_it():
    first = scratch_array(SHAPE, np.float32)
    where = address(first)
    assert where % 4096 == 0
    del first
    gc.collect()
    assert address(scratch_array(SHAPE, np.float32)) == where


def test_memory_is_not_used_again_while_a_view_lives():
    """A view of a view, a slice and a reshape keep the memory as the array itself does."""
    kept = scratch_array(SHAPE, np.float32)[5:].reshape(-1)[::2].view(np.int32)
    kept[:] = 7
    others = [scratch_array(SHAPE, np.float32) for _ in range(4)]
    for other in others:
        other[:] = 0
    assert (kept == 7).all()
    assert not any(np.shares_memory(kept, other) for other in others)


def test_two_arrays_at_once_do_not_share():
    one, two = scratch_array(SHAPE, np.float32), scratch_array(SHAPE, np.float32)
    assert not np.shares_memory(one, two)


def test_small_and_empty_arrays_are_ordinary():
    assert scratch_array((3, 2), np.float32).shape == (3, 2)
    assert scratch_array((0, 16), np.uint16).size == 0


@pytest.mark.slow
def test_a_tensor_over_scratch_memory_keeps_it():
    import tensorflow as tf

    from elastic_embeddings.slabs.slab import as_tensor

    array = scratch_array(SHAPE, np.float32)
    array[:] = 3
    where, tensor = address(array), as_tensor(array)
    del array
    gc.collect()
    others = [scratch_array(SHAPE, np.float32) for _ in range(4)]
    assert where not in [address(other) for other in others]
    assert bool(tf.reduce_all(tensor == 3))
    small = np.arange(6, dtype=np.float32)[1:]
    np.testing.assert_array_equal(as_tensor(small), small)
