"""The manifests of `cross_counts` and `cross_graph`, and the columns of a graph. Free of Spark, so that anyone may ask.

`counts.json` says what a day's counts were made of, `graph.json` which days a graph has seen: whoever learns a day asks
`require_before` first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.errors import InputError
from features.partition import Partition, is_before, parse_partition
from features.schema import Cross, KeyField, Relation, Schema

COUNTS, GRAPH = "counts.json", "graph.json"
NODES = "nodes.parquet"

EDGE_COLUMNS = pa.schema(
    [
        *((name, pa.int32()) for name in ("left", "right")),
        *((name, pa.int64()) for name in ("impressions", "clicks")),
        *((name, pa.float64()) for name in ("ctr", "logit", "pmi", "log_count")),
    ]
)
NODE_COLUMNS = pa.schema(
    [("field", pa.string()), ("node", pa.int32()), ("token", pa.string())]
    + [(name, pa.int64()) for name in ("impressions", "clicks", "degree")]
)


@dataclass(frozen=True)
class RelationCounts:
    """A day's counts of a relation: what its fields meant then, its edges, and the sum of their impressions."""

    meaning: str
    edges: int
    impressions: int


@dataclass(frozen=True)
class Counts:
    """`counts.json`: impressions and clicks of the day, and its relations by name."""

    impressions: int
    clicks: int
    relations: Mapping[str, RelationCounts]

    def lacks(self, schema: Schema, relations: Iterable[Relation]) -> list[str]:
        """Return the names of the relations that were not counted, or whose fields meant something else."""
        known = {name: counts.meaning for name, counts in self.relations.items()}
        return [
            relation.name
            for relation in relations
            if known.get(relation.name) != meaning(schema, relation)
        ]

    def write(self, folder: Path) -> None:
        """Write `counts.json`."""
        _write_json(folder / COUNTS, asdict(self))


@dataclass(frozen=True)
class RelationGraph:
    """A relation of a graph: its fields, sizes, and what the cap of edges per node left out.

    `left_nodes` and `right_nodes` are the nodes of the two fields, with or without an edge in this very relation.
    """

    left: str
    right: str
    edges: int
    left_nodes: int
    right_nodes: int
    edges_capped: int
    impressions_capped: int


@dataclass(frozen=True)
class Graph:
    """`graph.json`: the days or hours of data (None where there are none), how many, how long in all, their impressions and click
    rate, and the relations.
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
        days = {
            name: str(day) for name in ("first_day", "last_day") if (day := getattr(self, name))
        }
        _write_json(folder / GRAPH, asdict(self) | days)


EDGES = "edges"


def edges_folder(root: Path, relation: str) -> Path:
    """Return where the edges of a relation lie, in `cross_counts` and in `cross_graph`."""
    return root / EDGES / f"relation={relation}"


def read_counts(folder: Path) -> Counts:
    """Read `counts.json`; raises InputError when it is missing or damaged."""
    told = _read_json(folder / COUNTS, "cross-counts")
    relations = {name: RelationCounts(**values) for name, values in told.pop("relations").items()}
    return Counts(relations=relations, **told)


def read_graph(folder: Path) -> Graph:
    """Read `graph.json`; raises InputError when it is missing or damaged."""
    told = _read_json(folder / GRAPH, "cross-graph")
    relations = {name: RelationGraph(**values) for name, values in told.pop("relations").items()}
    days = {
        key: parse_partition(told.pop(key)) if told[key] else None
        for key in ("first_day", "last_day")
    }
    return Graph(relations=relations, **(told | days))


def no_counts(out: Path) -> dict[str, float]:
    """Write the counts of a day for which no relation is declared; returns what `cross_counts` does."""
    Counts(0, 0, {}).write(out)
    return {"edges": 0.0}


def require_before(folder: Path, day: Partition) -> None:
    """Refuse a graph that has seen the day that is to be learned, or a later one: its edges would tell the day's own labels.

    Raises:
        InputError: its last day of data is not before `day`.
    """
    last = read_graph(folder).last_day
    if last is not None and not is_before(last, day):
        raise InputError(
            f"{folder / GRAPH}: the graph has seen {last}, so that {day} must not learn from it: its edges hold the labels of the"
            f" day. Use a graph of days before {day} (`elastic-ctr cross-graph --date {day}` makes it)"
        )


def figures(graph: Graph) -> dict[str, float]:
    """Return a graph's sizes for the commit file: days, impressions, edges in all and by relation, edges left out."""
    by_relation = {
        f"edges:{name}": float(relation.edges) for name, relation in graph.relations.items()
    }
    capped = float(sum(relation.edges_capped for relation in graph.relations.values()))
    totals = {
        "days": float(graph.days),
        "impressions": float(graph.impressions),
        "edges": sum(by_relation.values()),
    }
    return {**totals, "edges_capped": capped, **by_relation}


def meaning(schema: Schema, relation: Relation) -> str:
    """Return a digest of all that a relation's tokens are made by: counts of another meaning do not add up."""
    fields = [_definition(schema, schema.field(name)) for name in (relation.left, relation.right)]
    whole = {
        "timezone": schema.timezone,
        "timestamp": schema.timestamp.model_dump(mode="json"),
        "fields": fields,
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def _definition(schema: Schema, field: KeyField) -> list[dict[str, Any]]:
    parts = [schema.field(name) for name in field.of] if isinstance(field, Cross) else []
    return [each.model_dump(mode="json") for each in (field, *parts)]


def _read_json(path: Path, command: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); run `elastic-ctr {command}` of that day again"
        ) from error
    return told


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
