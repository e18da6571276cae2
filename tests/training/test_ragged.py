"""Ragged lists against Python lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from elastic_embeddings.core.ragged import Ragged

LISTS = st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4), min_size=1, max_size=12)


def ragged(lists):
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64)
    return Ragged(np.array([v for x in lists for v in x], np.int64), offsets)


def as_lists(values):
    return [
        values.values[a:b].tolist()
        for a, b in zip(values.offsets[:-1], values.offsets[1:], strict=True)
    ]


@given(LISTS, st.data())
def test_take(lists, data):
    indices = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=10))
    assert as_lists(ragged(lists).take(np.array(indices, np.int64))) == [lists[i] for i in indices]


@given(LISTS, st.data())
def test_slice(lists, data):
    start = data.draw(st.integers(0, len(lists)))
    stop = data.draw(st.integers(start, len(lists)))
    assert as_lists(ragged(lists).slice(start, stop)) == lists[start:stop]


@given(LISTS)
def test_keep(lists):
    values = ragged(lists)
    assert as_lists(values.keep(values.values > 0)) == [[v for v in x if v > 0] for x in lists]


@given(LISTS)
def test_lengths(lists):
    assert ragged(lists).lengths().tolist() == [len(x) for x in lists]
    assert len(ragged(lists)) == len(lists)
