"""Admission inside a table: sketches, fields, and batches that are undone."""

import numpy as np
import pytest

from elastic_embeddings import (
    AlwaysAdmit,
    ByField,
    CountAdmission,
    ElasticTable,
    GroupAdam,
    PoissonAdmission,
    SketchAdmission,
    SketchSpec,
    SlabSpec,
)

FIELDS = ("user", "item", "tag")
POLICIES = {
    "sketch": SketchAdmission(3, capacity=5_000),
    "poisson": PoissonAdmission(4, 5_000, sketch=SketchSpec(5_000)),
    "by field": ByField(
        {"user": SketchAdmission(2, capacity=5_000), "item": CountAdmission(3)},
        otherwise=AlwaysAdmit(),
    ),
    "decaying": SketchAdmission(3, capacity=5_000, decay_every=700),
}


def new_table(admission):
    return ElasticTable(SlabSpec(2, GroupAdam(0.1)), admission, seed=5, fields=FIELDS)


def stream(batches, size=300):
    for i in range(batches):
        rng = np.random.default_rng(i)
        fields = rng.integers(0, 3, size).astype(np.int16)
        yield rng.zipf(1.3, size).astype(np.int64) * 3 + fields, fields


def learn(table, keys, fields):
    table.apply_gradients(table.prepare(keys, fields), np.ones((len(keys), 2), np.float32))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("policy", POLICIES)
def test_batches_taken_back_leave_no_byte(policy, tmp_path):
    straight, disturbed = new_table(POLICIES[policy]), new_table(POLICIES[policy])
    lost = list(stream(40))[30:]
    for i, (keys, fields) in enumerate(stream(15)):
        learn(straight, keys, fields)
        for other in lost[i % 7 : i % 7 + 3]:
            disturbed.prepare(*other, ahead=True)
        if i % 4 == 3:
            disturbed.save(tmp_path / "midway")
        learn(disturbed, keys, fields)
    straight.save(tmp_path / "straight")
    disturbed.prepare(*lost[0])
    disturbed.save(tmp_path / "disturbed")
    assert len(straight) > 20
    assert contents(tmp_path / "straight") == contents(tmp_path / "disturbed")


@pytest.mark.parametrize("policy", POLICIES)
def test_admission_goes_on_after_a_restore_as_if_never_stopped(policy, tmp_path):
    straight = new_table(POLICIES[policy])
    for i, batch in enumerate(stream(12)):
        learn(straight, *batch)
        if i == 5:
            straight.save(tmp_path / "half")
    resumed = new_table(POLICIES[policy]).restore(tmp_path / "half")
    for batch in list(stream(12))[6:]:
        learn(resumed, *batch)
    for name, table in (("straight", straight), ("resumed", resumed)):
        table.save(tmp_path / name)
    assert contents(tmp_path / "straight") == contents(tmp_path / "resumed")


def test_a_sketch_admits_whom_an_exact_count_admits_and_holds_nobody_else():
    exact, sketched = new_table(CountAdmission(3)), new_table(SketchAdmission(3, capacity=50_000))
    for batch in stream(10):
        learn(exact, *batch)
        learn(sketched, *batch)
    assert sorted(exact.keys()) == sorted(sketched.keys())
    assert sketched.keys_seen == len(sketched) < exact.keys_seen


def test_memory_of_waiting_keys_is_bounded():
    table = new_table(SketchAdmission(3, capacity=25_000))
    sizes = []
    for i in range(6):
        keys = np.arange(i * 20_000, (i + 1) * 20_000)
        learn(table, keys, np.zeros(len(keys), np.int16))
        sizes.append(table.statistics().sketch_bytes)
    assert table.keys_seen == len(table)
    assert len(table) < 1_200  # false positives
    assert len(set(sizes)) == 1


def test_each_field_has_its_own_threshold():
    table = new_table(
        ByField(
            {"user": CountAdmission(2), "item": SketchAdmission(3, capacity=1000)},
            otherwise=AlwaysAdmit(),
        )
    )
    keys, fields = np.array([1, 2, 3]), np.array([0, 1, 2], np.int16)
    admitted = []
    for _ in range(3):
        learn(table, keys, fields)
        admitted.append(sorted(table.keys().tolist()))
    assert admitted == [[3], [1, 3], [1, 2, 3]]
    statistics = table.statistics()
    assert {name: (f.events, f.hit_rate) for name, f in statistics.fields.items()} == {
        "user": (3, 2 / 3),
        "item": (3, 1 / 3),
        "tag": (3, 1.0),
    }
