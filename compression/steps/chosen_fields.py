"""Which fields a file that `select-features` wrote leaves out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from features.errors import InputError
from features.schema import Relation
from training.fit.checkpoints import Description


def chosen_fields(path: Path, told: Description) -> frozenset[str]:
    """Return the fields and relations of a model that a `selection.json` drops, or that a pruned YAML lacks.

    Raises:
        InputError: the file is missing, or neither of the two.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return frozenset(
                line["name"] for line in json.loads(text)["fields"] if not line["kept"]
            )
        document = yaml.safe_load(text)
        kept = {field["name"] for field in document["features"]["fields"]} | set(
            _relations(document)
        )
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: no selection.json and no YAML with features.fields ({error}); run select-features"
        ) from error
    return frozenset({*told.schema.names(), *(relation.name for relation in told.relations)} - kept)


def _relations(document: Mapping[str, Any]) -> Iterator[str]:
    for relation in document.get("graph", {}).get("relations", []):
        yield Relation.model_validate(relation).name
