"""Who descends from whom: which checkpoint may be warm-started, which model serves now."""

from __future__ import annotations

import json
from datetime import date

from features.partition import Partition, parse_partition
from pipelines.store.artifacts import Store, Version


def sound_checkpoint(store: Store, checkpoint: Version) -> bool:
    """Whether a checkpoint may be learned on from: its own verdict, if there is one, is not `unsound`.

    A refused candidate is sound: it was merely not better. The verdict is followed down the recorded inputs, so that
    a verdict on an older version of the day or hour says nothing about this one.
    """
    report = store.current("validation_report", checkpoint.day)
    if report is None or report.commit["inputs"]["checkpoint"]["hash"] != checkpoint.hash:
        return True
    return report.metrics["verdict"] != "unsound"


def champion_before(store: Store, day: Partition) -> Version | None:
    """Return the latest promotion decision strictly before a day or hour that promoted its candidate, or None."""
    return store.latest_before("promotion", day, lambda v: bool(v.metrics["promoted"]))


def champion(store: Store) -> Version | None:
    """Return the promotion decision of the model that serves now, or None."""
    return champion_before(store, date.max)


def promoted(store: Store, decision: Version, name: str) -> Version | None:
    """Return an input (`export`, `compressed`, …) of a promotion decision."""
    return read_by(store, decision, name)


def read_by(store: Store, version: Version, name: str) -> Version | None:
    """Return an input of a version, by the name that its stage gives it; None when it has none, or it is gone."""
    entry = version.commit["inputs"].get(name)
    return (
        store.find(entry["artifact"], parse_partition(entry["day"]), entry["hash"])
        if entry
        else None
    )


def ancestry(store: Store, version: Version) -> dict[str, object]:
    """Return a version and, nested, everything it was made from."""
    made_from = {}
    for name, entry in version.commit["inputs"].items():
        parent = store.find(entry["artifact"], parse_partition(entry["day"]), entry["hash"])
        made_from[name] = ancestry(store, parent) if parent else {**entry, "missing": True}
    return {
        "artifact": version.artifact,
        "day": version.day.isoformat(),
        "hash": version.hash,
        "made_from": made_from,
    }


def ancestry_text(store: Store, version: Version) -> str:
    """Return `ancestry` as JSON."""
    return json.dumps(ancestry(store, version), indent=1)
