"""A day by its date, or the day of the model that serves now; and a plan of compression in the place of the configuration's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from features.errors import InputError
from features.partition import Partition, parse_partition
from pipelines.store.artifacts import Store
from pipelines.store.lineage import champion

CHAMPION = "champion"
"""What is written for a date to mean the day of the model that serves now."""

_SECTION = "compression"


def day_or_champion(text: str, store: Store) -> Partition:
    """Return a day or hour from its spelling, or that of the champion.

    Raises:
        InputError: it is neither a date nor `champion`, or nothing was promoted yet.
    """
    if text != CHAMPION:
        return parse_partition(text)
    serving = champion(store)
    if serving is None:
        raise InputError(
            f"--date champion: nothing was promoted in {store.workspace} yet; run the chain (`elastic-ctr status`)"
        )
    return serving.day


def with_plan(overrides: list[str], plan: Path | None) -> list[str]:
    """Return overrides after which the section `compression` is the plan's.

    Raises:
        InputError: the file cannot be read, or is no plan of `search-compression`.
    """
    return overrides if plan is None else [*overrides, f"{_SECTION}={json.dumps(_section(plan))}"]


def _section(plan: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(plan.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            f"{plan}: cannot read the plan ({error}); `elastic-ctr search-compression` writes one"
        ) from error
    if not isinstance(document, dict) or set(document) != {_SECTION}:
        raise InputError(
            f"{plan}: expected the section `{_SECTION}` alone, as `elastic-ctr search-compression` writes it"
        )
    section: dict[str, Any] = document[_SECTION]
    return section
