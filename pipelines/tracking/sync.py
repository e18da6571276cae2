"""Sends the journal to MLflow: a parent run per pipeline and day (or hour), a child per stage.

Runs are found by the tag `elastic_ctr.run_key`, so a retry creates no second one; a metric that is
sent twice has the same time and step, and MLflow stores it once. MLflow is imported inside the
functions that need it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import RetryableError
from pipelines.store.source_digest import source_revision
from pipelines.tracking.journal import Event, TrackingJournal

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_KEY = "elastic_ctr.run_key"
_PARENT = "mlflow.parentRunId"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # By default MLflow tries for minutes to reach a server that does not answer.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "GIT_PYTHON_REFRESH": "quiet",
}
_BATCH = 90
"""Metrics and parameters per request: MLflow accepts at most 100 parameters and tags."""


@dataclass(frozen=True)
class Tracker:
    """A tracking server and the experiment that runs belong to."""

    workspace: Path
    experiment: str

    @property
    def uri(self) -> str:
        """`MLFLOW_TRACKING_URI`, by default an SQLite file in the workspace."""
        local = f"sqlite:///{self.workspace.resolve()}/mlflow.db"
        return os.environ.get("MLFLOW_TRACKING_URI") or local

    def client(self) -> MlflowClient:
        """Return a client; raises RetryableError when the server does not answer."""
        # Set before the import: MLflow reads some of these variables when it is imported.
        os.environ.update({k: v for k, v in _QUIET.items() if k not in os.environ})
        self.workspace.mkdir(parents=True, exist_ok=True)
        from mlflow import MlflowClient

        client = MlflowClient(self.uri, registry_uri=self.uri)
        with reachable(self.uri):
            client.search_experiments(max_results=1)
        return client

    def sync(self) -> int:
        """Send the pending events; return how many.

        Raises:
            RetryableError: MLflow does not answer.
        """
        journal = TrackingJournal(self.workspace)
        pending = list(journal.pending())
        if not pending:
            return 0
        client = self.client()
        with reachable(self.uri):
            experiment_id = self.experiment_id(client)
            for path, event in pending:
                _send(client, experiment_id, journal, event)
                # After a kill between these lines the event is sent again, which changes nothing.
                journal.mark_sent(path)
        return len(pending)

    def experiment_id(self, client: MlflowClient) -> str:
        """Return the experiment's id; create the experiment if it does not exist."""
        found = client.get_experiment_by_name(self.experiment)
        if found:
            return str(found.experiment_id)
        # A server chooses where files go. Without a server they go to the workspace.
        local = "://" not in self.uri or self.uri.startswith("sqlite")
        location = (self.workspace / "mlartifacts").resolve().as_uri() if local else None
        return str(client.create_experiment(self.experiment, artifact_location=location))

    def day_run(self, client: MlflowClient, day_key: str, started_ms: int) -> str:
        """Return the id of the parent run of `<pipeline>/<day>`, created if it does not exist."""
        day = day_key.rsplit("/", 1)[1]
        return _find_or_create(client, self.experiment_id(client), day_key, day, started_ms)


@contextmanager
def reachable(uri: str) -> Iterator[None]:
    """Turn what MLflow raises while it does not answer into a RetryableError with a hint."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import ConnectionError as HttpConnectionError

    try:
        yield
    except (MlflowException, HttpConnectionError) as error:
        raise RetryableError(
            f"MLflow at {uri} did not answer as expected ({str(error).splitlines()[0][:200]}). "
            "Events stay in the journal; start the server (`make up`) and run `elastic-ctr sync`, "
            "or run the stage again"
        ) from error


def _send(client: MlflowClient, experiment_id: str, journal: TrackingJournal, event: Event) -> None:
    started_ms, ended_ms = event.started_ms, event.ended_ms
    parent = _find_or_create(client, experiment_id, event.day_key, event.day, started_ms)
    journal.remember_run(event.day, parent)
    run = _find_or_create(
        client, experiment_id, event.run_key, event.stage, started_ms, {_PARENT: parent}
    )
    _log(client, run, event, event.metrics, event.tags)
    seconds = {f"seconds.{event.stage}": f"{(ended_ms - started_ms) / 1000:.1f}"}
    _log(client, parent, event, event.day_metrics, {**event.tags, **seconds})
    for path in map(Path, event.artifacts):
        if path.is_dir():
            client.log_artifacts(parent, str(path), f"{event.stage}/{path.name}")
        elif path.is_file():
            client.log_artifact(parent, str(path), event.stage)
    for each in (run, parent):
        client.set_terminated(each, event.status, ended_ms)


def _find_or_create(
    client: MlflowClient,
    experiment_id: str,
    key: str,
    name: str,
    started_ms: int,
    tags: Mapping[str, str] | None = None,
) -> str:
    found = client.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{key}'", max_results=1)
    run = (
        found[0]
        if found
        else client.create_run(
            experiment_id, start_time=started_ms, tags={RUN_KEY: key, **(tags or {})}, run_name=name
        )
    )
    return str(run.info.run_id)


def _log(
    client: MlflowClient,
    run: str,
    event: Event,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    # MLflow does not allow to change a parameter, so the ones that the run has are not sent again.
    known = client.get_run(run).data.params
    params = [Param(k, v[:500]) for k, v in sorted(event.params.items()) if k not in known]
    values = [Metric(k, float(v), event.ended_ms, 0) for k, v in sorted(metrics.items())]
    labels = [RunTag(k, v[:4000]) for k, v in sorted(tags.items())]
    for start in range(0, max(len(params), len(values), 1), _BATCH):
        part = slice(start, start + _BATCH)
        client.log_batch(run, values[part], params[part], labels if start == 0 else [])


def run_tags(config: Mapping[str, object], digests: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that say what a run is of: configuration, data, source, and Airflow run."""
    tags = {f"digest.{name}": digest for name, digest in digests.items()}
    tags |= {f"config.{name}": str(value) for name, value in config.items()}
    tags |= {"git.revision": revision} if (revision := source_revision()) else {}
    for name in ("AIRFLOW_CTX_DAG_ID", "AIRFLOW_CTX_DAG_RUN_ID", "ELASTIC_CTR_AIRFLOW_URL"):
        if os.environ.get(name):
            tags[name.lower()] = os.environ[name]
    return tags
