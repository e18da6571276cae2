"""The lossless cut: what is dropped, what stays, what is reported."""

import json

import numpy as np
import numpy_reference
import pytest

from compression.pruning import compress
from compression.settings import CompressionSettings
from elastic_embeddings.storage.checkpoint import read_header
from features.errors import InputError
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import read_checkpoint


def cut(checkpoint, folder, **settings):
    folder.mkdir()
    return compress(checkpoint, CompressionSettings(**settings), folder)


def test_no_zero_row_survives_and_every_other_row_does(checkpoint, compressed):
    before, after = read_checkpoint(checkpoint), read_checkpoint(compressed)
    zero = np.all(before.vectors["wide"] == 0, axis=1) & np.all(before.vectors["deep"] == 0, axis=1)
    assert zero.mean() > 0.05  # else this test would prove nothing
    np.testing.assert_array_equal(after.keys, before.keys[~zero])
    for slab in ("wide", "deep"):
        np.testing.assert_array_equal(after.vectors[slab], before.vectors[slab][~zero])
    assert not np.any(
        np.all(after.vectors["wide"] == 0, axis=1) & np.all(after.vectors["deep"] == 0, axis=1)
    )


def test_a_row_that_is_zero_in_one_slab_only_stays(compressed):
    after = read_checkpoint(compressed)
    only_wide = np.all(after.vectors["wide"] == 0, axis=1)
    assert only_wide.any()
    assert np.all(np.any(after.vectors["deep"][only_wide] != 0, axis=1))


def test_the_files_are_those_of_the_contract(compressed):
    files = sorted(
        str(path.relative_to(compressed)) for path in compressed.rglob("*") if path.is_file()
    )
    assert files == [
        "dense.npz",
        "encodings.npz",
        "model.json",
        "report.json",
        "table/deep.npy",
        "table/keys.npy",
        "table/wide.npy",
    ]
    keys, wide = (
        np.load(compressed / "table" / f"{name}.npy", allow_pickle=False)
        for name in ("keys", "wide")
    )
    assert keys.dtype == np.int64
    assert np.all(np.diff(keys) > 0)
    assert (wide.dtype, wide.shape) == (np.float32, (len(keys), 1))


def test_the_cut_changes_no_prediction(checkpoint, compressed, trained_on):
    some = trained_on.slice(0, 60)
    np.testing.assert_array_equal(
        numpy_reference.probabilities(compressed, some),
        numpy_reference.probabilities(checkpoint, some),
    )


def test_the_cut_changes_no_bit_of_the_trainers_scores(checkpoint, compressed, trained_on):
    before, after = (Scorer.load(folder).score(trained_on) for folder in (checkpoint, compressed))
    assert before.tobytes() == after.tobytes()
    assert before.std() > 0.05


def test_the_report_counts_rows_and_bytes(checkpoint, compressed):
    report = json.loads((compressed / "report.json").read_text())
    seen = read_header(checkpoint / "table").arrays["keys"].shape[0]
    assert report["rows_before"] == report["rows_after"] + report["zero_rows"]
    assert seen > report["rows_before"] == len(read_checkpoint(checkpoint).keys)
    assert report["bytes_before"] > report["bytes_before_weights"] > report["bytes_after"] > 0
    on_disk = {
        p: (compressed / p).stat().st_size for p in ("dense.npz", "encodings.npz", "model.json")
    }
    on_disk["table"] = sum(p.stat().st_size for p in (compressed / "table").iterdir())
    assert report["parts_after"] == on_disk
    assert sum(on_disk.values()) == report["bytes_after"]
    assert set(report["parts_before"]) == {
        "table",
        "dense.npz",
        "optimizer.npz",
        "encodings.npz",
        "model.json",
    }


def test_compressing_leaves_the_checkpoint_alone_and_is_deterministic(
    checkpoint, compressed, tmp_path
):
    before = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    cut(checkpoint, tmp_path / "again")
    assert {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()} == before
    for path in compressed.rglob("*.np*"):
        assert (tmp_path / "again" / path.relative_to(compressed)).read_bytes() == path.read_bytes()


def test_compressing_what_is_compressed_changes_nothing(compressed, tmp_path):
    report = cut(compressed, tmp_path / "twice")
    assert report.zero_rows == 0
    assert report.parts_before == report.parts_after


def test_a_tolerance_drops_rows_by_their_largest_value(checkpoint, tmp_path):
    before = read_checkpoint(checkpoint)
    largest = np.maximum(
        np.abs(before.vectors["wide"]).max(axis=1), np.abs(before.vectors["deep"]).max(axis=1)
    )
    tolerance = float(np.median(largest))
    report = cut(checkpoint, tmp_path / "lossy", zero_tolerance=tolerance)
    np.testing.assert_array_equal(
        read_checkpoint(tmp_path / "lossy").keys, before.keys[largest > tolerance]
    )
    assert report.zero_rows == int((largest <= tolerance).sum())


def test_a_row_of_nan_is_not_taken_for_zero(compressed, tmp_path):
    broken = tmp_path / "broken"
    cut(compressed, broken)
    deep = np.load(broken / "table" / "deep.npy")
    deep[0] = np.nan
    np.save(broken / "table" / "deep.npy", deep)
    assert cut(broken, tmp_path / "again", zero_tolerance=1e9).rows_after == 1


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        cut(tmp_path / "nothing", tmp_path / "out")
