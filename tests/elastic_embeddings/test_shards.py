"""A table in shards: every key in its own shard, and the same bytes when they are merged."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_tables import digests, scratch, some_table, streams_of

from elastic_embeddings.storage.checkpoint import read_array, read_header, read_vectors, write_table
from elastic_embeddings.storage.delta import fold, write_delta
from elastic_embeddings.storage.shards import (
    merge,
    read_shards,
    reshard,
    seal,
    shard_folders,
    shard_of,
    split,
)
from features.errors import InputError


def mixed(key):
    """splitmix64's finaliser in Python's own integers."""
    bits = (key + 0x9E3779B97F4A7C15) % 2**64
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
    return bits ^ bits >> 31


@pytest.fixture
def model():
    return some_table()


@pytest.fixture
def table(model, tmp_path):
    write_table(tmp_path / "table", model.header(), model.arrays())
    return tmp_path / "table"


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), st.integers(1, 9))
def test_the_shard_of_a_key_is_its_hash_modulo(keys, shards):
    assert shard_of(np.array(keys, np.int64), shards).tolist() == [
        mixed(key) % shards for key in keys
    ]


@given(st.integers(0, 5), st.lists(st.integers(1, 6), min_size=1, max_size=3))
@settings(max_examples=10, deadline=None)
def test_through_any_numbers_of_shards_and_back_gives_the_same_bytes(seed, counts):
    with scratch() as folder:
        model = some_table(seed, entries=40)
        write_table(folder / "table", model.header(), model.arrays())
        split(folder / "table", folder / "0", counts[0])
        for i, count in enumerate(counts[1:], 1):
            reshard(read_shards(folder / str(i - 1)), shard_folders(folder / str(i), count))
            seal(folder / str(i), count)
        merge(folder / str(len(counts) - 1), folder / "again")
        assert digests(folder / "again") == digests(folder / "table")


def test_each_shard_is_a_readable_table_of_its_own_keys(model, table, tmp_path):
    split(table, tmp_path / "parts", 3)
    whole, seen = read_vectors(table), []
    for number, folder in enumerate(read_shards(tmp_path / "parts")):
        header, part = read_header(folder), read_vectors(folder)
        assert (header.shard, header.shards, header.step) == (number, 3, model.step)
        keys = read_array(folder, header, "keys").tolist()
        assert keys == [key for key in model.entries if mixed(key) % 3 == number]
        places = [whole.keys.tolist().index(key) for key in part.keys]
        np.testing.assert_array_equal(part.vectors["deep"], whole.vectors["deep"][places])
        seen += keys
    assert sorted(seen) == sorted(model.entries)


def test_counters_and_tombstones_are_shared_out_and_sketches_copied(model, table, tmp_path):
    split(table, tmp_path / "parts", 3)
    parts = [(folder, read_header(folder)) for folder in read_shards(tmp_path / "parts")]
    for name, expected in (
        ("counters.events", model.counters[0]),
        ("counters.evicted", model.counters[3]),
    ):
        np.testing.assert_array_equal(sum(read_array(*part, name) for part in parts), expected)
    buried = [read_array(*part, "tombstones").tolist() for part in parts]
    assert all(mixed(key) % 3 == number for number, keys in enumerate(buried) for key in keys)
    assert sorted(key for keys in buried for key in keys) == sorted(
        key for _, key in model.tombstones
    )
    for part in parts:
        np.testing.assert_array_equal(read_array(*part, "sketch.0.current"), model.sketch)


def test_sketches_that_went_their_own_ways_merge_to_an_upper_bound_of_each(model, table, tmp_path):
    split(table, tmp_path / "parts", 2)
    for folder, grown in zip(
        read_shards(tmp_path / "parts"), ([9, 0, 1, 1, 1], [1, 250, 1, 1, 0]), strict=True
    ):
        header = read_header(folder)
        arrays = {name: read_array(folder, header, name) for name in header.arrays}
        arrays["sketch.0.current"] = np.array(grown, np.uint8)
        write_table(folder, replace(header, arrays={}), streams_of(arrays))
    reshard(shard_folders(tmp_path / "parts", 2), [tmp_path / "again"])
    assert read_array(
        tmp_path / "again", read_header(tmp_path / "again"), "sketch.0.current"
    ).tolist() == [9, 250, 1, 1, 1]


def test_shards_saved_without_an_order_are_put_together_in_turn(model, table, tmp_path):
    """As processes save them that each train one shard."""
    split(table, tmp_path / "parts", 2)
    orders = []
    for folder in read_shards(tmp_path / "parts"):
        header = read_header(folder)
        arrays = {
            name: read_array(folder, header, name) for name in header.arrays if name != "order"
        }
        orders.append(arrays["keys"].tolist())
        write_table(folder, replace(header, arrays={}), streams_of(arrays))
    reshard(shard_folders(tmp_path / "parts", 2), [tmp_path / "again"])
    keys = read_array(tmp_path / "again", read_header(tmp_path / "again"), "keys").tolist()
    longest = max(map(len, orders))
    assert keys == [order[i] for i in range(longest) for order in orders if i < len(order)]


def test_deltas_are_cut_like_the_tables_they_belong_to(model, table, tmp_path):
    split(table, tmp_path / "parts", 2)
    since = model.step
    model.delete(list(model.entries)[:5])
    model.learn([*list(model.entries)[:9], 10**9, 10**9])
    write_delta(tmp_path / "delta", model.header(since), model.arrays(since))
    reshard([tmp_path / "delta"], shard_folders(tmp_path / "deltas", 2))
    pairs = zip(
        shard_folders(tmp_path / "parts", 2), shard_folders(tmp_path / "deltas", 2), strict=True
    )
    for number, (full, delta) in enumerate(pairs):
        header = fold(full, [delta], tmp_path / f"folded-{number}")
        keys = read_array(tmp_path / f"folded-{number}", header, "keys").tolist()
        assert keys == [key for key in model.entries if mixed(key) % 2 == number]


def test_cutting_again_replaces_the_old_shards(table, tmp_path):
    split(table, tmp_path / "parts", 3)
    split(table, tmp_path / "parts", 2)
    assert read_shards(tmp_path / "parts") == shard_folders(tmp_path / "parts", 2)
    names = {path.name for path in (tmp_path / "parts").iterdir()}
    assert names == {"shards.json", "shard-00000-of-00002", "shard-00001-of-00002"}
    merge(tmp_path / "parts", tmp_path / "again")
    assert digests(tmp_path / "again") == digests(table)


def test_a_missing_or_doubled_shard_is_refused(table, tmp_path):
    split(table, tmp_path / "parts", 3)
    folders = shard_folders(tmp_path / "parts", 3)
    for given_folders in (folders[:2], folders[1:], (*folders, folders[0]), ()):
        with pytest.raises(InputError, match="shard"):
            reshard(given_folders, [tmp_path / "again"])
    with pytest.raises(InputError, match="at least 1"):
        split(table, tmp_path / "parts", 0)


def test_shards_of_different_saves_are_refused(model, table, tmp_path):
    split(table, tmp_path / "old", 2)
    model.learn([1])
    write_table(table, model.header(), model.arrays())
    split(table, tmp_path / "new", 2)
    mixture = [shard_folders(tmp_path / "old", 2)[0], shard_folders(tmp_path / "new", 2)[1]]
    with pytest.raises(InputError, match=r"different saves \(steps \[6, 7\]\)"):
        reshard(mixture, [tmp_path / "again"])


def test_a_shard_saved_again_on_its_own_is_noticed(model, table, tmp_path):
    split(table, tmp_path / "parts", 2)
    path = shard_folders(tmp_path / "parts", 2)[1] / "table.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(
        InputError, match=r"shard-00001-of-00002/table\.json is missing or not the one"
    ):
        read_shards(tmp_path / "parts")


@pytest.mark.parametrize("content", [None, "", "[]", json.dumps({"shards": 3})])
def test_a_missing_or_damaged_index_is_refused(table, tmp_path, content):
    split(table, tmp_path / "parts", 2)
    index = tmp_path / "parts" / "shards.json"
    index.unlink() if content is None else index.write_text(content)
    with pytest.raises(InputError, match=r"shards\.json: no readable index"):
        merge(tmp_path / "parts", tmp_path / "again")
