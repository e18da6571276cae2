"""Statistics of pairs for each slice of a log, made of the slices before it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from compression_parts.learned import Crossed
from compression_parts.spent import Spent, timed
from pcf_gnn_parts.arms import made
from pcf_gnn_parts.graphs import graph_of

from training.data.examples import read_examples
from training.fit.checkpoints import ENCODINGS
from training.models.encoding_inputs import write_encodings
from whole_path_parts.stages import Stage
from whole_path_parts.walk import Walk

_WINDOW = 7


def pretrained(walk: Walk, stage: Stage, folder: Path) -> tuple[Crossed, Spent]:
    """Make the encodings that each slice is learned with, or find those made before, and say what making them took."""
    told = [
        str(walk.world.days[0]),
        [r.name for r in stage.relations],
        stage.statistics.model_dump(mode="json"),
    ]
    home = folder / hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    slices = range(1, len(walk.world.days))
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
    fields = tuple(field for field in walk.world.schema.fields if field.name in sides)
    schema = walk.world.schema.model_copy(update={"fields": fields})
    before = walk.world.days[max(0, number - _WINDOW) : number]
    graph = graph_of(
        [read_examples(day, schema, stage.relations) for day in before], stage.relations
    )
    out.mkdir(parents=True, exist_ok=True)
    write_encodings(out / ENCODINGS, made(stage.statistics, graph).encodings)
