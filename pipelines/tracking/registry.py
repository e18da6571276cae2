"""The MLflow registry: a version per export, aliases moved by compare-and-set."""

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
_DIGEST = "elastic_ctr.digest"
_REPLACED = "elastic_ctr.replaced"
DAY = "elastic_ctr.day"


Writer = Callable[[Path], object]
"""Makes a folder, which does not exist yet, an MLflow model."""


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
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def day_of(self, version: str) -> str:
        """Return the day or hour (ISO) that a version was trained on, `""` where it does not say."""
        return str(self.client.get_model_version(self.name, version).tags.get(DAY, ""))

    def register(
        self, write: Writer, run_id: str, day: str, digest: str, tags: dict[str, str]
    ) -> str:
        """Return the version of an export: the one that has its digest already, else a new one of what `write` makes."""
        self._ensure()
        found = self.client.search_model_versions(
            f"name = '{self.name}' and tags.`{_DIGEST}` = '{digest}'"
        )
        if found:
            return str(found[0].version)
        source = _log_model(self.client, write, run_id)
        labels = {_DIGEST: digest, DAY: day, **tags}
        return str(self.client.create_model_version(self.name, source, run_id, tags=labels).version)

    def decided(self, version: str) -> str | None:
        """Return what a version replaced when it was promoted (`""`: nothing), or None if it never was."""
        replaced = self.client.get_model_version(self.name, version).tags.get(_REPLACED)
        return None if replaced is None else str(replaced)

    def move(self, version: str, expected: str | None) -> None:
        """Make `version` the champion and the old champion `previous`, if the champion is still `expected`.

        Raises:
            RetryableError: someone else moved the alias meanwhile.
        """
        now = self.alias(CHAMPION)
        if now != expected:
            raise RetryableError(
                f"champion of {self.name} moved from {expected} to {now} meanwhile: validate against it and promote again"
            )
        self.client.set_model_version_tag(self.name, version, _REPLACED, now or "")
        if now is not None:
            self.client.set_registered_model_alias(self.name, PREVIOUS, now)
        self.client.set_registered_model_alias(self.name, CHAMPION, version)

    def _ensure(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _log_model(client: MlflowClient, write: Writer, run_id: str) -> str:
    """Log an MLflow model's files to a run; returns its URI."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write(folder)
        client.log_artifacts(run_id, str(folder), "model")
    return f"{client.get_run(run_id).info.artifact_uri}/model"
