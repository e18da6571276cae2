"""A finished run is not run again; a broken one leaves nothing; whatever a run depends on gives it
another name.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from harness.cache import Cache, digest

FIGURES = {"examples_per_s": 5.0, "valid_auc": [0.5]}


def run(answer: Path) -> dict[str, object]:
    np.savez(answer, valid=np.array([0.25], np.float32), test=np.array([0.5], np.float32))
    return FIGURES


def never(_: Path) -> dict[str, object]:
    raise AssertionError("it was run again")


def test_the_second_time_it_is_read(tmp_path: Path):
    cache = Cache(tmp_path / "results")
    path = cache.path("ours_lr", 1, settings={"dim": 10})
    first, again = cache.get_or_run(path, run), cache.get_or_run(path, never)
    assert again.figures == first.figures == FIGURES
    np.testing.assert_array_equal(again.test, [0.5])
    np.testing.assert_array_equal(again.valid, [0.25])


def test_another_seed_setting_or_source_is_another_run(tmp_path: Path):
    cache = Cache(tmp_path)
    described = [
        ("m", 1, 10, "s"),
        ("m", 2, 10, "s"),
        ("n", 1, 10, "s"),
        ("m", 1, 16, "s"),
        ("m", 1, 10, "t"),
    ]
    paths = {
        cache.path(model, seed, settings={"dim": dim}, source=source)
        for model, seed, dim, source in described
    }
    assert len(paths) == len(described)
    assert cache.path("m", 1, a=1, b=2) == cache.path("m", 1, b=2, a=1)


def test_a_run_that_breaks_after_its_answer_is_run_again(tmp_path: Path):
    def breaks(answer: Path) -> dict[str, object]:
        run(answer)
        raise KeyboardInterrupt

    cache = Cache(tmp_path)
    path = cache.path("m", 1)
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_run(path, breaks)
    assert cache.get(path) is None
    assert cache.get_or_run(path, run).figures == FIGURES


def test_the_figures_on_disk_are_plain_json(tmp_path: Path):
    cache = Cache(tmp_path)
    path = cache.path("m", 1)
    cache.get_or_run(path, run)
    assert json.loads(path.read_text()) == FIGURES
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".npz"]


def test_a_digest_is_of_names_and_bytes(tmp_path: Path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("a")
    two.write_text("a")
    assert digest([one]) != digest([two])
    before = digest([one])
    one.write_text("b")
    assert digest([one]) != before
