"""The MLflow registry: one version per export, aliases moved by compare-and-set."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import InputError, RetryableError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
PREVIOUS = "previous"
DAY = "elastic_ctr.day"
_DIGEST = "elastic_ctr.digest"
_REPLACED = "elastic_ctr.replaced"
_PROMOTED = "elastic_ctr.promoted"
_BLOCKED = "elastic_ctr.blocked"
_BLOCKED_CHECKPOINT = "elastic_ctr.blocked_checkpoint"
_DESCRIPTION = (
    "A click model. The alias `champion` serves, `previous` served before it. "
    "`elastic-ctr rollback` moves them."
)
_MODELS = "mlflow.log-model.history"
_CHAMPIONS, _LONGEST_DESCRIPTION = "\n\n## Champions\n\n", 5000
"""Heading in the description, and how many characters MLflow keeps."""

Writer = Callable[[Path], object]
"""Writes an MLflow model to a folder that does not exist yet."""


@dataclass(frozen=True)
class Registered:
    """What the tags of a version say.

    Attributes:
        version: the version.
        day: the day or hour that it was trained on (ISO), "" if it has none.
        digest: hash of the export that it holds.
        replaced: the version that it replaced as the champion, "" if there was none, None if it
            was never promoted.
        finished: whether the alias was moved to it, so that an alias that is elsewhere was moved
            away later. Versions of earlier releases do not say.
        blocked: why it must not serve, "" if it may.
        blocked_checkpoint: hash of the checkpoint that is blocked with it, "" if not known.
    """

    version: str
    day: str
    digest: str
    replaced: str | None
    finished: bool
    blocked: str
    blocked_checkpoint: str

    @property
    def promoted(self) -> bool:
        """Whether it became the champion, or began to."""
        return self.replaced is not None


@dataclass(frozen=True)
class Registry:
    """One registered model."""

    client: MlflowClient
    name: str

    def alias(self, alias: str) -> str | None:
        """Return the version that an alias names, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_model_version_by_alias(self.name, alias).version)
        except MlflowException as error:
            # The codes of a missing model and of a missing alias (MLflow 3.17).
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def read(self, version: str) -> Registered:
        """Return what is known of a version; raises InputError if there is none of that number."""
        from mlflow.exceptions import MlflowException

        try:
            return _registered(self.client.get_model_version(self.name, version))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise InputError(f"{self.name} has no version {version!r}") from error
            raise

    def versions(self) -> list[Registered]:
        """Return all versions, in any order."""
        found, token = [], None
        while True:
            page = self.client.search_model_versions(
                f"name = '{self.name}'", max_results=1000, page_token=token
            )
            found += [_registered(version) for version in page]
            token = page.token
            if not token:
                return found

    def register(
        self,
        write: Writer,
        run_id: str,
        day: str,
        digest: str,
        tags: dict[str, str],
        description: str = "",
    ) -> str:
        """Return the version of an export, which is created unless one with its digest exists."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name, tags, _DESCRIPTION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # A retry after a kill finds the version that was registered before.
        if found := self._with_digest(digest):
            return found[0]
        # A separate folder: a second export of the day must not change the first one's files.
        place = f"model-{digest}"
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            write(folder)
            self.client.log_artifacts(run_id, str(folder), place)
        run = self.client.get_run(run_id)
        source = f"{run.info.artifact_uri}/{place}"
        # By this tag MLflow shows the version in the column Models of the run.
        models = json.loads(run.data.tags.get(_MODELS, "[]"))
        model = {"run_id": run_id, "artifact_path": place, "flavors": {"python_function": {}}}
        models.append({**model, "utc_time_created": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"})
        self.client.set_tag(run_id, _MODELS, json.dumps(models))
        labels = {_DIGEST: digest, DAY: day, **tags}
        made = str(
            self.client.create_model_version(
                self.name, source, run_id, tags=labels, description=description
            ).version
        )
        # The registry does not keep tags unique. If another host registered the same export in the
        # meantime, the first version stays.
        first = self._with_digest(digest)[0]
        if first != made:
            self.client.delete_model_version(self.name, made)
        return first

    def _with_digest(self, digest: str) -> list[str]:
        found = self.client.search_model_versions(
            f"name = '{self.name}' and tags.`{_DIGEST}` = '{digest}'"
        )
        return sorted((str(version.version) for version in found), key=int)

    def move(self, version: str, expected: str | None) -> None:
        """Make `version` the champion and the old champion `previous`.

        Args:
            version: the new champion.
            expected: the champion that `version` was compared with.

        Raises:
            RetryableError: another version is the champion by now.
        """
        now = self.alias(CHAMPION)
        if now != expected:
            raise RetryableError(
                f"champion of {self.name} moved from {expected} to {now} meanwhile: "
                "validate against it and promote again"
            )
        # The tag is written first: if the process is killed before the alias moved, the next run
        # finds that `version` replaces the model that still serves, and moves the alias.
        self.client.set_model_version_tag(self.name, version, _REPLACED, now or "")
        if now is not None:
            self.client.set_registered_model_alias(self.name, PREVIOUS, now)
        self.client.set_registered_model_alias(self.name, CHAMPION, version)
        self._note(version, f"replaces version {now}" if now else "the first champion")
        # Written last: an alias that is elsewhere although this is set was moved by a person.
        self.client.set_model_version_tag(self.name, version, _PROMOTED, "true")

    def roll_back(self, version: str, previous: str | None) -> None:
        """Make an earlier version the champion again, and `previous` the one before it."""
        if previous is None:
            self.client.delete_registered_model_alias(self.name, PREVIOUS)
        else:
            self.client.set_registered_model_alias(self.name, PREVIOUS, previous)
        self.client.set_registered_model_alias(self.name, CHAMPION, version)
        self._note(version, "rollback")

    def _note(self, version: str, why: str) -> None:
        """Add a line to the champions in the model's description; what a person wrote stays."""
        text = self.client.get_registered_model(self.name).description or _DESCRIPTION
        before, _, table = text.partition(_CHAMPIONS)
        lines = table.strip().splitlines()
        # A move that was killed is done again.
        if not (lines and lines[-1].startswith(f"* version {version} ")):
            at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
            lines.append(f"* version {version} of {self.read(version).day} since {at}: {why}")
            room = _LONGEST_DESCRIPTION - len(before.rstrip() + _CHAMPIONS)
            while lines and len("\n".join(lines)) > room:
                lines.pop(0)
            if lines:
                text = before.rstrip() + _CHAMPIONS + "\n".join(lines)
                self.client.update_registered_model(self.name, text)

    def block(self, version: str, reason: str, checkpoint: str) -> None:
        """Note that a version must not become the champion, and of which checkpoint it is."""
        self.client.set_model_version_tag(self.name, version, _BLOCKED_CHECKPOINT, checkpoint)
        self.client.set_model_version_tag(self.name, version, _BLOCKED, reason)

    def unblock(self, version: str) -> None:
        """Undo `block`."""
        self.client.delete_model_version_tag(self.name, version, _BLOCKED)


def _registered(version: ModelVersion) -> Registered:
    tags = version.tags
    replaced = tags.get(_REPLACED)
    return Registered(
        version=str(version.version),
        day=str(tags.get(DAY, "")),
        digest=str(tags.get(_DIGEST, "")),
        replaced=None if replaced is None else str(replaced),
        finished=_PROMOTED in tags,
        blocked=str(tags.get(_BLOCKED, "")),
        blocked_checkpoint=str(tags.get(_BLOCKED_CHECKPOINT, "")),
    )
