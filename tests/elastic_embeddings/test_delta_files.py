"""Full + deltas = full, for any history; gaps and foreign deltas are refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_tables import Model, digests, scratch, some_table, streams_of

from elastic_embeddings.storage.checkpoint import read_array, read_header, write_table
from elastic_embeddings.storage.delta import DeltaFile, fold, tombstone_arrays, write_delta
from features.errors import InputError

KEYS = st.one_of(st.integers(-6, 6), st.sampled_from([-(2**63), 2**63 - 1]))
EVENT = st.one_of(
    st.tuples(st.just("learn"), st.lists(KEYS, max_size=8)),
    st.tuples(st.just("delete"), st.lists(KEYS, max_size=4)),
    st.tuples(st.just("save"), st.none()),
)


def save_full(model, folder):
    write_table(folder, model.header(), model.arrays())
    return folder


def save_delta(model, folder, since):
    write_delta(folder, model.header(since), model.arrays(since))
    return folder


def replay(history, folder):
    """A full table of the start, a delta at each save, the full table of the end."""
    model, deltas, since = Model(), [], 0
    save_full(model, folder / "start")
    for kind, keys in [*history, ("save", None)]:
        if kind == "learn":
            model.learn(keys)
        elif kind == "delete":
            model.delete(keys)
        else:
            deltas.append(save_delta(model, folder / f"delta-{len(deltas)}", since))
            since = model.step
    return folder / "start", deltas, save_full(model, folder / "end")


@pytest.mark.slow
@given(st.lists(EVENT, max_size=25))
@settings(max_examples=40, deadline=None)
def test_a_full_table_and_its_deltas_give_the_bytes_of_the_full_table_after_them(history):
    with scratch() as folder:
        start, deltas, end = replay(history, folder)
        fold(start, deltas, folder / "folded")
        assert digests(folder / "folded") == digests(end)


@given(st.lists(EVENT, max_size=15), st.lists(EVENT, max_size=15))
@settings(max_examples=12, deadline=None)
def test_folding_in_two_goes_is_folding_at_once(before, after):
    with scratch() as folder:
        start, deltas, end = replay([*before, ("save", None), *after], folder)
        cut = 1 + sum(kind == "save" for kind, _ in before)
        fold(start, deltas[:cut], folder / "middle")
        fold(folder / "middle", deltas[cut:], folder / "middle")  # in place
        assert digests(folder / "middle") == digests(end)


def test_a_key_deleted_and_seen_again_moves_to_the_end(tmp_path):
    model = Model()
    model.learn([1, 2, 3, 1, 2, 3])
    full = save_full(model, tmp_path / "full")
    model.delete([2, 3])
    model.learn([4, 2])
    fold(full, [save_delta(model, tmp_path / "delta", 1)], tmp_path / "out")
    header = read_header(tmp_path / "out")
    assert read_array(tmp_path / "out", header, "keys").tolist() == [1, 4, 2]
    assert read_array(tmp_path / "out", header, "counts").tolist() == [2, 1, 1]
    assert read_array(tmp_path / "out", header, "admitted").tolist() == [True, False, False]
    assert (header.kind, header.since, header.step) == ("full", None, 2)


def test_what_is_deleted_after_a_save_and_before_the_next_step_is_in_the_delta(tmp_path):
    model = Model()
    model.learn([1, 2])
    full = save_full(model, tmp_path / "full")
    model.delete([2])
    delta = save_delta(model, tmp_path / "delta", since=1)
    assert DeltaFile.open(delta).tombstones.tolist() == [2]
    fold(full, [delta], tmp_path / "out")
    assert read_array(tmp_path / "out", read_header(tmp_path / "out"), "keys").tolist() == [1]


def test_a_delta_holds_what_was_touched_and_no_more(tmp_path):
    model = some_table()
    since = model.step
    model.learn([2, 2, 10**6])
    delta = DeltaFile.open(save_delta(model, tmp_path / "delta", since))
    assert set(delta.keys.tolist()) == {2, 10**6}
    assert delta.admitted.tolist() == [True, False]
    assert (delta.last_seen == since + 1).all()
    rows = read_array(delta.folder, delta.header, "deep.weights")
    np.testing.assert_array_equal(rows, [model.entries[2].row[4:7]])


def test_forgotten_deletions_are_left_out_and_a_delta_that_needs_them_is_refused(tmp_path):
    model = Model()
    model.learn([1, 2])
    full = save_full(model, tmp_path / "full")
    model.delete([1])  # at step 2
    model.learn([3])
    first = save_delta(model, tmp_path / "first", 1)
    model.delete([2])  # at step 3
    pruned = replace(model.header(2), deletions_since=2)
    write_delta(tmp_path / "second", pruned, model.arrays(2))
    header = fold(full, [first, tmp_path / "second"], tmp_path / "out")
    assert header.deletions_since == 2
    assert read_array(tmp_path / "out", header, "tombstones").tolist() == [2]
    with pytest.raises(InputError, match="deletions up to step 2 are forgotten, a delta since 1"):
        write_delta(tmp_path / "late", replace(pruned, since=1), model.arrays(1))


def test_a_gap_in_the_chain_is_refused_and_both_steps_are_named(tmp_path):
    model = some_table()
    full = save_full(model, tmp_path / "full")
    for name in ("first", "second"):
        model.learn([1])
        save_delta(model, tmp_path / name, model.step - 1)
    with pytest.raises(InputError, match=r"second is the delta since step 7, .*full is at step 6"):
        fold(full, [tmp_path / "second"], tmp_path / "out")
    for step in (6, 8):
        with pytest.raises(InputError, match=f"delta since step 7, this table is at step {step}"):
            DeltaFile.open(tmp_path / "second").check_follows(step)
    DeltaFile.open(tmp_path / "second").check_follows(7)
    assert not (tmp_path / "out").exists()


def test_a_full_table_is_no_delta_and_the_other_way_round(tmp_path):
    model = some_table()
    full, delta = save_full(model, tmp_path / "full"), save_delta(model, tmp_path / "delta", 3)
    with pytest.raises(InputError, match="full holds a full table, a delta one is needed"):
        fold(full, [full], tmp_path / "out")
    with pytest.raises(InputError, match="delta holds a delta table, a full one is needed"):
        fold(delta, [], tmp_path / "out")
    with pytest.raises(InputError, match="a delta one is needed"):
        DeltaFile.open(full)


def test_a_header_that_is_no_deltas_is_refused(tmp_path):
    model = some_table()
    for header in (model.header(), model.header(99), replace(model.header(3), since=None)):
        with pytest.raises(InputError, match="is no delta: give 0 <= since <= step"):
            write_delta(tmp_path / "delta", header, model.arrays(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fields": ("item", "user")}, "saved from another table"),
        ({"shard": 1, "shards": 2}, "saved from another table"),
        ({"slabs": {}}, "with the same slabs and slots"),
    ],
    ids=["fields", "shard", "slabs"],
)
def test_a_delta_of_another_table_is_refused(tmp_path, change, message):
    model = some_table()
    full = save_full(model, tmp_path / "full")
    arrays = model.arrays(model.step)
    kept = {
        name: array
        for name, array in arrays.items()
        if "slabs" not in change or not name.startswith(("wide", "deep"))
    }
    write_delta(tmp_path / "delta", replace(model.header(model.step), **change), kept)
    with pytest.raises(InputError, match=message):
        fold(full, [tmp_path / "delta"], tmp_path / "out")


def test_a_new_field_may_follow_the_old_ones(tmp_path):
    model = some_table()
    full = save_full(model, tmp_path / "full")
    arrays = {
        name: np.concatenate(list(s.chunks) or [np.zeros(s.shape, s.dtype)])
        for name, s in model.arrays(6).items()
    }
    counters = {
        name: np.append(array, 0) for name, array in arrays.items() if name.startswith("counters")
    }
    header = replace(model.header(6), fields=("user", "item", "city"))
    write_delta(tmp_path / "delta", header, streams_of(arrays | counters))
    assert fold(full, [tmp_path / "delta"], tmp_path / "out").fields == ("user", "item", "city")


@pytest.mark.parametrize("folder", ["full", "delta"])
def test_damage_is_found_before_anything_is_written(tmp_path, folder):
    model = some_table()
    full = save_full(model, tmp_path / "full")
    model.learn([1, 1, 2])
    delta = save_delta(model, tmp_path / "delta", 6)
    path = tmp_path / folder / "deep.accumulator.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=rf"{folder}/deep\.accumulator\.npy differs from its checksum"
    ):
        fold(full, [delta], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tombstones_are_in_order_of_step_and_key():
    keys, steps = np.array([5, -3, 9, 2]), np.array([4, 2, 2, 1], np.int32)
    found = {
        name: next(iter(stream.chunks))
        for name, stream in tombstone_arrays((keys, steps), 1).items()
    }
    assert found["tombstones"].tolist() == [-3, 9, 5]
    assert found["tombstone_steps"].tolist() == [2, 2, 4]
    assert found["tombstone_steps"].dtype == np.int32
