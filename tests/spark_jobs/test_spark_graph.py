"""The cross graph against a self-join in pandas: merged days, node numbers, capped hubs, layout."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from graph_reference import EDGE, FLOATS, read_edges, reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spark_days import DAYS, SCHEMA, long_form, write_day, write_records

from features.errors import InputError
from features.schema import Relation
from spark_jobs.cross_counts import cross_counts
from spark_jobs.cross_graph import cross_graph, empty_graph
from spark_jobs.graph_files import read_counts, read_graph, require_before
from spark_jobs.settings import GraphSettings

pytestmark = pytest.mark.spark

RELATIONS = (Relation(left="site", right="tags"), Relation(left="site_age", right="hour"))
SETTINGS = GraphSettings(relations=RELATIONS, window_days=2, min_impressions=2, smoothing=5)
TOMORROW = DAYS[2] + timedelta(days=1)


def counted(spark, frames, root, relations=RELATIONS, files=1):
    """The `cross_counts` of some days' records."""
    done = {}
    for day, frame in frames.items():
        write_records(root / f"in-{day}", frame, files)
        done[day] = root / f"counts-{day}"
        done[day].mkdir()
        cross_counts(spark, SCHEMA, root / f"in-{day}", relations, done[day])
    return done


def built(spark, counts, out: Path, chosen=SETTINGS, day=TOMORROW):
    out.mkdir()
    return cross_graph(spark, SCHEMA, counts, day, chosen, out)


def together(frames) -> pd.DataFrame:
    """The long form of several days, records numbered over all of them."""
    return long_form(pd.concat(frames.values(), ignore_index=True))


@pytest.fixture(scope="module")
def world(spark, tmp_path_factory):
    """Three days of records and their counts."""
    root = tmp_path_factory.mktemp("graph")
    frames = {day: write_day(root / str(day), day) for day in DAYS}
    return frames, counted(spark, frames, root)


@pytest.fixture(scope="module")
def graph(spark, world, tmp_path_factory):
    """The graph of the day after, and its figures."""
    out = tmp_path_factory.mktemp("built") / "graph"
    return out, built(spark, world[1], out)


def in_window(frames):
    return {day: frames[day] for day in DAYS[1:]}


def compare(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    exact = ["impressions", "clicks"]
    pd.testing.assert_frame_equal(found[exact], expected[exact], check_dtype=False)
    np.testing.assert_allclose(found[FLOATS], expected[FLOATS], rtol=0, atol=1e-9)


def test_edges_agree_with_pandas(world, graph):
    frames, _ = world
    out, figures = graph
    window = in_window(frames)
    prior = pd.concat(window.values()).label.mean()
    found = read_edges(out)
    compare(found, reference(together(window), SETTINGS, prior))
    assert (figures["days"], figures["impressions"], figures["edges"]) == (2, 400, len(found))
    assert figures["edges:site__tags"] == len(found.loc["site__tags"]) > 0


def test_nodes_sum_up_all_their_edges_rare_ones_too(world, graph):
    every = SETTINGS.model_copy(update={"min_impressions": 1})
    edges = reference(together(in_window(world[0])), every, 0.5).reset_index()
    nodes = pd.read_parquet(graph[0] / "nodes.parquet").set_index(["field", "token"])
    assert set(nodes.index.get_level_values("field")) == {"site", "tags", "site_age", "hour"}
    for relation in RELATIONS:
        for side in ("left", "right"):
            sums = (
                edges[edges.relation == relation.name]
                .groupby(side)[["impressions", "clicks"]]
                .sum()
            )
            found = nodes.loc[getattr(relation, side), ["impressions", "clicks"]]
            assert found.to_numpy().tolist() == sums.loc[found.index].to_numpy().tolist()
    kept = read_edges(graph[0]).reset_index()
    assert set(nodes.loc["site"].index) == set(kept[kept.relation == "site__tags"].left)


def test_the_manifest_says_which_days_and_how_large(world, graph):
    found = read_graph(graph[0])
    clicks = int(pd.concat(in_window(world[0]).values()).label.sum())
    assert (found.first_day, found.last_day, found.days, found.impressions, found.clicks) == (
        DAYS[1],
        DAYS[2],
        2,
        400,
        clicks,
    )
    assert found.prior == clicks / 400
    assert json.loads((graph[0] / "graph.json").read_text())["last_day"] == "2022-05-03"
    assert not list(graph[0].rglob(".*"))


def test_reports_sum_up_the_edges(graph):
    edges = read_edges(graph[0]).reset_index()
    degrees = pd.read_parquet(graph[0] / "degrees.parquet").set_index(
        ["relation", "side", "at_least"]
    )
    for side in ("left", "right"):
        by_node = edges.groupby(["relation", side]).impressions.agg(["size", "sum"])
        by_node["at_least"] = 2 ** np.floor(np.log2(by_node["size"])).astype(int)
        expected = (
            by_node.reset_index()
            .groupby(["relation", "at_least"])
            .agg(nodes=("size", "size"), edges=("size", "sum"), impressions=("sum", "sum"))
        )
        found = degrees.xs(side, level="side")
        pd.testing.assert_frame_equal(found.sort_index(), expected.sort_index(), check_dtype=False)
    weights = pd.read_parquet(graph[0] / "weights.parquet")
    assert (
        weights.groupby("relation").edges.sum().to_dict()
        == edges.groupby("relation").size().to_dict()
    )
    assert weights.impressions.sum() == edges.impressions.sum()
    assert (
        (weights.impressions >= weights.at_least * weights.edges) & (weights.at_least >= 2)
    ).all()
    hubs = pd.read_parquet(graph[0] / "hubs.parquet")
    largest = edges[edges.relation == "site__tags"].groupby("left").size().max()
    assert (
        hubs[(hubs.relation == "site__tags") & (hubs.side == "left")].degree.tolist()[0] == largest
    )
    assert (graph[0] / "plots" / "degrees.png").stat().st_size > 5000


def test_partitioning_and_order_of_days_do_not_matter_to_a_byte(spark, world, graph, tmp_path):
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    counts = counted(spark, dict(reversed(in_window(world[0]).items())), tmp_path, files=3)
    built(spark, counts, tmp_path / "graph")
    spark.conf.set("spark.sql.shuffle.partitions", before)
    for folder, again in ((graph[0], tmp_path / "graph"), (world[1][DAYS[1]], counts[DAYS[1]])):
        names = sorted(
            path.relative_to(folder)
            for path in folder.rglob("*")
            if path.suffix in (".parquet", ".json")
        )
        assert len(names) >= 3
        for name in names:
            assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def test_many_files_keep_the_order_of_the_left_node(spark, world, tmp_path, monkeypatch):
    monkeypatch.setattr("spark_jobs.files.RECORDS_PER_FILE", 20)
    counts = counted(spark, in_window(world[0]), tmp_path)
    built(spark, counts, tmp_path / "graph")
    assert len(list((tmp_path / "graph" / "edges" / "relation=site__tags").iterdir())) > 2
    window = in_window(world[0])
    compare(
        read_edges(tmp_path / "graph"),
        reference(together(window), SETTINGS, pd.concat(window.values()).label.mean()),
    )


@pytest.mark.parametrize("days", [[], DAYS])
def test_without_days_or_relations_the_graph_is_empty_but_typed(spark, world, tmp_path, days):
    chosen = SETTINGS if not days else GraphSettings()
    figures = built(spark, {day: world[1][day] for day in days}, tmp_path / "graph", chosen)
    assert figures["edges"] == 0
    assert read_graph(tmp_path / "graph").last_day == (DAYS[2] if days else None)
    assert len(pd.read_parquet(tmp_path / "graph" / "nodes.parquet")) == 0
    for relation in chosen.relations:
        assert pq.read_table(tmp_path / "graph" / "offsets" / f"relation={relation.name}.parquet")[
            "offset"
        ].to_pylist() == [0]
    (tmp_path / "alone").mkdir()
    assert empty_graph(chosen, tmp_path / "alone")["edges"] == 0


def test_counts_of_the_day_or_later_are_refused(spark, world, tmp_path):
    with pytest.raises(
        InputError, match=r"of 2022-05-02 may only be made of days before it, not of \['2022-05-02'"
    ):
        built(spark, world[1], tmp_path / "graph", day=DAYS[1])


def test_a_graph_with_data_of_the_day_is_refused_for_training(graph, tmp_path):
    require_before(graph[0], TOMORROW)
    for day in (DAYS[1], DAYS[2]):
        with pytest.raises(
            InputError,
            match=rf"graph has data of 2022-05-03, so a model of {day} must not be trained on it",
        ):
            require_before(graph[0], day)
    with pytest.raises(
        InputError, match=r"graph\.json: cannot be read .*; run `elastic-ctr cross-graph`"
    ):
        require_before(tmp_path, TOMORROW)


def test_counts_that_lack_a_relation_or_mean_something_else_are_refused(spark, world, tmp_path):
    more = SETTINGS.model_copy(
        update={"relations": (*RELATIONS, Relation(left="tags", right="hour"))}
    )
    with pytest.raises(
        InputError, match=r"counts of 2022-05-02 lack the relations \['tags__hour'\]: run `elastic"
    ):
        built(spark, world[1], tmp_path / "graph", more)
    other = SCHEMA.model_copy(update={"timezone": "Europe/Berlin"})
    assert read_counts(world[1][DAYS[0]]).lacks(other, RELATIONS) == [
        "site__tags",
        "site_age__hour",
    ]
    assert read_counts(world[1][DAYS[0]]).lacks(SCHEMA, RELATIONS[:1]) == []


def test_a_relation_of_an_unknown_or_dense_field_is_refused(spark, world, tmp_path):
    odd = GraphSettings(relations=(Relation(left="price", right="nothing"),))
    with pytest.raises(
        InputError,
        match=r"\['nothing', 'price'\], which are no id fields of the schema: choose among",
    ):
        built(spark, world[1], tmp_path / "graph", odd)


HUB_DAY, HUB_ROWS = DAYS[0], 3000


@pytest.fixture(scope="module")
def hub_counts(spark, tmp_path_factory):
    """A day on which every record has the same site, and as many tags as there are records / 3."""
    root = tmp_path_factory.mktemp("hub")
    number = np.arange(HUB_ROWS)
    frame = pd.DataFrame({
        "label": (number % 7 == 0).astype("int8"), "timestamp_ms": number * 1000,
        "site": "everywhere", "tags": [[f"t{i % (HUB_ROWS // 3)}"] for i in number],
        "price": "1", "age": "7", "hour": (number * 1000).astype(str),
    })  # fmt: skip
    return counted(spark, {HUB_DAY: frame}, root, RELATIONS[:1], files=3)


def hub_settings(**changes):
    return GraphSettings(relations=RELATIONS[:1], min_impressions=1, **changes)


def test_a_value_in_every_row_keeps_all_its_edges_without_a_cap(spark, hub_counts, tmp_path):
    built(spark, hub_counts, tmp_path / "graph", hub_settings(), DAYS[1])
    edges = read_edges(tmp_path / "graph")
    assert len(edges) == HUB_ROWS // 3
    assert (edges.impressions == 3).all()
    assert edges.pmi.abs().max() < 1e-12, (
        "what is shown with a value that is everywhere says nothing"
    )


def test_the_pairs_of_a_hub_are_spread_over_the_reducers(spark, hub_counts):
    from pyspark.sql import functions as F

    from spark_jobs.counting import SHOWN, merged
    from spark_jobs.cross_graph import day_counts

    parts = day_counts(spark, RELATIONS[:1], hub_counts.values()).repartition(8)
    spread = merged(parts, ("left", "right"), SHOWN).repartition(8, "left", "right")
    sizes = [row["count"] for row in spread.groupBy(F.spark_partition_id()).count().collect()]
    assert len(sizes) == 8
    assert max(sizes) < 2 * HUB_ROWS / 3 / 8


def test_the_cap_draws_the_same_sample_whatever_the_partitioning_and_another_by_another_seed(
    spark, hub_counts, tmp_path
):
    samples = {}
    for name, chosen in (
        ("a", hub_settings(max_degree=100)),
        ("b", hub_settings(max_degree=100, seed=1)),
    ):
        built(spark, hub_counts, tmp_path / name, chosen, DAYS[1])
        edges = read_edges(tmp_path / name)
        relation = read_graph(tmp_path / name).relations["site__tags"]
        assert (len(edges), relation.edges_capped, relation.impressions_capped) == (100, 900, 2700)
        assert edges.pmi.abs().max() < 1e-12, "what was left out still counts for its ends"
        samples[name] = set(edges.index)
    assert 0 < len(samples["a"] & samples["b"]) < 40
    spark.conf.set("spark.sql.shuffle.partitions", "6")
    built(spark, hub_counts, tmp_path / "again", hub_settings(max_degree=100), DAYS[1])
    spark.conf.set("spark.sql.shuffle.partitions", "2")
    assert set(read_edges(tmp_path / "again").index) == samples["a"]


def test_the_cap_holds_for_both_ends_and_touches_nobody_else(spark, world, tmp_path):
    free, tight = (
        SETTINGS.model_copy(update={"min_impressions": 1, "max_degree": most})
        for most in (10_000, 15)
    )
    for name, chosen in (("free", free), ("tight", tight)):
        built(spark, world[1], tmp_path / name, chosen)
    full, left = (read_edges(tmp_path / name) for name in ("free", "tight"))
    pd.testing.assert_frame_equal(left, full.loc[left.index])
    for side in ("left", "right"):
        assert left.groupby(["relation", side]).size().max() <= 15
    sizes = {side: full.groupby(["relation", side]).size() for side in ("left", "right")}
    quiet = [
        key
        for key in full.index
        if all(sizes[side][key[0], key[EDGE.index(side)]] <= 15 for side in sizes)
    ]
    assert len(quiet) > 10
    assert set(quiet) <= set(left.index)


WORDS = st.sampled_from(["", "a", "b", "ä", "\U0001f600", "a b", "07"])
DRAWN = st.lists(
    st.fixed_dictionaries({
        "label": st.integers(0, 1), "site": WORDS, "tags": st.lists(WORDS.filter(bool), max_size=3),
        "age": st.sampled_from(["", "7", "x", "80"]), "price": st.just("1"),
        "second": st.integers(0, 86_399),
    }), min_size=1, max_size=12,
)  # fmt: skip


def as_records(drawn: list[dict]) -> pd.DataFrame:
    frame = pd.DataFrame(drawn).astype({"label": "int8"})
    frame["timestamp_ms"] = frame.pop("second") * 1000
    return frame.assign(hour=frame["timestamp_ms"].astype(str))


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(DRAWN, min_size=2, max_size=2))
def test_merged_counts_are_the_graph_of_the_union(spark, tmp_path_factory, days):
    root = tmp_path_factory.mktemp("union")
    frames = dict(zip(DAYS, map(as_records, days), strict=False))
    union = pd.concat(frames.values(), ignore_index=True)
    chosen = SETTINGS.model_copy(update={"min_impressions": 1})
    built(spark, counted(spark, frames, root), root / "merged", chosen, DAYS[2])
    built(
        spark, counted(spark, {DAYS[1]: union}, root / "whole"), root / "of_union", chosen, DAYS[2]
    )
    for name in (
        "nodes.parquet",
        *(f"edges/relation={relation.name}/part-00000.parquet" for relation in RELATIONS),
    ):
        assert (root / "merged" / name).read_bytes() == (root / "of_union" / name).read_bytes(), (
            name
        )
    compare(read_edges(root / "merged"), reference(long_form(union), chosen, union.label.mean()))
