"""The workload is the same for everybody, and has the law that its module says."""

from pathlib import Path

import numpy as np
import pytest
from elastic_peers.workload import (
    Workload,
    cardinalities,
    initial_layers,
    keys_of,
    read,
    traffic,
    write,
)

SMALL = Workload(rows=20_000, batch=512, smallest=50, batches=3)


def test_the_default_cardinalities_are_those_that_the_module_names():
    sizes = cardinalities(Workload())
    assert sizes.sum() == 4_000_000
    assert (sizes[0], sizes[-1]) == (1000, 961_709)
    assert (np.diff(sizes) > 0).all()


def test_the_same_work_gives_the_same_bytes_and_another_seed_others():
    first, second, other = (
        traffic(SMALL),
        traffic(SMALL),
        traffic(Workload(rows=20_000, batch=512, smallest=50, batches=3, seed=18)),
    )
    assert first.ids.tobytes() == second.ids.tobytes()
    assert first.labels.tobytes() == second.labels.tobytes()
    assert first.ids.tobytes() != other.ids.tobytes()


def test_what_is_written_is_what_another_process_reads(tmp_path: Path):
    drawn = write(SMALL, tmp_path)
    work, again = read(tmp_path)
    assert work == SMALL
    np.testing.assert_array_equal(again.keys, drawn.keys)
    np.testing.assert_array_equal(again.labels, drawn.labels)


def test_a_field_follows_the_bounded_zipf_law():
    work = Workload(rows=1000, fields=1, batch=200_000, smallest=1000, batches=1)
    counts = np.sort(np.bincount(traffic(work).ids[0], minlength=1000))[::-1]
    expected = np.arange(1, 1001) ** -1.1
    expected *= work.batch / expected.sum()
    assert np.abs(counts[:50] / expected[:50] - 1).max() < 0.15
    assert len(counts) == 1000


def test_keys_are_as_different_as_the_ids():
    ids = np.arange(100_000)
    assert len(np.unique(keys_of(ids))) == len(ids)


@pytest.mark.parametrize(
    ("hidden", "shapes"), [("128x64", [(416, 128), (128, 64), (64, 1)]), ("8", [(416, 8), (8, 1)])]
)
def test_every_system_starts_from_the_same_layers(hidden: str, shapes: list[tuple[int, int]]):
    layers = initial_layers(SMALL, hidden)
    assert [weights.shape for weights, _ in layers] == shapes
    again = initial_layers(SMALL, hidden)
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(layers, again, strict=True))
