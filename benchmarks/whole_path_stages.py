"""The models of `whole_path.py`: the dataset as the path uses it, and each stage's model and
statistics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from harness.cache import description_digest
from harness.cross_features import RELATIONS, VARIANTS, graph_of, made, without_crosses
from harness.datasets import Dataset, flatten
from harness.training import Crossed, Spent, TrainedModel, timed

from compression.selection.footprint import Budget
from compression.selection.ranking import SelectionData, rank_fields
from compression.selection.report import FieldSelection
from compression.settings import SelectionSettings
from compression.steps.drop_fields import without_fields
from features.schema import Categorical, Cross, MultiHash, Relation, Schema
from training.data.examples import read_examples
from training.fit.checkpoints import ENCODINGS, Description
from training.fit.model_and_baseline import LearnerConfig
from training.models.encoding_inputs import write_encodings
from training.pretraining.settings import PretrainSettings
from training.settings import ModelSettings, RelationNetworkSettings, TrainingSettings

_CROSSES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "kuairand_pure": (
        ("user_id", "author_id"),
        ("user_id", "tab"),
        ("user_active_degree", "video_id"),
        ("onehot_feat1", "video_id"),
        ("tab", "video_id"),
        ("tab", "author_id"),
    ),
    "globo": (
        ("click_article_id", "click_region"),
        ("click_article_id", "click_referrer_type"),
        ("click_article_id", "click_country"),
        ("click_article_id", "click_deviceGroup"),
        ("click_article_id", "click_os"),
    ),
    "drawn": (("user_id", "place"), ("item_id", "place")),
}
"""User style × item style. On Globo the user is left out: next to no user meets an article twice.
"""

_STATISTICS = {**RELATIONS, "drawn": (Relation(left="item_id", right="place"),)}
_SPELLED = ("article_region", "article_referrer")
"""Crosses of `conf/globo.yaml` that are columns of the flat days; here they are declared, or gone.
"""

_PIECES, _SLICES = {"globo": 4}, {"kuairand_pure": 3}
"""What a day is cut into, as the statistics of the day before say little of news; and how many
slices all days but the last make, as a day of 14,000 impressions takes less time to learn than its
model to build."""


@dataclass(frozen=True)
class Walk:
    """A log, and what is crossed in it.

    Attributes:
        dataset: the log, without crosses.
        crosses: declared at the start.
        relations: pairs whose statistics the model reads.
    """

    dataset: Dataset
    crosses: tuple[Cross, ...]
    relations: tuple[Relation, ...]

    @classmethod
    def of(cls, dataset: Dataset, folder: Path) -> Walk:
        """Return the walk through a log, its days cut or laid together in `folder` as is said
        above.
        """
        name, pieces = dataset.name, _PIECES.get(dataset.name, 1)
        fields = tuple(field for field in dataset.schema.fields if field.name not in _SPELLED)
        fraction = dataset.training.holdout_fraction * pieces
        plain = replace(
            dataset,
            schema=dataset.schema.model_copy(update={"fields": fields}),
            training=dataset.training.model_copy(update={"holdout_fraction": fraction}),
            days=[piece for day in _merged(dataset, folder) for piece in _cut(day, pieces, folder)],
            hashed=tuple(field for field in dataset.hashed if field not in _SPELLED),
        )
        crosses = tuple(Cross(name=f"{a}_x_{b}", of=(a, b)) for a, b in _CROSSES[name])
        return cls(plain, crosses, _STATISTICS[name])


def _merged(dataset: Dataset, folder: Path) -> list[Path]:
    """The days; where they are small, those before the last one laid together."""
    days, count = list(dataset.days), _SLICES.get(dataset.name, 0)
    if not count:
        return days
    bounds = [(len(days) - 1) * number // count for number in range(count + 1)]
    slices = [
        flatten(days[start:stop], dataset.schema, folder / f"{start}-to-{stop}", None)
        for start, stop in pairwise(bounds)
    ]
    return [*slices, days[-1]]


def _cut(day: Path, pieces: int, folder: Path) -> list[Path]:
    """Write a flat day as so many of equally many impressions, in the order of time. Done once."""
    if pieces == 1:
        return [day]
    outs = [folder / f"{day.name}-{number}-of-{pieces}" for number in range(pieces)]
    if not all((out / "impressions").is_dir() for out in outs):
        table = pq.read_table(day / "impressions").sort_by(
            [("timestamp_ms", "ascending"), ("record_id", "ascending")]
        )
        bounds = [len(table) * number // pieces for number in range(pieces + 1)]
        for out, (start, stop) in zip(outs, pairwise(bounds), strict=True):
            _write(table.slice(start, stop - start), out / "impressions")
    return outs


def _write(table: pa.Table, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "part-00000.parquet")


_LEAST_ROWS = 16


@dataclass(frozen=True)
class Stage:
    """A model to learn.

    Attributes:
        schema: its fields.
        model: its settings.
        relations: pairs whose p_uv it reads.
        statistics: what makes p_uv.
        training: how it is learned.
    """

    schema: Schema
    model: ModelSettings
    relations: tuple[Relation, ...]
    statistics: PretrainSettings
    training: TrainingSettings


def start(walk: Walk, dim: int, lasso: bool) -> Stage:
    """Return the massive model: every cross of ids has rows of its own, every statistic a table;
    without lasso all rows stay.
    """
    settings = walk.dataset.model
    rows = {
        name: one if lasso else one.model_copy(update={"l21": 0.0})
        for name, one in (("deep", settings.deep), ("wide", settings.wide))
    }
    schema = walk.dataset.schema.model_copy(
        update={"fields": (*walk.dataset.schema.fields, *walk.crosses)}
    )
    return Stage(
        schema,
        settings.model_copy(update={"dim": dim, **rows}),
        walk.relations,
        _made_by("lookup"),
        walk.dataset.training,
    )


def with_network(stage: Stage, walk: Walk) -> Stage:
    """Put a relation network of the crossed fields in the place of the crosses."""
    parts = {name for cross in walk.crosses for name in cross.of}
    network = RelationNetworkSettings(
        fields=tuple(name for name in stage.schema.names() if name in parts)
    )
    model = stage.model.model_copy(update={"relations": network})
    return replace(stage, schema=without_crosses(stage.schema), model=model)


def with_gnn(stage: Stage) -> Stage:
    """Put encodings of nodes, 4 numbers of 2 bytes, in the place of the tables of pairs."""
    return replace(stage, statistics=_made_by("pcf_gnn_half"))


def hashed(stage: Stage, values: Mapping[str, int], a_row: int, frequent: int) -> Stage:
    """Let the values of fields, so many each, be two rows of two tables that have a row for every
    `a_row` of them together.

    With `frequent`, a value seen so often has a row of its own besides.
    """
    rows = {name: max(_LEAST_ROWS, count // a_row) for name, count in values.items()}
    own, training = frequent > 0, stage.training
    if own:
        admission = training.admission.model_copy(
            update={"min_counts": dict.fromkeys(rows, frequent)}
        )
        training = training.model_copy(update={"admission": admission})
    fields = tuple(
        field.model_copy(update={"multi_hash": MultiHash(rows=rows[field.name], own_rows=own)})
        if isinstance(field, Categorical) and field.name in rows
        else field
        for field in stage.schema.fields
    )
    return replace(
        stage, schema=stage.schema.model_copy(update={"fields": fields}), training=training
    )


def dropping(stage: Stage, description: Description, dropped: Set[str]) -> Stage:
    """Leave out what the selection dropped; `description` is of the stage's model."""
    left, admission = without_fields(description, frozenset(dropped)), stage.training.admission
    counts = {name: count for name, count in admission.min_counts.items() if name not in dropped}
    training = stage.training.model_copy(
        update={"admission": admission.model_copy(update={"min_counts": counts})}
    )
    return replace(
        stage, schema=left.schema, model=left.model, relations=left.relations, training=training
    )


def _made_by(variant: str) -> PretrainSettings:
    settings = VARIANTS[variant]
    assert settings is not None, "a variant without cross features makes none"
    return settings


_WINDOW = 7


def pretrained(walk: Walk, stage: Stage, folder: Path) -> tuple[Crossed, Spent]:
    """Make the encodings that each slice is learned with, or find those made before, and say what
    making them took.
    """
    description = [
        str(walk.dataset.days[0]),
        [r.name for r in stage.relations],
        stage.statistics.model_dump(mode="json"),
    ]
    home = folder / description_digest(description)
    slices = range(1, len(walk.dataset.days))
    spent = sum((_fitted(walk, stage, number, home / str(number)) for number in slices), Spent())
    found = (None, *(home / str(number) for number in slices))
    return Crossed(stage.relations, found), spent


def _fitted(walk: Walk, stage: Stage, number: int, out: Path) -> Spent:
    """Fit one graph, and note what that took."""
    note = out / "spent.json"
    if not note.is_file():
        _, spent = timed(partial(_fit, walk, stage, number, out))
        note.write_text(json.dumps(asdict(spent)), encoding="utf-8")
    return Spent(**json.loads(note.read_text(encoding="utf-8")))


def _fit(walk: Walk, stage: Stage, number: int, out: Path) -> None:
    sides = {name for relation in stage.relations for name in (relation.left, relation.right)}
    fields = tuple(field for field in walk.dataset.schema.fields if field.name in sides)
    schema = walk.dataset.schema.model_copy(update={"fields": fields})
    before = walk.dataset.days[max(0, number - _WINDOW) : number]
    graph = graph_of(
        [read_examples(day, schema, stage.relations) for day in before], stage.relations
    )
    out.mkdir(parents=True, exist_ok=True)
    write_encodings(out / ENCODINGS, made(stage.statistics, graph).encodings)


_LEARNED_ON = 3
"""Last slices that the gates learn; the held-out part of the last one has no part in it. They begin
where statistics were learned, with the second slice at the soonest."""

_GATES = SelectionSettings(online=0.5)
"""As for KuaiRand in docs/results/kuairand.md, where it was chosen on days that are learned here, not
held out.
"""


@dataclass(frozen=True)
class Chosen:
    """Importance of every input, and those that the budget had no room for."""

    importance: dict[str, float]
    dropped: frozenset[str]


def choose(walk: Walk, stage: Stage, learned: TrainedModel, share: float) -> Chosen:
    """Rank a learned stage's inputs, and keep what fits into a share of its bytes."""
    dataset = walk.dataset
    first = min(max(2, len(dataset.days) - _LEARNED_ON), len(dataset.days) - 1)
    source = SelectionData(learned.of_day(first - 1), tuple(dataset.days[first:]))
    recipe = LearnerConfig(stage.schema, stage.model, stage.training, stage.relations)
    ranking = rank_fields(source, recipe, _GATES)
    whole = ranking.footprint.of(frozenset(ranking.importance)).bytes
    kept = FieldSelection.kept_of(ranking, recipe, Budget(bytes=int(share * whole)))
    order = {name: round(ranking.importance[name], 4) for name in ranking.order()}
    return Chosen(order, frozenset(order) - kept)
