"""The champion: the model version that the registry's alias names, and its content in a workspace.

The registry decides. The workspace keeps a copy of its last answer (`tracking/champion.json`), for
the commands that only read while MLflow does not answer, and for `clean`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from features.errors import ElasticCtrError, InputError, RetryableError
from features.files import write_atomically
from features.partition import Partition, end_h, parse_partition
from pipelines.store.artifacts import Store, Version
from pipelines.store.lease import lease
from pipelines.store.lineage import input_of, read_blocked, write_blocked
from pipelines.tracking.registry import CHAMPION, Registered, Registry
from pipelines.tracking.sync import Tracker, reachable

COPY = "tracking/champion.json"
INTENT = "tracking/rollback.json"
"""Exists while a rollback is under way."""

_WAIT_S = 120.0


@dataclass(frozen=True)
class Champion:
    """A version of the registry that serves or served.

    Attributes:
        model: the registered model.
        version: its version.
        day: day or hour that it was trained on (ISO), "" if the registry does not say.
        digest: hash of the `export` version that it holds.
        replaced: the version that served before it, "" if there was none.
        asked_at: when the registry gave this answer, ISO; "" if it did just now.
    """

    model: str
    version: str
    day: str
    digest: str
    replaced: str = ""
    asked_at: str = ""

    @property
    def partition(self) -> Partition:
        """The day or hour that it was trained on."""
        return parse_partition(self.day)

    def __str__(self) -> str:
        asked = f" (as MLflow said at {self.asked_at})" if self.asked_at else ""
        return f"version {self.version} of {self.day or 'an unknown day'}{asked}"

    def export(self, store: Store) -> Version | None:
        """Return the export in a workspace, or None when it is not there."""
        return store.find("export", self.partition, self.digest) if self.day else None

    def checkpoint(self, store: Store) -> Version | None:
        """Return the checkpoint that it was made from, or None when it is not there."""
        export = self.export(store)
        compressed = input_of(store, export, "compressed") if export else None
        return input_of(store, compressed, "checkpoint") if compressed else None

    def compressed(self, store: Store) -> Version:
        """Return the compressed model, every file checked.

        Raises:
            InputError: it is missing or damaged.
        """
        export = self.export(store)
        found = input_of(store, export, "compressed") if export else None
        if found is None:
            raise InputError(f"its artifacts are not in {store.workspace}")
        found.verify()
        return found


def connect(store: Store, model: str) -> tuple[Registry, AbstractContextManager[None]]:
    """Return the registry, and a context that turns missing answers into RetryableErrors."""
    tracker = Tracker(store.workspace, model)
    return Registry(tracker.client(), model), reachable(tracker.uri)


def serving_champion(store: Store, model: str) -> Champion | None:
    """Ask the registry for the champion and keep a copy of the answer.

    Raises:
        RetryableError: MLflow does not answer.
    """
    registry, answered = connect(store, model)
    with answered:
        version = registry.alias(CHAMPION)
        found = None if version is None else _champion(registry.read(version), model)
        previous = _before(registry, found.version) if found else None
    remember(store, model, found, _champion(previous, model) if previous else None)
    return found


def known_champion(store: Store, model: str, report: Callable[[str], None]) -> Champion | None:
    """Return the champion; while MLflow does not answer, that of its last answer, which is said.

    Raises:
        RetryableError: MLflow does not answer and never did for this workspace.
    """
    try:
        return serving_champion(store, model)
    except RetryableError as error:
        copies = _read_copies(store)
        if model not in copies:
            raise
        report(str(error).partition(". ")[0] + ": its last answer is used")
        copy, asked_at = copies[model]["champion"], copies[model]["asked_at"]
        return Champion(**copy, asked_at=asked_at) if copy else None


def version_of(store: Store, model: str, version: str) -> Champion:
    """Return a version of the registry; raises InputError if there is none of that number."""
    registry, answered = connect(store, model)
    with answered:
        return _champion(registry.read(version), model)


def champion_before(store: Store, model: str, day: Partition) -> Champion | None:
    """Return the latest version of a day before `day` that was promoted and is not blocked."""
    registry, answered = connect(store, model)
    with answered:
        earlier = [
            _champion(version, model)
            for version in registry.versions()
            if version.promoted and not version.blocked and version.day
        ]
    before = [c for c in earlier if end_h(c.partition) < end_h(day)]
    return max(before, key=lambda c: (end_h(c.partition), int(c.version)), default=None)


def was_ever_promoted(store: Store, model: str) -> bool:
    """Whether a version of the model was promoted, by the registry or by this workspace."""
    registry, answered = connect(store, model)
    with answered:
        registered = any(version.promoted for version in registry.versions())
    copies = _read_copies(store)
    return registered or bool(model in copies and copies[model]["champion"])


def named_model(store: Store, model: str | None = None) -> str:
    """Return `model`, or the one registered model that this workspace has promoted to.

    Raises:
        InputError: the workspace has promoted nothing, or to several models.
    """
    known = sorted(_read_copies(store))
    if model or len(known) == 1:
        return model or known[0]
    if known:
        raise InputError(f"{store.workspace} has models {', '.join(known)}: name one by --config")
    raise InputError(
        f"no model was promoted in {store.workspace} yet: run the chain until one is "
        "(`elastic-ctr status` shows how far it is), or name the registered model by --config"
    )


def known_models(store: Store) -> list[str]:
    """Return the registered models that this workspace has promoted to."""
    return sorted(_read_copies(store))


def kept_exports(store: Store) -> list[Version]:
    """Return the exports of the champions and of those before them, by MLflow's last answers."""
    copies = [
        Champion(**copy)
        for entry in _read_copies(store).values()
        for copy in (entry["champion"], entry["previous"])
        if copy
    ]
    return [export for copy in copies if (export := copy.export(store)) is not None]


def registry_lease(store: Store, model: str) -> AbstractContextManager[None]:
    """Hold the registered model: one process of the workspace at a time registers or moves."""
    return lease(store.workspace / "tracking" / f"registry-{model}", _WAIT_S)


def roll_back(
    store: Store, model: str, to: str | None, reason: str, report: Callable[[str], None]
) -> Champion:
    """Make an earlier version the champion again and block the one that serves.

    Killed at any step, it can be called again.

    Args:
        store: the workspace.
        model: the registered model.
        to: the version; None for the one that served before, blocked ones left out.
        reason: is kept with the blocked version.
        report: receives progress.

    Raises:
        InputError: there is no such version, it is blocked, or it serves.
    """
    intent = store.workspace / INTENT
    with registry_lease(store, model):
        registry, answered = connect(store, model)
        with answered:
            # A rollback that was killed is finished, whatever is asked for now: with the alias
            # moved already, "the version before" would be one too far.
            if intent.is_file():
                plan = json.loads(intent.read_bytes())
                report(f"finishes the rollback to version {plan['to']} that was interrupted")
            else:
                serving = registry.alias(CHAMPION)
                target = _target(registry, serving, to)
                plan = {"from": serving, "to": target.version, "reason": reason}
                intent.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(intent, json.dumps(plan))
            # Blocked first: the version must not be promoted again by another process.
            if plan["from"] is not None:
                block(store, model, registry.read(plan["from"]), plan["reason"])
            before = _before(registry, plan["to"])
            registry.roll_back(plan["to"], before.version if before else None)
        champion = serving_champion(store, model)
        assert champion is not None
        intent.unlink()
    export = champion.export(store)
    if export is None:
        report(
            f"{champion} is not in {store.workspace}: the registry serves it, but no candidate "
            "can be compared with it"
        )
    else:
        export.verify()
    return champion


def block(store: Store, model: str, version: Registered, reason: str) -> None:
    """Mark a version: it is not promoted again, and no training starts from its checkpoint."""
    found = _champion(version, model).checkpoint(store)
    version = replace(version, blocked=reason, blocked_checkpoint=found.hash if found else "")
    registry, answered = connect(store, model)
    with answered:
        registry.block(version.version, reason, version.blocked_checkpoint)
    entry = _blocked_entry(store, model, version)
    write_blocked(store, {**read_blocked(store), f"{model}/{version.version}": entry})


def unblock(store: Store, model: str, version: str) -> None:
    """Undo `block`."""
    registry, answered = connect(store, model)
    with registry_lease(store, model), answered:
        registry.unblock(version)
        blocked = read_blocked(store)
        blocked.pop(f"{model}/{version}", None)
        write_blocked(store, blocked)


def refresh_blocked(store: Store, model: str, report: Callable[[str], None]) -> None:
    """Take over what other workspaces blocked, or allowed again, in the registry.

    While MLflow does not answer, the list of this workspace stands, which is reported. It is not
    asked as long as there is no checkpoint that training could start from.
    """
    if store.latest_before("checkpoint", date.max) is None:
        return
    try:
        with registry_lease(store, model):
            registry, answered = connect(store, model)
            with answered:
                versions = registry.versions()
            known = read_blocked(store)
            blocked = dict(known)
            for version in versions:
                key = f"{model}/{version.version}"
                if version.blocked and key not in known:
                    blocked[key] = _blocked_entry(store, model, version)
                    report(f"version {version.version} of {version.day} is blocked in MLflow")
                # A version that is no more in the registry, or another one there, stays blocked.
                elif not version.blocked and known.get(key, {}).get("day") == version.day:
                    del blocked[key]
            if blocked != known:
                write_blocked(store, blocked)
    except ElasticCtrError as error:
        reason = str(error).partition(". ")[0]
        report(f"{reason}: what is blocked is read from this workspace alone")


def _blocked_entry(store: Store, model: str, version: Registered) -> dict[str, str]:
    checkpoint = version.blocked_checkpoint
    # A tag that was set by hand or by an earlier release names no checkpoint.
    if not checkpoint and (found := _champion(version, model).checkpoint(store)):
        checkpoint = found.hash
    return {
        "version": version.version,
        "day": version.day,
        "reason": version.blocked,
        "checkpoint": checkpoint,
    }


def remember(
    store: Store, model: str, champion: Champion | None, previous: Champion | None
) -> None:
    """Keep the registry's answer in the workspace."""
    copies = _read_copies(store)
    if champion is None and model not in copies:
        return
    entry = {
        "champion": _plain(champion),
        "previous": _plain(previous),
        "asked_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # A registry that lost its champion does not make the workspace forget that there was one.
    if champion is None:
        entry = {**entry, "champion": copies[model]["champion"]}
    path = store.workspace / COPY
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({**copies, model: entry}, indent=1))
    except OSError:
        # A workspace that may only be read keeps no copy.
        return


def _target(registry: Registry, serving: str | None, to: str | None) -> Registered:
    if to is None and serving is None:
        raise InputError(f"no version of {registry.name} serves: name one by --to")
    found = registry.read(to) if to else _before(registry, serving or "")
    if found is None:
        raise InputError(
            f"no version of {registry.name} served before version {serving}: name one by --to"
        )
    version = found.version
    if version == serving:
        raise InputError(f"version {version} of {registry.name} serves already")
    if found.blocked:
        raise InputError(
            f"version {version} is blocked ({found.blocked}): `elastic-ctr block {version} --undo`"
        )
    return found


def _before(registry: Registry, version: str) -> Registered | None:
    """Return the last version that served before another one and is neither blocked nor deleted."""
    earlier = registry.read(version).replaced
    while earlier:
        try:
            found = registry.read(earlier)
        except InputError:
            # Deleted in MLflow, and with it the answer to what it replaced.
            return None
        if not found.blocked:
            return found
        earlier = found.replaced
    return None


def _champion(found: Registered, model: str) -> Champion:
    return Champion(model, found.version, found.day, found.digest, found.replaced or "")


def _plain(champion: Champion | None) -> Mapping[str, str] | None:
    if champion is None:
        return None
    fields = asdict(replace(champion, asked_at=""))
    del fields["asked_at"]
    return fields


def _read_copies(store: Store) -> dict[str, Any]:
    path: Path = store.workspace / COPY
    if not path.is_file():
        return {}
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not readable ({error}); delete it, MLflow is asked") from error
    return document
