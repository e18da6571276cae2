"""The MLflow registry: one version per export, aliases moved by compare-and-set."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import RetryableError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
PREVIOUS = "previous"
DAY = "elastic_ctr.day"
_DIGEST = "elastic_ctr.digest"
_REPLACED = "elastic_ctr.replaced"

Writer = Callable[[Path], object]
"""Writes an MLflow model to a folder that does not exist yet."""


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

    def day_of(self, version: str) -> str:
        """Return the day or hour (ISO) that a version was trained on, `""` if it has none."""
        return str(self.client.get_model_version(self.name, version).tags.get(DAY, ""))

    def register(
        self, write: Writer, run_id: str, day: str, digest: str, tags: dict[str, str]
    ) -> str:
        """Return the version of an export, which is created unless one with its digest exists."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # A retry after a kill finds the version that was registered before.
        found = self.client.search_model_versions(
            f"name = '{self.name}' and tags.`{_DIGEST}` = '{digest}'"
        )
        if found:
            return str(found[0].version)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            write(folder)
            self.client.log_artifacts(run_id, str(folder), "model")
        source = f"{self.client.get_run(run_id).info.artifact_uri}/model"
        labels = {_DIGEST: digest, DAY: day, **tags}
        return str(self.client.create_model_version(self.name, source, run_id, tags=labels).version)

    def predecessor_of(self, version: str) -> str | None:
        """Return the version that this one replaced as the champion.

        `""` means that there was no champion before, None that this version was never promoted.
        """
        replaced = self.client.get_model_version(self.name, version).tags.get(_REPLACED)
        return None if replaced is None else str(replaced)

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
