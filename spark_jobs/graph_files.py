"""The manifests of `cross_counts` and `cross_graph`, and the columns of a graph.

`counts.json` describes a day's counts, `graph.json` the days of data in a graph. This module does
not load Spark: training reads the manifests too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import InputError
from features.partition import Partition, is_before, parse_partition
from features.schema import Cross, Relation, Schema

COUNTS, GRAPH = "counts.json", "graph.json"
NODES, EDGES = "nodes.parquet", "edges"

EDGE_COLUMNS = pa.schema({
    "left": pa.int32(), "right": pa.int32(), "impressions": pa.int64(), "clicks": pa.int64(),
    "ctr": pa.float64(), "logit": pa.float64(), "pmi": pa.float64(), "log_count": pa.float64(),
})  # fmt: skip
NODE_COLUMNS = pa.schema({
    "field": pa.string(), "node": pa.int32(), "token": pa.string(),
    "impressions": pa.int64(), "clicks": pa.int64(), "degree": pa.int64(),
})  # fmt: skip


@dataclass(frozen=True)
class RelationCounts:
    """A day's counts of a relation: digest of its `meaning`, edges, and their impressions."""

    meaning: str
    edges: int
    impressions: int


@dataclass(frozen=True)
class CountsManifest:
    """`counts.json`: impressions and clicks of the day, and its relations by name."""

    impressions: int
    clicks: int
    relations: Mapping[str, RelationCounts]

    def lacks(self, schema: Schema, relations: Iterable[Relation]) -> list[str]:
        """Return the names of relations that were not counted, or had another meaning."""
        known = {name: counts.meaning for name, counts in self.relations.items()}
        return [each.name for each in relations if known.get(each.name) != meaning(schema, each)]

    def write(self, folder: Path) -> None:
        """Write `counts.json`."""
        _write_json(folder / COUNTS, asdict(self))


@dataclass(frozen=True)
class RelationGraph:
    """A relation of a graph: its fields, its sizes, and what the cap of edges per node removed.

    `left_nodes` and `right_nodes` count the nodes of the two fields, with or without an edge in
    this relation.
    """

    left: str
    right: str
    edges: int
    left_nodes: int
    right_nodes: int
    edges_capped: int
    impressions_capped: int


@dataclass(frozen=True)
class GraphManifest:
    """`graph.json`: the days of data in a graph, and its relations.

    `first_day` and `last_day` may be hours, and are None if there is no data. `days` is the number
    of days or hours, `hours` their length together, `prior` their click rate.
    """

    first_day: Partition | None
    last_day: Partition | None
    days: int
    hours: int
    impressions: int
    clicks: int
    prior: float
    relations: Mapping[str, RelationGraph]

    def write(self, folder: Path) -> None:
        """Write `graph.json`."""
        # None stays null; days and hours are written as text.
        bounds = {"first_day": self.first_day, "last_day": self.last_day}
        days = {name: str(day) for name, day in bounds.items() if day}
        _write_json(folder / GRAPH, asdict(self) | days)

    def summary(self) -> dict[str, float]:
        """Return sizes for the commit file: days, impressions, edges in all and by relation."""
        edges = {f"edges:{name}": float(each.edges) for name, each in self.relations.items()}
        return {
            "days": float(self.days),
            "impressions": float(self.impressions),
            "edges": sum(edges.values()),
            "edges_capped": float(sum(each.edges_capped for each in self.relations.values())),
            **edges,
        }


def read_counts(folder: Path) -> CountsManifest:
    """Read `counts.json`; raises InputError when it is missing or damaged."""
    content = _read_json(folder / COUNTS, "cross-counts")
    relations = content.pop("relations")
    counts = {name: RelationCounts(**values) for name, values in relations.items()}
    return CountsManifest(relations=counts, **content)


def read_graph(folder: Path) -> GraphManifest:
    """Read `graph.json`; raises InputError when it is missing or damaged."""
    content = _read_json(folder / GRAPH, "cross-graph")
    for name in ("first_day", "last_day"):
        content[name] = parse_partition(content[name]) if content[name] else None
    relations = content.pop("relations")
    graphs = {name: RelationGraph(**values) for name, values in relations.items()}
    return GraphManifest(relations=graphs, **content)


def no_counts(out: Path) -> dict[str, float]:
    """Write the counts of a day for which no relation is declared; returns `edges`, 0."""
    CountsManifest(0, 0, {}).write(out)
    return {"edges": 0.0}


def require_before(folder: Path, day: Partition) -> None:
    """Check that a graph only has data of days before `day`: later edges contain the day's labels.

    Raises:
        InputError: its last day of data is not before `day`.
    """
    last = read_graph(folder).last_day
    if last is not None and not is_before(last, day):
        raise InputError(
            f"{folder / GRAPH}: the graph has data of {last}, so a model of {day} must not be"
            f" trained on it: its edges contain the labels of the day. Use a graph of days before"
            f" {day} (`elastic-ctr cross-graph --date {day}` makes it)"
        )


def meaning(schema: Schema, relation: Relation) -> str:
    """Return a digest of all settings that a relation's tokens depend on.

    Counts with different digests must not be added up.
    """
    definitions = []
    for name in (relation.left, relation.right):
        field = schema.field(name)
        parts = [schema.field(part) for part in field.of] if isinstance(field, Cross) else []
        definitions.append([each.model_dump(mode="json") for each in (field, *parts)])
    whole = {
        "timezone": schema.timezone,
        "timestamp": schema.timestamp.model_dump(mode="json"),
        "fields": definitions,
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def edges_folder(root: Path, relation: str) -> Path:
    """Return the folder of a relation's edges, in `cross_counts` and in `cross_graph`."""
    return root / EDGES / f"relation={relation}"


def edge_totals(folder: Path) -> tuple[int, int]:
    """Return the number of edges in a folder, and the sum of their impressions."""
    edges = impressions = 0
    for path in sorted(folder.glob("part-*.parquet")):
        shown = pq.read_table(path, columns=["impressions"])["impressions"]
        edges += len(shown)
        impressions += pc.sum(shown).as_py() or 0
    return edges, impressions


def write_no_edges(folder: Path, columns: pa.Schema) -> None:
    """Write an empty file of edges unless the folder exists: Spark makes none without records."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        pq.write_table(columns.empty_table(), folder / "part-00000.parquet")


def _read_json(path: Path, command: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); run `elastic-ctr {command}` of that day again"
        ) from error
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
