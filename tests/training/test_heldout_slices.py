"""Which held-out impressions are of new, rare and frequent ids, and which have which value."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_data import write_impressions

from elastic_embeddings.admission.policies import CountAdmission
from elastic_embeddings.optimizers.rules import GroupAdam
from elastic_embeddings.slabs.slab import SlabSpec
from elastic_embeddings.table import ElasticTable
from features.errors import InputError
from features.schema import Categorical, Cross, MultiValued, Numeric, Schema, Timestamp, Transform
from training.data.examples import read_examples
from training.evaluation.slices import (
    KeyCounts,
    Slicing,
    heldout_slices,
    read_key_counts,
    times_seen,
)

SCHEMA = Schema(
    label="click",
    user="uid",
    item="iid",
    timestamp=Timestamp(column="time"),
    fields=(
        Categorical(name="tab"),
        Categorical(name="video", column="iid"),
        Categorical(name="who", column="uid"),
        MultiValued(name="tags"),
        Numeric(name="age", transform=Transform.BUCKETS, boundaries=(20,)),
        Cross(name="tab_age", of=("tab", "age")),
    ),
)
NOTHING = KeyCounts(np.zeros(0, np.int64), np.zeros(0, np.int64))


def keys(*values):
    return np.array(values, np.int64)


def partition(folder, **columns):
    rows = len(next(iter(columns.values())))
    made_up = {
        "tab": ["1"] * rows,
        "video": ["v"] * rows,
        "who": ["w"] * rows,
        "tags": [[]] * rows,
        "age": ["30"] * rows,
    }
    return write_impressions(folder, made_up | columns)


def sliced(folder, learned, known=NOTHING, fields=(), **columns):
    """Slices of hand-made impressions, by name."""
    source = partition(folder, **columns)
    slicing = Slicing.of(source, SCHEMA, fields)
    return {
        part.name: part.inside
        for part in heldout_slices(slicing, read_examples(source, SCHEMA), learned, known)
    }


def test_times_seen_takes_the_larger_of_table_and_day():
    known = KeyCounts(keys(10, 20, 40), np.array([7, 1, 99]))
    seen = times_seen(keys(10, 20, 30, 50, 20), keys(20, 20, 30, 60), known)
    np.testing.assert_array_equal(seen, [7, 2, 1, 0, 2])


@given(
    st.lists(st.integers(0, 9)),
    st.lists(st.integers(0, 9)),
    st.dictionaries(st.integers(0, 9), st.integers(1, 9)),
)
def test_times_seen_equals_counting(heldout, before, known):
    counts = KeyCounts(keys(*known), keys(*known.values()))
    expected = [max(before.count(key), known.get(key, 0)) for key in heldout]
    assert times_seen(keys(*heldout), keys(*before), counts).tolist() == expected


def test_new_rare_and_frequent_items(tmp_path):
    videos = (
        ["often"] * 10 + ["twice"] * 2 + ["once"] + ["often", "twice", "never", "once", "never"]
    )
    found = sliced(tmp_path, learned=13, video=videos)
    np.testing.assert_array_equal(found["video: new"], [0, 0, 1, 0, 1])
    np.testing.assert_array_equal(found["video: rare"], [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(found["video: frequent"], [1, 0, 0, 0, 0])
    assert found["all"].all()
    assert list(found) == [
        "all",
        *(f"{name}: {how}" for name in ("video", "who") for how in ("new", "rare", "frequent")),
    ]


def test_the_heldout_slice_counts_nowhere(tmp_path):
    found = sliced(tmp_path, learned=1, video=["a"] + ["b"] * 50)
    assert found["video: new"].all()


def test_an_id_of_days_before_is_not_new(tmp_path):
    source = partition(tmp_path / "day", video=["a", "b", "c"])
    examples = read_examples(source, SCHEMA)
    old = KeyCounts(examples.keys[[1], 1], np.array([10]))
    found = {
        part.name: part.inside
        for part in heldout_slices(Slicing.of(source, SCHEMA, ()), examples, 1, old)
    }
    np.testing.assert_array_equal(found["video: new"], [False, True])
    np.testing.assert_array_equal(found["video: frequent"], [True, False])


def test_counts_of_a_saved_table_hold_keys_without_a_row(tmp_path):
    table = ElasticTable(SlabSpec(2, GroupAdam()), CountAdmission(3))
    for batch in (keys(1, 1, 1, 2), keys(2, 5)):
        table.apply_gradients(table.prepare(batch), np.ones((len(batch), 2), np.float32))
    table.save(tmp_path / "table")
    counts = read_key_counts(tmp_path / "table")
    assert dict(zip(counts.keys.tolist(), counts.counts.tolist(), strict=True)) == {
        1: 3,
        2: 2,
        5: 1,
    }
    assert len(table) == 1


def test_values_have_slices_the_most_frequent_first_and_the_others_are_joined(tmp_path):
    tabs = ["7"] + ["2"] * 100 + ["1"] * 150 + ["3"] * 99 + [""]
    found = sliced(tmp_path, learned=1, fields=("tab",), tab=tabs)
    assert [name for name in found if name.startswith("tab")] == [
        "tab: 1",
        "tab: 2",
        "tab: other values",
    ]
    for name, values in {"tab: 1": ["1"], "tab: 2": ["2"], "tab: other values": ["3", ""]}.items():
        np.testing.assert_array_equal(found[name], np.isin(tabs[1:], values))


def test_without_rare_values_there_is_no_other_slice(tmp_path):
    found = sliced(tmp_path, learned=0, fields=("tab",), tab=["2"] * 100 + [""] * 100)
    assert [name for name in found if name.startswith("tab")] == ["tab: 2", "tab: none"]


def test_a_field_of_many_values_keeps_the_twenty_most_frequent(tmp_path):
    tabs = [f"t{t}" for t in range(22) for _ in range(100 + t)]
    found = sliced(tmp_path, learned=0, fields=("tab",), tab=tabs)
    assert [name for name in found if name.startswith("tab")] == [
        *(f"tab: t{t}" for t in range(21, 1, -1)),
        "tab: other values",
    ]
    assert found["tab: other values"].sum() == 100 + 101


def test_buckets_and_crosses_are_spelled_by_their_tokens(tmp_path):
    columns = {"tab": ["1"] * 100 + ["2"] * 100, "age": ["15"] * 100 + ["30"] * 100}
    found = sliced(tmp_path, learned=0, fields=("age", "tab_age"), **columns)
    assert [name for name in found if "age" in name] == [
        "age: 0",
        "age: 1",
        "tab_age: 1 × 0",
        "tab_age: 2 × 1",
    ]
    np.testing.assert_array_equal(found["tab_age: 2 × 1"], np.arange(200) >= 100)


@pytest.mark.parametrize("name", ["tags", "nobody"])
def test_only_single_valued_id_fields_are_sliced_by_value(tmp_path, name):
    with pytest.raises(
        InputError, match=rf"training.slices.*{name}.*'tab', 'video', 'who', 'age', 'tab_age'"
    ):
        Slicing.of(tmp_path, SCHEMA, ("tab", name))


def test_a_schema_without_item_field_has_no_slices_by_item(tmp_path):
    schema = SCHEMA.model_copy(update={"item": "other"})
    source = partition(tmp_path / "day", video=["a", "b"])
    found = heldout_slices(
        Slicing.of(source, schema, ()), read_examples(source, schema), 1, NOTHING
    )
    assert [part.name for part in found] == ["all", "who: new", "who: rare", "who: frequent"]
