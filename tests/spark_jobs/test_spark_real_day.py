"""A real day of KuaiRand-Pure, ingested with its profile: statistics and graph against pandas."""

import os
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from graph_reference import FLOATS, read_edges, reference

from features.schema import Categorical, MultiValued, Numeric, Relation, Time
from pipelines.config import load_config
from spark_jobs.cross_counts import cross_counts
from spark_jobs.cross_graph import cross_graph
from spark_jobs.feature_statistics import feature_statistics
from spark_jobs.ingest import ingest
from spark_jobs.settings import StatisticsSettings

pytestmark = [pytest.mark.spark, pytest.mark.data, pytest.mark.slow]

DAY = date(2022, 5, 1)
PROFILE = Path(__file__).resolve().parents[2] / "conf" / "kuairand_pure.yaml"


@pytest.fixture(scope="module")
def config(data_folder):
    os.environ["ELASTIC_CTR_DATA"] = str(data_folder)
    return load_config(PROFILE)


@pytest.fixture(scope="module")
def partition(spark, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kuairand")
    ingest(spark, config.source, config.features, DAY, folder)
    return folder


@pytest.fixture(scope="module")
def long(config, partition):
    """One record per impression, field and distinct token."""
    records = pq.read_table(partition / "impressions").to_pandas().reset_index(names="record")
    assert len(records) > 10_000
    return pd.concat(
        [tokens(records, field) for field in config.features.fields], ignore_index=True
    )


def tokens(records, field):
    """A field's tokens by kind; a day of KuaiRand begins at Beijing's midnight, UTC+8."""
    assert isinstance(field, Categorical | MultiValued | Numeric | Time)
    if isinstance(field, Time):
        value = ((records.timestamp_ms // 3_600_000 + 8) % 24).astype(str)
    elif isinstance(field, MultiValued):
        value = records[field.name].map(lambda tags: list(dict.fromkeys(tags)) or [""])
    else:
        value = records[field.name]
    frame = records[["record", "label", "timestamp_ms"]].assign(field=field.name, value=value)
    return frame.explode("value") if isinstance(field, MultiValued) else frame


@pytest.mark.covers("data-7")
def test_statistics_of_a_real_day(spark, config, partition, long, tmp_path):
    feature_statistics(
        spark,
        config.features,
        {DAY: partition},
        {},
        DAY,
        StatisticsSettings(smoothing=20),
        tmp_path,
    )
    found = pd.read_parquet(tmp_path / "values.parquet").set_index(["field", "value"]).sort_index()
    groups = long.groupby(["field", "value"])
    expected = groups.agg(impressions=("label", "size"), clicks=("label", "sum"))
    expected = expected.assign(
        first_ms=groups.timestamp_ms.min(), last_ms=groups.timestamp_ms.max()
    ).sort_index()
    pd.testing.assert_frame_equal(found.drop(columns="ctr"), expected, check_dtype=False)
    prior = long[long.field == "tab"].label.mean()
    ctr = (expected.clicks + 20 * prior) / (expected.impressions + 20)
    np.testing.assert_allclose(found.ctr, ctr, rtol=0, atol=1e-9)
    fields = pd.read_parquet(tmp_path / "fields.parquet").set_index("field")
    present = expected[expected.index.get_level_values("value") != ""].impressions
    share = present / present.groupby("field").transform("sum")
    entropy = -(share * np.log(share)).groupby("field").sum()
    np.testing.assert_allclose(fields.entropy[entropy.index], entropy, rtol=0, atol=1e-9)
    assert fields.cardinality[entropy.index].tolist() == present.groupby("field").size().tolist()


def test_the_graph_of_a_real_day(spark, config, partition, long, tmp_path):
    more = (Relation(left="tag", right="user_active_degree"), Relation(left="hour", right="tab"))
    chosen = config.graph.model_copy(update={"relations": (*config.graph.relations, *more)})
    counts, out = tmp_path / "counts", tmp_path / "graph"
    counts.mkdir()
    out.mkdir()
    cross_counts(spark, config.features, partition, chosen.relations, counts)
    cross_graph(spark, config.features, {DAY: counts}, DAY + timedelta(days=1), chosen, out)
    found = read_edges(out)
    expected = reference(long, chosen, long[long.field == "tab"].label.mean())
    assert len(found) > 1000
    pd.testing.assert_frame_equal(
        found[["impressions", "clicks"]], expected[["impressions", "clicks"]], check_dtype=False
    )
    np.testing.assert_allclose(found[FLOATS], expected[FLOATS], rtol=0, atol=1e-9)
