"""A user's configuration file with some fields taken out: what `select-features` hands back. Comments are lost."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from features.errors import InputError
from features.schema import Relation
from pipelines.config import Config, load_config

_VARIABLE = re.compile(r"\$\{[^}]*\}")
_NAMING = ("model", "training", "data_gate")
"""Sections that may name fields, as keys (`min_counts: {tag: 2}`) or in lists (`fields: [user, item]`)."""


def write_pruned(
    source: Path,
    dropped: Collection[str],
    out: Path,
    workspace: Path,
    overrides: Sequence[str] = (),
) -> Config:
    """Write the file at `source` without the dropped fields and relations, and return what it says, with overrides.

    Placeholders such as `${WORKSPACE}` stay as they are. Everything that names a dropped field goes with it: crosses and
    relations must be among `dropped` if a part of theirs is.

    Args:
        source: the YAML file, which stays as it is.
        dropped: names of fields, and of relations (`left__right`).
        out: the YAML file to write.
        workspace: what `${WORKSPACE}` stands for.
        overrides: as `load_config` takes them; they are not written.

    Raises:
        InputError: the file cannot be read, or is not valid without these fields; nothing is left at `out` then.
    """
    text = source.read_text(encoding="utf-8")
    variables = list(dict.fromkeys(_VARIABLE.findall(text)))
    document = prune_document(yaml.safe_load(_hidden(text, variables)), frozenset(dropped))
    pruned = yaml.safe_dump(
        document, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
    heading = f"# {source.name} without {len(set(dropped))} of its inputs, as `elastic-ctr select-features` chose.\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(heading + _shown(pruned, variables), encoding="utf-8")
    try:
        return load_config(out, overrides, workspace)
    except InputError:
        out.unlink()
        raise


def prune_document(document: dict[str, Any], dropped: frozenset[str]) -> dict[str, Any]:
    """Return a configuration's document without the dropped fields and relations, and without their names elsewhere."""
    features, graph = document["features"], document.get("graph", {})
    pruned = document | {
        "features": features
        | {"fields": [f for f in features["fields"] if f["name"] not in dropped]}
    }
    if "relations" in graph:
        kept = [r for r in graph["relations"] if Relation.model_validate(r).name not in dropped]
        pruned |= {"graph": graph | {"relations": kept}}
    pruned |= {name: _unnamed(document[name], dropped) for name in _NAMING if name in document}
    if "groups" in pruned.get("model", {}):
        groups = [group for group in pruned["model"]["groups"] if group["fields"]]
        pruned["model"] = {
            name: value for name, value in pruned["model"].items() if name != "groups"
        }
        pruned["model"] |= {"groups": groups} if groups else {}
    return pruned


def _unnamed(value: Any, dropped: frozenset[str]) -> Any:
    """Take names out of the keys of mappings and out of lists."""
    if isinstance(value, dict):
        return {key: _unnamed(part, dropped) for key, part in value.items() if key not in dropped}
    if isinstance(value, list):
        return [
            _unnamed(part, dropped)
            for part in value
            if not (isinstance(part, str) and part in dropped)
        ]
    return value


def _hidden(text: str, variables: list[str]) -> str:
    """Put a word in place of each placeholder, which YAML could take for a mapping."""
    for number, variable in enumerate(variables):
        text = text.replace(variable, _word(number))
    return text


def _shown(text: str, variables: list[str]) -> str:
    for number, variable in enumerate(variables):
        text = text.replace(_word(number), variable)
    return text


def _word(number: int) -> str:
    return f"PLACEHOLDER{number}END"
