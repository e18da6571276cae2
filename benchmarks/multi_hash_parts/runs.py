"""One learned model a file, so that an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from multi_hash_parts.learning import learn
from multi_hash_parts.movielens import Rows, Split
from multi_hash_parts.systems import Plan, System
from multi_hash_parts.tables import Tables, tables

CHOOSING_SEED = 0
"""The run that passes are chosen by; the reported ones have other seeds, so other collisions."""


def chosen_passes(system: System, split: Split, folder: Path) -> int:
    """Return after how many passes the AUC on the validation split is best, from a run that has not seen it."""
    return (
        int(
            np.argmax(
                _aucs(system, split, split.train, split.valid, CHOOSING_SEED, folder / "choosing")
            )
        )
        + 1
    )


def aucs_by_pass(system: System, split: Split, seed: int, folder: Path) -> list[float]:
    """Return the test AUC after every pass over all but each user's last two ratings."""
    learned = Rows(
        *(
            np.concatenate([getattr(split.train, name), getattr(split.valid, name)])
            for name in ("user", "item", "label")
        )
    )
    return _aucs(system, split, learned, split.test, seed, folder / "testing")


def _aucs(
    system: System, split: Split, learned: Rows, measured: Rows, seed: int, folder: Path
) -> list[float]:
    told = _told(system) | {
        "seed": seed,
        "rows": len(learned.label),
        "positive": float(learned.label.mean()),
    }
    path = folder / f"{_digest(told)}.json"
    if path.exists():
        done: list[float] = json.loads(path.read_text())["auc"]
        return done
    rng = np.random.default_rng(seed)
    user, item = (
        _made(plan, name, seed, rng)
        for plan, name in ((system.user, "user"), (system.item, "item"))
    )
    aucs = learn(user, item, learned, measured, system.recipe, rng)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"told": told, "auc": aucs}, indent=1))
    return aucs


def shortened(system: System, epochs: int) -> System:
    """Return the system with another number of passes."""
    return replace(system, recipe=replace(system.recipe, epochs=epochs))


def _made(plan: Plan, name: str, seed: int, rng: np.random.Generator) -> Tables:
    return tables(plan.settings, f"{name} {seed}", plan.ids, plan.own, rng)


def _told(system: System) -> dict[str, Any]:
    return {"user": _plan(system.user), "item": _plan(system.item), "recipe": asdict(system.recipe)}


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "ids": plan.ids,
        "own": plan.own,
        "settings": plan.settings.model_dump() if plan.settings else None,
    }


def _digest(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
