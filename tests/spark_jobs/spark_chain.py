"""All Spark jobs of two small days; `python spark_chain.py FOLDER` runs them in a local session."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from spark_days import DAYS, SCHEMA, write_day

from features.schema import Relation
from spark_jobs.cross_counts import cross_counts
from spark_jobs.cross_graph import cross_graph
from spark_jobs.feature_statistics import feature_statistics
from spark_jobs.ingest import ingest
from spark_jobs.session import spark_session
from spark_jobs.settings import (
    LOCAL,
    GraphSettings,
    SideTable,
    Source,
    SparkSettings,
    StatisticsSettings,
)

STATISTICS = StatisticsSettings(window_days=2)
RELATIONS = (Relation(left="site", right="tags"), Relation(left="site_age", right="hour"))
# Few enough edges a node that some are capped.
GRAPH = GraphSettings(relations=RELATIONS, min_impressions=1, max_degree=4)


def write_logs(folder: Path) -> Source:
    """Write two days of raw records, some of them bad or twice there, and a side table."""
    for day in DAYS[:2]:
        frame = write_day(folder / "scratch" / str(day), day)
        frame = frame.rename(columns={"label": "y", "timestamp_ms": "ts"}).drop(columns="site")
        frame = frame.assign(
            user=[f"u{i % 17}" for i in range(len(frame))],
            item=[f"{i % 23}.0" for i in range(len(frame))],
        )
        frame.loc[3, "user"] = ""
        pd.concat([frame, frame[5:9]]).to_parquet(folder / f"{day}.parquet", index=False)
    sites = pd.DataFrame({"item": np.arange(20), "site": [f"s{i % 6}" for i in range(20)]})
    sites.to_csv(folder / "sites.csv", index=False)
    table = SideTable(path=str(folder / "sites.csv"), key="item")
    return Source(path=str(folder / "{date}.parquet"), partition="path", side_tables=(table,))


def work(spark, source: Source, out: Path) -> dict[str, object]:
    """Do all jobs of both days; return what they wrote, by file."""
    statistics, counts = {}, {}

    def made(name: str, day) -> Path:
        folder = out / name / str(day)
        folder.mkdir(parents=True)
        return folder

    for day in DAYS[:2]:
        impressions = made("impressions", day)
        ingest(spark, source, SCHEMA, day, impressions)
        done = made("statistics", day)
        feature_statistics(spark, SCHEMA, {day: impressions}, statistics, day, STATISTICS, done)
        statistics[day] = done
        counts[day] = made("counts", day)
        cross_counts(spark, SCHEMA, impressions, GRAPH.relations, counts[day])
    tomorrow = DAYS[1] + timedelta(days=1)
    cross_graph(spark, SCHEMA, counts, tomorrow, GRAPH, made("graph", tomorrow))
    return contents(out)


def contents(out: Path) -> dict[str, object]:
    """The records of each file below a folder, in their order, and what manifests say."""
    tables = {
        str(path.relative_to(out)): pq.ParquetFile(path).read().to_pydict()
        for path in out.rglob("*.parquet")
    }
    return tables | {
        str(path.relative_to(out)): json.loads(path.read_text()) for path in out.rglob("*.json")
    }


if __name__ == "__main__":
    root = Path(sys.argv[1])
    with spark_session(
        SparkSettings(remote=LOCAL, master="local[2]", shuffle_partitions=2)
    ) as local:
        assert "connect" not in type(local).__module__
        work(local, Source.model_validate_json((root / "source.json").read_text()), root / "local")
