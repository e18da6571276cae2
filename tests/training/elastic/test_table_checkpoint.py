"""Saving and restoring: the same bytes, the same future, and nothing damaged taken for sound."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from features.errors import InputError
from training.elastic import CountAdmission, ElasticTable, GroupAdam, SlabSpec, read_vectors
from training.elastic.checkpoint import read_header

ARRAYS = {"keys", "counts", "last_seen", "rows"} | {f"{s}.{v}" for s in ("wide", "deep") for v in ("weights", "z", "m", "v")}


def new_table(dim=4, learning_rate=0.1, seed=5):
    specs = {
        "wide": SlabSpec(1, GroupAdam(learning_rate=learning_rate, l1=0.01), 0.0),
        "deep": SlabSpec(dim, GroupAdam(learning_rate=learning_rate, l21=0.02), 0.1),
    }
    return ElasticTable(specs, CountAdmission(2), seed)


def batches(count, start=0):
    """Growing key ranges and gradients, a function of the batch's number alone."""
    for i in range(start, start + count):
        rng = np.random.default_rng(i)
        keys = rng.integers(-20 * (i + 1), 20 * (i + 1), 300)
        yield keys, {"wide": rng.normal(size=(300, 1)), "deep": rng.normal(size=(300, 4))}


def learn(table, stream):
    for keys, gradients in stream:
        batch = table.prepare(keys)
        table.materialise(batch)
        table.apply_gradients(batch, gradients)
    return table


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def saved(tmp_path):
    learn(new_table(), batches(8)).save(tmp_path / "table")
    return tmp_path / "table"


def test_the_folder_holds_plain_arrays_and_a_header(saved):
    assert {path.name for path in saved.iterdir()} == {f"{name}.npy" for name in ARRAYS} | {"table.json"}
    header = json.loads((saved / "table.json").read_text())["header"]
    assert set(header["arrays"]) == ARRAYS
    assert (header["step"], header["batches"], header["seed"]) == (8, 8, 5)
    assert header["slabs"]["deep"]["optimizer"]["l21"] == 0.02
    for name, described in header["arrays"].items():
        array = np.load(saved / f"{name}.npy", allow_pickle=False)
        assert list(array.shape) == described["shape"]
        assert array.dtype.str == described["dtype"]


def test_slab_arrays_hold_the_used_rows_only(saved):
    rows = np.load(saved / "rows.npy")
    used = int(rows.max())
    assert sorted(rows[rows > 0]) == list(range(1, used + 1))
    assert 0 < used < len(rows)
    assert np.load(saved / "deep.z.npy").shape == (used, 4)


def test_restore_gives_every_array_back(saved, tmp_path):
    restored = new_table().restore(saved)
    restored.save(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(saved)


def test_the_same_seed_and_data_give_the_same_bytes(saved, tmp_path):
    learn(new_table(), batches(8)).save(tmp_path / "twin")
    assert digests(tmp_path / "twin") == digests(saved)


def test_learning_on_after_a_restore_equals_never_having_stopped(saved, tmp_path):
    learn(new_table().restore(saved), batches(12, start=8)).save(tmp_path / "resumed")
    learn(new_table(), batches(20)).save(tmp_path / "straight")
    assert digests(tmp_path / "resumed") == digests(tmp_path / "straight")


def test_restore_replaces_what_a_used_table_held(saved, tmp_path):
    used = learn(new_table(), batches(30, start=100))
    used.restore(saved).save(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(saved)


def test_an_empty_table_is_saved_and_restored(tmp_path):
    new_table().save(tmp_path / "empty")
    restored = new_table().restore(tmp_path / "empty")
    assert len(restored) == restored.keys_seen == 0
    assert (restored.lookup(np.array([1]), "deep") == 0).all()
    learn(restored, batches(1))
    assert len(restored) > 0


def test_a_new_day_may_change_strengths_and_seed_but_not_widths(saved):
    restored = new_table(learning_rate=0.5, seed=9).restore(saved)
    assert restored.slabs["deep"].spec.optimizer.learning_rate == 0.5
    with pytest.raises(InputError, match="give the saved widths"):
        new_table(dim=8).restore(saved)
    with pytest.raises(InputError, match="slabs"):
        ElasticTable({"deep": SlabSpec(4, GroupAdam(), 0.1)}).restore(saved)


def test_vectors_are_read_without_optimizer_state(saved):
    table = new_table().restore(saved)
    vectors = read_vectors(saved)
    np.testing.assert_array_equal(vectors.keys, table.keys())
    assert (vectors.counts >= 2).all()
    for name in ("wide", "deep"):
        np.testing.assert_array_equal(vectors.vectors[name], table.lookup(vectors.keys, name))


def test_vectors_are_read_without_tensorflow(saved):
    code = (
        "import sys, pathlib; from training.elastic import read_vectors;"
        f"print(len(read_vectors(pathlib.Path({str(saved)!r})).keys));"
        "assert not {'tensorflow', 'numba'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(read_vectors(saved).keys)


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_one_flipped_bit_in_any_array_is_refused_and_named(saved, name):
    path = saved / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}.npy differs from its checksum"):
        new_table().restore(saved)


@pytest.mark.parametrize("name", ["keys", "deep.v"])
def test_a_missing_array_is_refused_and_named(saved, name):
    (saved / f"{name}.npy").unlink()
    with pytest.raises(InputError, match=f"{name}.npy is missing"):
        new_table().restore(saved)


def test_a_truncated_array_is_refused(saved):
    path = saved / "deep.weights.npy"
    path.write_bytes(path.read_bytes()[:-64])
    for read in (new_table().restore, read_vectors):
        with pytest.raises(InputError, match=r"deep\.weights\.npy"):
            read(saved)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [('"step": 8', '"step": 9', "checksum"), ('"header"', '"haeder"', "cannot be read"), ("{", "", "cannot be read")],
    ids=["edited", "no header", "no JSON"],
)
def test_a_damaged_header_is_refused_and_named(saved, before, after, message):
    path = saved / "table.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(InputError, match=rf"table\.json .*{message}"):
        read_header(saved)


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"table\.json is missing"):
        new_table().restore(tmp_path)


def test_a_failed_restore_leaves_the_table_as_it_was(saved, tmp_path):
    table = learn(new_table(), batches(3, start=50))
    table.save(tmp_path / "before")
    path = saved / "deep.v.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(InputError):
        table.restore(saved)
    table.save(tmp_path / "after")
    assert digests(tmp_path / "after") == digests(tmp_path / "before")


def test_saving_between_prepare_and_materialise_is_refused(tmp_path):
    table = new_table()
    table.prepare(np.array([1, 1, 2]))
    with pytest.raises(InputError, match="1 rows of prepared batches"):
        table.save(tmp_path / "table")
    assert not (tmp_path / "table").exists()


def test_no_array_needs_pickle(saved):
    """An object array, which only pickle can read, must not slip through a rewritten header either."""
    path = saved / "keys.npy"
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"keys\.npy"):
        read_vectors(saved)
