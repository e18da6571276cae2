"""JSON without NaN, and files that appear whole."""

import json

import numpy as np
import pytest

from features.files import atomic_folder, folder_bytes, write_atomically
from features.json_safe import json_safe


def test_numbers_that_are_not_finite_become_null():
    value = {
        "a": float("nan"),
        "b": [1.5, float("inf")],
        "c": (np.float32(2.0), np.int64(3)),
        "d": "x",
    }
    assert json.dumps(json_safe(value)) == '{"a": null, "b": [1.5, null], "c": [2.0, 3], "d": "x"}'


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path):
    target = tmp_path / "made"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("12345")
        assert not target.exists()
    assert folder_bytes(target) == 5
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as folder:
        (folder / "b").write_text(str(1 // 0))
    assert [entry.name for entry in target.iterdir()] == ["a"]
