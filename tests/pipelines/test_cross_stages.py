"""The stages of the cross graph: a day is counted once, and its own graph does not read it."""

import json
from dataclasses import replace
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_days import DAYS, DOCUMENT, make_context, publish

from features.errors import InputError
from pipelines.stages.cross_counts import CrossCounts
from pipelines.stages.cross_graph import BuildCrossGraph
from pipelines.stages.pretrain import Pretrain
from pipelines.stages.stage import execute
from spark_jobs.graph_files import read_counts, read_graph

FIELDS = [{"name": name, "kind": "categorical"} for name in ("ad", "page", "country")]
ONE = [{"left": "ad", "right": "page"}]
TWO = [*ONE, {"left": "ad", "right": "country"}]


def workspace(folder, relations, reports=None, **graph):
    """A context whose store has impressions of three days."""
    features = {**DOCUMENT["features"], "fields": FIELDS}
    graph = {"relations": relations, "min_impressions": 1, "window_days": 3, **graph}
    spark = {"master": "local[2]", "shuffle_partitions": 2}
    return make_context(
        folder,
        features=features,
        graph=graph,
        spark=spark,
        report=(print if reports is None else reports.append),
    )


def publish_impressions(store, day, rows=8):
    with store.staging("impressions", day, f"i{day.day}") as out:
        (out / "impressions").mkdir()
        columns = {
            name: [f"{name}{i % n}" for i in range(rows)]
            for name, n in (("ad", 3), ("page", 2), ("country", 2))
        }
        stamps = {
            "timestamp_ms": list(range(rows)),
            "label": pa.array([i % 2 for i in range(rows)], pa.int8()),
        }
        pq.write_table(pa.table({**stamps, **columns}), out / "impressions" / "part-00000.parquet")
        facts = {"stage": "ingest", "inputs": {}, "metrics": {}, "config": {}, "seconds": 0.1}
        return store.publish(out, "impressions", day, f"i{day.day}", facts)


def at(context, day):
    return replace(context, day=day)


@pytest.fixture
def counted(spark, tmp_path):
    """Three days with impressions, the first two counted for one relation."""
    context = workspace(tmp_path, ONE)
    for day in DAYS[:3]:
        publish_impressions(context.store, day)
    for day in DAYS[:2]:
        execute(CrossCounts(), at(context, day))
    return context


def test_the_graph_is_made_of_the_counts_of_days_before(counted):
    context = at(counted, DAYS[2])
    inputs = BuildCrossGraph().inputs(context)
    assert {name: version.artifact for name, version in inputs.items()} == {
        f"counts-{day}": "cross_counts" for day in DAYS[:2]
    }
    version = execute(BuildCrossGraph(), context).version
    assert (
        version.metrics["days"],
        version.metrics["impressions"],
        version.metrics["edges:ad__page"],
    ) == (2, 16, 6)
    graph = read_graph(version.path)
    assert (graph.first_day, graph.last_day) == (DAYS[0], DAYS[1])


def test_a_relation_that_came_later_is_counted_once_from_the_impressions(counted, tmp_path):
    wider = workspace(tmp_path, TWO)
    before = {day: counted.store.current("cross_counts", day) for day in DAYS[:2]}
    execute(BuildCrossGraph(), at(wider, DAYS[2]))
    after = {day: wider.store.current("cross_counts", day) for day in DAYS[:3]}
    assert all(after[day].hash != before[day].hash for day in DAYS[:2])
    assert set(read_counts(after[DAYS[0]].path).relations) == {"ad__page", "ad__country"}
    assert after[DAYS[2]] is None, "the day itself is not read"
    inputs = BuildCrossGraph().inputs(at(wider, DAYS[3]))
    assert [inputs[f"counts-{day}"].hash for day in DAYS[:2]] == [
        after[day].hash for day in DAYS[:2]
    ]
    assert inputs[f"counts-{DAYS[2]}"].metrics["edges"] == 12
    narrower = BuildCrossGraph().inputs(at(counted, DAYS[2]))
    assert [version.hash for version in narrower.values()] == [
        after[day].hash for day in DAYS[:2]
    ], "more than is asked for will do"


def test_a_day_with_new_impressions_is_counted_again(counted):
    with counted.store.staging("impressions", DAYS[0], "late") as out:
        source = (
            counted.store.current("impressions", DAYS[0]).path
            / "impressions"
            / "part-00000.parquet"
        )
        (out / "impressions").mkdir()
        pq.write_table(
            pq.read_table(source).slice(0, 3), out / "impressions" / "part-00000.parquet"
        )
        facts = {"stage": "ingest", "inputs": {}, "metrics": {}, "config": {}, "seconds": 0.1}
        counted.store.publish(out, "impressions", DAYS[0], "late", facts)
    assert execute(BuildCrossGraph(), at(counted, DAYS[2])).version.metrics["impressions"] == 8 + 3


def test_days_that_cannot_be_counted_or_failed_their_gate_are_left_out_and_reported(
    counted, tmp_path
):
    reports = []
    wider = workspace(tmp_path, TWO, reports)
    deleted = wider.store.current("impressions", DAYS[0])
    (deleted.path.parent / "CURRENT").unlink()
    publish(wider.store, "data_verdict", DAYS[1], passed=False)
    assert BuildCrossGraph().inputs(at(wider, DAYS[2])) == {}
    assert reports == [
        f"the graph leaves out {DAYS[0]}: its counts lack a relation that is declared, "
        "and its impressions were deleted",
        f"the graph leaves out {DAYS[1]}: its data failed its gate",
    ]
    assert execute(BuildCrossGraph(), at(wider, DAYS[2])).version.metrics["days"] == 0


def test_only_days_of_the_window_are_merged(counted, tmp_path):
    narrow = workspace(tmp_path, ONE, window_days=1)
    assert list(BuildCrossGraph().inputs(at(narrow, DAYS[2]))) == [f"counts-{DAYS[1]}"]
    assert BuildCrossGraph().inputs(at(narrow, DAYS[4] + timedelta(days=9))) == {}


def test_without_relations_nothing_is_counted_and_the_graph_is_empty(tmp_path):
    context = make_context(tmp_path, DAYS[1])
    for day in DAYS[:2]:
        publish_impressions(context.store, day)
        assert execute(CrossCounts(), at(context, day)).version.metrics == {"edges": 0.0}
    version = execute(BuildCrossGraph(), context).version
    assert version.metrics["edges"] == 0
    assert read_graph(version.path).relations == {}


def test_pretraining_refuses_a_graph_that_has_seen_its_day(tmp_path):
    context = make_context(tmp_path, DAYS[1])
    about = {
        "first_day": str(DAYS[0]),
        "last_day": str(DAYS[1]),
        "days": 2,
        "hours": 48,
        "impressions": 9,
        "clicks": 1,
        "prior": 0.1,
    }
    publish(
        context.store,
        "cross_graph",
        DAYS[1],
        files={"graph.json": json.dumps({**about, "relations": {}})},
    )
    with pytest.raises(
        InputError,
        match=rf"graph has data of {DAYS[1]}, so a model of {DAYS[1]} must not be trained on it",
    ):
        execute(Pretrain(), context)
    assert context.store.current("encodings", DAYS[1]) is None
    assert date.fromisoformat(about["last_day"]) == context.day
