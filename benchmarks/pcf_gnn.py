"""Cross features for the click model: none, the table of the statistic, PCF-GNN, a plain
factorisation, node biases.

`python benchmarks/pcf_gnn.py --json`. One small click model (`harness/cross_features.py`, Wide &
Deep, one pass) is taken through the slices of a log; before each slice the cross features are made
anew from the slices before it, as the stage makes them, gate included; the slice is scored and then
learned. Means over the judged slices, by data set and input:

    auc           of all impressions
    auc_seen      of those whose pairs of all relations are edges of the graph; auc_unseen: the
                  others; share_seen
    bytes         of the cross features as they serve
    relations     held-out weighted R² of each, that of node biases, and why it was refused, if it
                  was

Data: globo (clicks against DRAWN negatives; CHAMELEON, academic use), kuairand_pure (Gao et al.,
CIKM 2022, CC BY-SA 4.0), both through ELASTIC_CTR_DATA; MovieLens-1M (rating of at least 4; Harper
and Konstan, TiiS 2015, research use) where `--movielens` names its folder (`conf/movielens_1m.yaml`
says where from). Figures are kept by variant in the workspace: after a change of the code take
another one.

`--peer`: edges a second of training, ours and that of DGL's GraphSAGE (mean aggregation, the same
edges, layers, fan-outs and batches), in an environment that is made below the workspace from
`harness/requirements`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from harness.cross_features import (
    MODEL,
    RELATIONS,
    TRAINING,
    VARIANTS,
    Made,
    graph_of,
    made,
    relations_of,
    without_crosses,
)
from harness.globo_files import files_of, moments, narrowed, within_share
from harness.options import chosen, print_json, progress, refusals
from harness.training import train_once
from numpy.typing import NDArray
from pcf_gnn_throughput import Load, throughput

from features.partition import days_between
from features.schema import Categorical, Relation, Schema, Time, Timestamp
from pipelines.cli import console
from pipelines.config import Config, load_config
from pipelines.stages.chain import run_stage
from pipelines.stages.stage import Context
from pipelines.store.artifacts import Store
from training.data.examples import Examples, read_examples
from training.data.inputs import Featurizer
from training.data.layout import FieldLayout
from training.data.scalers import scalers_from_numbers
from training.evaluation.metrics import auc, auc_within
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.models.encoding_inputs import key_positions, pair_keys
from training.pretraining.graph import CrossGraph
from training.pretraining.settings import PretrainSettings

_PARTS = 12
_CONF = Path(__file__).parents[1] / "conf"
Report = Callable[[str], None]


@dataclass(frozen=True)
class SlicedDataset:
    """A log.

    Attributes:
        name: of the data.
        schema: what the click model reads: no declared crosses of ids, which p_uv stands in for.
        relations: pairs of fields with a statistic.
        slices: impressions, oldest first.
        judged_from: the first slice whose scores count.
    """

    name: str
    schema: Schema
    relations: tuple[Relation, ...]
    slices: Sequence[Examples]
    judged_from: int


def globo(workspace: Path, count: int, share: float, report: Report) -> SlicedDataset:
    """Read days of Globo's clicks with drawn negatives from 2017-10-02 on, of a share of the users,
    each day in 12 slices.

    News is old after hours: what a graph of the day before says of an article is wrong today. The
    first day is not judged.
    """
    config, first = load_config(_CONF / "globo.yaml", [], workspace), date(2017, 10, 2)
    relations = RELATIONS["globo"]
    days = days_between(first, first + timedelta(days=count - 1))
    schema, times = without_crosses(config.features), moments(config, first)
    found = []
    for day in days:
        files = files_of(times, config.source, config.features, day)
        examples = _of_share(
            _day(narrowed(config, files), workspace, day, schema, relations), share
        )
        bounds = [len(examples) * part // _PARTS for part in range(_PARTS + 1)]
        found += [examples.slice(start, stop) for start, stop in pairwise(bounds)]
        report(f"globo {day}: {len(examples):,} impressions")
    return SlicedDataset("globo", schema, relations, found, _PARTS)


def kuairand(workspace: Path, count: int, share: float, report: Report) -> SlicedDataset:
    """Read days of KuaiRand-Pure up to 2022-05-08, the last three of which are judged; all users,
    whatever the share.
    """
    config, last = load_config(_CONF / "kuairand_pure.yaml", [], workspace), date(2022, 5, 8)
    relations, schema, found = RELATIONS["kuairand_pure"], without_crosses(config.features), []
    for day in days_between(last - timedelta(days=count - 1), last):
        found.append(_day(config, workspace, day, schema, relations))
        report(f"kuairand_pure {day}: {len(found[-1]):,} impressions")
    return SlicedDataset("kuairand_pure", schema, relations, found, count - 3)


def movielens(folder: Path, workspace: Path, count: int, report: Report) -> SlicedDataset:
    """Read MovieLens-1M in slices of equally many ratings by time; a rating of 4 or 5 is a click.
    The last third is judged.

    Args:
        folder: holds `ml-1m.inter`, `ml-1m.user` and `ml-1m.item`.
        workspace: where the slices go.
        count: of slices.
        report: receives a line about what was read.
    """
    schema = _movielens_schema()
    relations = (
        *relations_of("item_id", "age", "occupation"),
        Relation(left="user_id", right="release_year"),
    )
    ratings, found = _ratings(folder), []
    for number, part in enumerate(np.array_split(ratings, count)):
        path = workspace / "movielens" / f"{number}-of-{count}"
        (path / "impressions").mkdir(parents=True, exist_ok=True)
        part.to_parquet(path / "impressions" / "part-0.parquet", index=False)
        found.append(read_examples(path, schema, relations))
    report(f"movielens_1m: {len(ratings):,} ratings in {count} slices")
    return SlicedDataset("movielens_1m", schema, relations, found, 2 * count // 3)


def drawn(count: int) -> SlicedDataset:
    """Return a small dataset whose clicks depend on pairs, for runs without the data."""
    draw, relations = np.random.default_rng(0), relations_of("ad", "region")
    fields = tuple(Categorical(name=name) for name in ("viewer", "ad", "region"))
    schema = Schema(
        label="click", user="viewer", item="ad", timestamp=Timestamp(column="time"), fields=fields
    )
    taste = draw.normal(size=(80, 2)) @ draw.normal(size=(2, 12)) * 1.5
    return SlicedDataset(
        "drawn",
        schema,
        relations,
        list(_drawn(count, taste, draw, schema, relations)),
        max(1, count - 2),
    )


def _drawn(
    count: int,
    taste: np.ndarray,
    draw: np.random.Generator,
    schema: Schema,
    relations: tuple[Relation, ...],
) -> Iterator[Examples]:
    for number in range(count):
        item, region = draw.integers(80, size=3000), draw.integers(12, size=3000)
        label = draw.random(3000) < 1 / (1 + np.exp(1 - taste[item, region]))
        columns: dict[str, Any] = {
            "viewer": draw.integers(500, size=3000),
            "ad": item,
            "region": region,
        }
        frame = pd.DataFrame(
            {name: [f"{name}{x}" for x in values] for name, values in columns.items()}
        )
        stamps = (np.arange(3000) + 3000 * number) * 1000
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "impressions").mkdir()
            impressions = frame.assign(
                user=frame["viewer"],
                label=label.astype(np.int8),
                timestamp_ms=stamps,
                record_id=[str(i) for i in range(3000)],
            )
            impressions.to_parquet(Path(folder) / "impressions" / "part-0.parquet", index=False)
            yield read_examples(Path(folder), schema, relations)


def _day(
    config: Config, workspace: Path, day: date, schema: Schema, relations: tuple[Relation, ...]
) -> Examples:
    """The day's impressions, ingested by the real stage where they are not there yet."""
    store = Store(workspace)
    version = (
        store.current("impressions", day)
        or run_stage("ingest", Context(config, day, store)).version
    )
    return read_examples(version.path, schema, relations)


def _of_share(examples: Examples, share: float) -> Examples:
    """The impressions of a share of the users, the same ones every day, by the hash of the first
    field (the user's).
    """
    users = np.ascontiguousarray(examples.keys[:, 0])
    return examples if share == 1 else _take(examples, np.flatnonzero(within_share(users, share)))


def _take(examples: Examples, rows: np.ndarray) -> Examples:
    names = ("keys", "numbers", "present", "pairs", "label", "user", "record_id", "timestamp_ms")
    lists = tuple(values.take(rows) for values in examples.lists)
    return replace(examples, lists=lists, **{name: getattr(examples, name)[rows] for name in names})


def _movielens_schema() -> Schema:
    names = ("user_id", "item_id", "age", "gender", "occupation", "release_year")
    fields = (*(Categorical(name=name) for name in names), Time(name="hour"))
    return Schema(
        label="label",
        user="user_id",
        item="item_id",
        timestamp=Timestamp(column="timestamp"),
        fields=fields,
    )


def _ratings(folder: Path) -> pd.DataFrame:
    ratings = pd.read_csv(folder / "ml-1m.inter", sep="\t", dtype=str)
    users, items = (
        pd.read_csv(folder / f"ml-1m.{name}", sep="\t", dtype=str) for name in ("user", "item")
    )
    whole = ratings.merge(users, on="user_id:token").merge(items, on="item_id:token")
    seconds = whole["timestamp:float"].astype(float).astype(np.int64)
    names = {
        "user_id": "user_id:token",
        "item_id": "item_id:token",
        "age": "age:float",
        "gender": "gender:token",
    }
    names |= {
        "occupation": "occupation:float",
        "release_year": "release_year:float",
        "user": "user_id:token",
    }
    frame = pd.DataFrame({name: whole[column].fillna("") for name, column in names.items()})
    label = (whole["rating:float"].astype(float) >= 4).astype(np.int8)
    records = [str(i) for i in range(len(frame))]
    frame = frame.assign(
        label=label, timestamp_ms=seconds * 1000, hour=seconds.astype(str), record_id=records
    )
    return frame.sort_values("timestamp_ms", kind="stable", ignore_index=True)


@dataclass
class Scores:
    """Figures of each judged slice, and the cross features that the last one was scored with."""

    auc: list[float] = field(default_factory=list)
    auc_seen: list[float] = field(default_factory=list)
    auc_unseen: list[float] = field(default_factory=list)
    share_seen: list[float] = field(default_factory=list)
    last: Made = field(default_factory=lambda: Made({}))

    def figures(self) -> dict[str, Any]:
        """Return means over the slices, and what the last cross features were."""
        means = {
            n: round(float(np.mean(getattr(self, n))), 5)
            for n in ("auc", "auc_seen", "auc_unseen", "share_seen")
        }
        return {**means, "bytes": self.last.bytes, "relations": self.last.figures}


def take(
    dataset: SlicedDataset, settings: PretrainSettings | None, window: int, report: Report
) -> Scores:
    """Take a variant through a dataset, its cross features made anew for every slice from the
    `window` slices before it.

    A pair is seen when it is an edge of that graph; an impression is seen when its pairs of all
    relations are.
    """
    learners, scores, scalers = (
        ModelAndBaseline.new(LearnerConfig(dataset.schema, MODEL, TRAINING, dataset.relations)),
        Scores(),
        _scalers(dataset),
    )
    for number, examples in enumerate(dataset.slices):
        before = dataset.slices[max(0, number - window) : number]
        graph = graph_of(before, dataset.relations) if before else None
        cross = made(settings, graph) if graph else Made({})
        inputs = Featurizer(dataset.schema, dataset.relations, scalers, cross.encodings).inputs(
            examples
        )
        if number >= dataset.judged_from and graph:
            scores.last = cross
            _judge(
                scores, learners.model.predict(inputs), examples, _seen(examples, graph, dataset)
            )
        if not number:
            learners.start_at_click_rate(examples.label)
        learners.model.table.start_day()
        train_once(learners.model, inputs, TRAINING)
        report(
            f"slice {number}: {cross.bytes:,} bytes of cross features, AUC {scores.auc[-1:] or 'not judged'}"
        )
    return scores


def _judge(
    scores: Scores, probability: NDArray[np.float32], examples: Examples, seen: NDArray[np.bool_]
) -> None:
    scores.auc.append(auc(examples.label, probability))
    scores.auc_seen.append(auc_within(examples.label, probability, seen))
    scores.auc_unseen.append(auc_within(examples.label, probability, ~seen))
    scores.share_seen.append(float(seen.mean()))


def _seen(examples: Examples, graph: CrossGraph, dataset: SlicedDataset) -> NDArray[np.bool_]:
    seen = np.ones(len(examples), np.bool_)
    for i, relation in enumerate(dataset.relations):
        left, right = graph.sides(relation.name)
        edges = graph.edges[relation.name]
        known = np.sort(pair_keys(left[edges.left], right[edges.right]))
        seen &= (
            key_positions(known, pair_keys(examples.pairs[:, i, 0], examples.pairs[:, i, 1])) > 0
        )
    return seen


def _scalers(dataset: SlicedDataset) -> Mapping[str, Any]:
    first = dataset.slices[0]
    return scalers_from_numbers(FieldLayout.of(dataset.schema).dense, first.numbers, first.present)


_COLUMNS = ("auc", "auc_seen", "auc_unseen", "share_seen", "bytes")


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Annotated[
        str, typer.Option(help="Comma-separated: globo, kuairand_pure, movielens_1m.")
    ] = "globo,kuairand_pure",
    movielens_folder: Annotated[
        Path, typer.Option("--movielens", help="Holds ml-1m.inter and its side files.")
    ] = Path("ml-1m"),
    workspace: Annotated[
        Path, typer.Option(help="Where days and figures are kept; reused.")
    ] = Path("workspace-pcf-gnn"),
    variants: Annotated[
        str, typer.Option("--arms", help="Comma-separated; all by default.")
    ] = ",".join(VARIANTS),
    days: Annotated[int, typer.Option(min=2, help="Of globo, the first one not judged.")] = 3,
    share: Annotated[float, typer.Option(min=0.001, max=1, help="Of globo's users.")] = 0.25,
    window: Annotated[
        int,
        typer.Option(
            min=1, help="Slices before that a graph is of: days, twelfths of Globo's days."
        ),
    ] = 7,
    peer: Annotated[
        bool, typer.Option("--peer", help="Only edges a second, ours and DGL's.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few drawn impressions in place of the data.")
    ] = False,
) -> None:
    """Take every input through the data, and print the figures."""
    if peer:
        print_json(throughput(Load(), workspace))
        return
    makers: dict[str, Callable[[], SlicedDataset]] = {
        "globo": lambda: globo(workspace / "globo", days, share, progress),
        "kuairand_pure": lambda: kuairand(workspace / "kuairand", 14, share, progress),
        "movielens_1m": lambda: movielens(movielens_folder, workspace, 15, progress),
        "drawn": lambda: drawn(4),
    }
    tried, names = (
        chosen(variants, VARIANTS, "--arms"),
        chosen("drawn" if quick else data, makers, "--data"),
    )
    with refusals():
        results = {
            name: _figures(
                makers[name], name, tried, window, workspace / f"{name}-{days}-{share}-{window}"
            )
            for name in names
        }
    _show(results, as_json)


def _figures(
    make: Callable[[], SlicedDataset],
    name: str,
    variants: tuple[str, ...],
    window: int,
    folder: Path,
) -> dict[str, Any]:
    """Figures by variant; those that are kept are read, and the data only if one is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = (
        make() if any(not (folder / f"{variant}.json").is_file() for variant in variants) else None
    )
    for variant in variants:
        path = folder / f"{variant}.json"
        if dataset and not path.is_file():
            scores = take(
                dataset,
                VARIANTS[variant],
                window,
                lambda text, variant=variant: progress(f"{name}, {variant}: {text}"),
            )
            path.write_text(json.dumps(scores.figures()), encoding="utf-8")
    return {
        variant: json.loads((folder / f"{variant}.json").read_text(encoding="utf-8"))
        for variant in variants
    }


def _show(results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    for name, by_variant in results.items():
        lines = [
            (variant, *(str(figures[column]) for column in _COLUMNS))
            for variant, figures in by_variant.items()
        ]
        console.table(
            f"{name}: cross features given to one click model", ("input", *_COLUMNS), lines
        )


if __name__ == "__main__":
    typer.run(main)
