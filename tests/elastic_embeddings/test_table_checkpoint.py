"""Saving and restoring: the same bytes, the same future, and nothing damaged accepted for sound."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from elastic_embeddings import (
    CountAdmission,
    ElasticTable,
    Eviction,
    GroupAdam,
    GroupFTRL,
    Idle,
    SlabSpec,
    read_vectors,
)
from elastic_embeddings.storage.checkpoint import read_header
from features.errors import InputError

ROW_ARRAYS = {f"{s}.{v}" for s in ("wide", "deep") for v in ("weights", "z", "m", "v")}
COUNTERS = {f"counters.{name}" for name in ("events", "hits", "admitted", "evicted", "revived")}
TOMBSTONES = {"tombstones", "tombstone_steps"}
ARRAYS = {"keys", "counts", "last_seen", "admitted", "fields"} | TOMBSTONES | COUNTERS | ROW_ARRAYS


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
        table.apply_gradients(batch, gradients)
    return table


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def saved(tmp_path):
    learn(new_table(), batches(8)).save(tmp_path / "table")
    return tmp_path / "table"


def test_the_folder_holds_plain_arrays_and_a_header(saved):
    assert {path.name for path in saved.iterdir()} == {f"{name}.npy" for name in ARRAYS} | {
        "table.json"
    }
    header = json.loads((saved / "table.json").read_text())["header"]
    assert set(header["arrays"]) == ARRAYS
    assert (header["step"], header["kind"], header["seed"]) == (8, "full", 5)
    assert header["slabs"]["deep"]["optimizer"] == "GroupAdam"
    assert header["slabs"]["deep"]["parameters"]["l21"] == 0.02
    for name, described in header["arrays"].items():
        array = np.load(saved / f"{name}.npy", allow_pickle=False)
        assert list(array.shape) == described["shape"]
        assert array.dtype.str == described["dtype"]


def test_slab_arrays_hold_the_used_rows_only(saved):
    admitted = np.load(saved / "admitted.npy")
    used = np.count_nonzero(admitted)
    assert 0 < used < len(admitted)
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


@pytest.mark.process
def test_vectors_are_read_without_tensorflow(saved):
    code = (
        "import sys, pathlib; from elastic_embeddings import read_vectors;"
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
    [
        ('"step": 8', '"step": 9', "checksum"),
        ('"header"', '"haeder"', "cannot be read"),
        ("{", "", "cannot be read"),
    ],
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


def test_another_rule_starts_with_fresh_state_and_says_so(saved, caplog):
    specs = {"wide": SlabSpec(1, GroupAdam(0.1), 0.0), "deep": SlabSpec(4, GroupFTRL(0.1), 0.1)}
    table, before = ElasticTable(specs, CountAdmission(2)), new_table().restore(saved)
    with caplog.at_level("WARNING"):
        table.restore(saved)
    assert "slab deep starts with fresh state, it was trained with GroupAdam" in caplog.text
    keys = before.keys()
    np.testing.assert_array_equal(table.lookup(keys, "deep"), before.lookup(keys, "deep"))
    learn(table, [(keys, {"wide": np.zeros((len(keys), 1)), "deep": np.zeros((len(keys), 4))})])
    np.testing.assert_allclose(table.lookup(keys, "deep"), before.lookup(keys, "deep"), rtol=1e-5)


def test_another_learning_rate_keeps_the_vectors(saved):
    table, before = new_table(learning_rate=0.5).restore(saved), new_table().restore(saved)
    keys = before.keys()
    np.testing.assert_array_equal(table.lookup(keys, "deep"), before.lookup(keys, "deep"))
    rule, x = table.slabs["deep"].spec.optimizer, table.lookup(keys, "deep")
    z, v = (table.slabs["deep"].read_state(table.find(keys), slice(i, i + 4)) for i in (0, 8))
    # The dual sum that the step's closed form turns into x (fault H3).
    scaled = (np.sqrt(v) + rule.epsilon) / 0.5 * x
    norm, nonzero = np.linalg.norm(scaled, axis=1, keepdims=True), x.any(axis=1)
    expected = -scaled[nonzero] * (1 + 0.02 * 2 / norm[nonzero])
    np.testing.assert_allclose(z[nonzero], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_table_goes_on_in_16_bits(saved, tmp_path, dtype):
    rule = GroupFTRL(0.1) if dtype == "float16" else GroupAdam(0.1)
    specs = {n: SlabSpec(d, rule, 0.1, dtype) for n, d in (("wide", 1), ("deep", 4))}
    before = new_table().restore(saved)
    half = ElasticTable(specs, CountAdmission(2)).restore(saved)
    np.testing.assert_allclose(
        half.lookup(before.keys(), "deep"),
        before.lookup(before.keys(), "deep"),
        rtol=1e-2,
        atol=1e-4,
    )
    learn(half, batches(4, start=8)).save(tmp_path / "half")
    again = ElasticTable(specs, CountAdmission(2)).restore(tmp_path / "half")
    np.testing.assert_array_equal(
        again.lookup(half.keys(), "deep"), half.lookup(half.keys(), "deep")
    )
    assert np.load(tmp_path / "half" / "deep.z.npy").itemsize == 2


def test_keys_of_a_removed_field_stay_until_they_are_evicted(tmp_path):
    both = ElasticTable(SlabSpec(2), fields=("user", "item"))
    both.apply_gradients(
        both.prepare(np.array([1, 2, 3]), np.array([0, 1, 1], np.int16)), np.ones((3, 2))
    )
    both.save(tmp_path)
    fewer = ElasticTable(SlabSpec(2), fields=("item", "tag")).restore(tmp_path)
    assert fewer.fields == ("item", "tag", "user")
    rows = {name: field.rows for name, field in fewer.statistics().fields.items()}
    assert rows == {"item": 2, "tag": 0, "user": 1}
    np.testing.assert_array_equal(
        fewer.lookup(np.array([1, 2, 3])), both.lookup(np.array([1, 2, 3]))
    )
    fewer.apply_gradients(
        fewer.prepare(np.array([2, 3, 4]), np.array([0, 0, 1], np.int16)), np.ones((3, 2))
    )
    assert fewer.evict(Eviction((Idle(steps=1),))) == 1
    assert fewer.keys().tolist() == [2, 3, 4]


def test_a_delta_that_starts_elsewhere_is_refused(saved, tmp_path):
    table = learn(new_table().restore(saved), batches(2, start=8))
    table.save_delta(tmp_path / "delta", since=9)
    with pytest.raises(InputError, match="is the delta since step 9, this table is at step 8"):
        new_table().restore(saved).apply_delta(tmp_path / "delta")
    with pytest.raises(InputError, match="apply_delta"):
        new_table().restore(tmp_path / "delta")


def test_no_array_needs_pickle(saved):
    """An object array, which only pickle can read, is refused with a rewritten header too."""
    path = saved / "keys.npy"
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"keys\.npy"):
        read_vectors(saved)
