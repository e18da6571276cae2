"""What versions were made from: warm starts, champions, ancestors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date

from features.files import write_atomically
from features.partition import Partition, parse_partition
from pipelines.store.artifacts import DamagedError, Store, Version

BLOCKED = "tracking/blocked.json"


def sound_checkpoint(store: Store, checkpoint: Version, *, unvalidated: bool = False) -> bool:
    """Whether training may start from a checkpoint: validated, not `unsound`, not blocked.

    A refused candidate is sound: it was merely not better than the champion.

    Args:
        store: holds the validation reports.
        checkpoint: the one to start from.
        unvalidated: the answer for a checkpoint that no report is about.
    """
    report = store.current("validation_report", checkpoint.day)
    # A report on an older version of the day or hour says nothing about this one.
    # A blocked version whose artifacts were missing when it was blocked blocks its whole day.
    blocked = {entry["checkpoint"] or entry["day"] for entry in read_blocked(store).values()}
    if blocked & {checkpoint.hash, checkpoint.day.isoformat()}:
        return False
    if report is None or report.commit["inputs"]["checkpoint"]["hash"] != checkpoint.hash:
        return unvalidated
    return verdict_of(report) != "unsound"


def parent_checkpoint(
    store: Store,
    day: Partition,
    report: Callable[[str], None],
    *,
    unvalidated: bool,
    looks_only: bool = False,
) -> Version | None:
    """Return the checkpoint that training of a day or hour starts from, or None.

    It is the latest before the day that is sound and undamaged; each that is passed over is
    reported, and a damaged one is set aside.

    Raises:
        DamagedError: `looks_only`, and a checkpoint that would be set aside is damaged.
    """

    def accept(checkpoint: Version) -> bool:
        if not sound_checkpoint(store, checkpoint, unvalidated=unvalidated):
            report(
                f"no warm start from the checkpoint of {checkpoint.day}: it is blocked, or "
                "validate-model did not find it sound"
            )
            return False
        try:
            checkpoint.verify()
        except DamagedError as error:
            if looks_only:
                raise
            report(f"{error}; it was set aside as {checkpoint.set_aside().name}")
            return False
        return True

    return store.latest_before("checkpoint", day, accept)


def read_blocked(store: Store) -> dict[str, dict[str, str]]:
    """Return the blocked versions by `<model>/<version>`.

    Each has `version`, `day`, `reason`, and `checkpoint`, the hash of the checkpoint it came from.
    """
    path = store.workspace / BLOCKED
    if not path.is_file():
        return {}
    found: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_blocked(store: Store, blocked: Mapping[str, Mapping[str, str]]) -> None:
    """Replace the list of blocked versions."""
    path = store.workspace / BLOCKED
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(blocked, indent=1))


def verdict_of(report: Version) -> str:
    """Return `blessed`, `refused` or `unsound`, from the report's own file.

    Raises:
        DamagedError: the file is not the one that was committed.
    """
    report.verify()
    document = json.loads((report.path / "verdict.json").read_text(encoding="utf-8"))
    return str(document["verdict"])


def champions(store: Store) -> Iterator[Version]:
    """Yield the promotion decisions that made a champion, the latest first."""
    return (v for v in store.before("promotion", date.max) if v.metrics["promoted"])


def inputs_of(store: Store, version: Version) -> dict[str, Version | None]:
    """Return the inputs of a version by the names that its stage gives them; None: deleted."""
    return {
        name: store.find(entry["artifact"], parse_partition(entry["day"]), entry["hash"])
        for name, entry in version.commit["inputs"].items()
    }


def input_of(store: Store, version: Version, name: str) -> Version | None:
    """Return one input of a version; None if there is none of that name or it was deleted."""
    return inputs_of(store, version).get(name)


def ancestry(store: Store, version: Version) -> dict[str, object]:
    """Return a version and, nested, everything it was made from."""
    made_from = {
        name: ancestry(store, parent)
        if parent
        else {**version.commit["inputs"][name], "missing": True}
        for name, parent in inputs_of(store, version).items()
    }
    return {
        "artifact": version.artifact,
        "day": version.day.isoformat(),
        "hash": version.hash,
        "made_from": made_from,
    }


def ancestry_text(store: Store, version: Version) -> str:
    """Return `ancestry` as JSON."""
    return json.dumps(ancestry(store, version), indent=1)
