"""Journal → MLflow, exactly once: a parent run per pipeline and day (or hour), a child run per stage, found before made.

Runs are found by the tag `elastic_ctr.run_key`, so a retry never makes a second one; a metric sent twice carries the
same time and step, which MLflow keeps once. MLflow is imported here only, inside the functions that need it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import RetryableError
from pipelines.tracking.journal import Event, Journal

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_KEY = "elastic_ctr.run_key"
_PARENT = "mlflow.parentRunId"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Tracker:
    """A tracking server and the experiment that runs go to."""

    workspace: Path
    experiment: str

    @property
    def uri(self) -> str:
        """`MLFLOW_TRACKING_URI`, else an SQLite file in the workspace."""
        return (
            os.environ.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{self.workspace.resolve()}/mlflow.db"
        )

    def client(self) -> MlflowClient:
        """Return a client; raises RetryableError when the server does not answer."""
        os.environ.update({k: v for k, v in _QUIET.items() if k not in os.environ})
        self.workspace.mkdir(parents=True, exist_ok=True)
        from mlflow import MlflowClient

        client = MlflowClient(self.uri, registry_uri=self.uri)
        with reachable(self.uri):
            client.search_experiments(max_results=1)
        return client

    def sync(self) -> int:
        """Send every pending event and return how many; raises RetryableError when MLflow is away."""
        journal = Journal(self.workspace)
        pending = list(journal.pending())
        if not pending:
            return 0
        client = self.client()
        with reachable(self.uri):
            experiment_id = self.experiment_id(client)
            for path, event in pending:
                _send(client, experiment_id, journal, event)
                journal.mark_sent(path)
        return len(pending)

    def experiment_id(self, client: MlflowClient) -> str:
        """Return the experiment's id, made when new; local runs keep their files in the workspace."""
        found = client.get_experiment_by_name(self.experiment)
        if found:
            return str(found.experiment_id)
        location = (
            None
            if "://" in self.uri and not self.uri.startswith("sqlite")
            else (self.workspace / "mlartifacts").resolve().as_uri()
        )
        return str(client.create_experiment(self.experiment, artifact_location=location))

    def day_run(self, client: MlflowClient, day_key: str, started_ms: int) -> str:
        """Return the id of the parent run of `<pipeline>/<day>`, made when new."""
        return _find_or_create(
            client, self.experiment_id(client), day_key, day_key.rsplit("/", 1)[1], started_ms, {}
        )


@contextmanager
def reachable(uri: str) -> Iterator[None]:
    """Turn what MLflow raises while it is away into a RetryableError that names the cure."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import ConnectionError as HttpConnectionError

    try:
        yield
    except (MlflowException, HttpConnectionError) as error:
        raise RetryableError(
            f"MLflow at {uri} did not answer as it should ({str(error).splitlines()[0][:200]}). Events stay in the journal; "
            "start the server (`make up`) and run `elastic-ctr sync`, or run the stage again"
        ) from error


def _send(client: MlflowClient, experiment_id: str, journal: Journal, event: Event) -> None:
    day_started = event.started_ms
    parent = _find_or_create(client, experiment_id, event.day_key, event.day, day_started, {})
    journal.remember_run(event.day, parent)
    run = _find_or_create(
        client, experiment_id, event.run_key, event.stage, event.started_ms, {_PARENT: parent}
    )
    _log(client, run, event.metrics, event.params, event.tags, event.ended_ms)
    _log(
        client,
        parent,
        event.day_metrics,
        event.params,
        {**event.tags, f"seconds.{event.stage}": _seconds(event)},
        event.ended_ms,
    )
    for path in event.artifacts:
        _log_artifact(client, parent, Path(path), event.stage)
    client.set_terminated(run, event.status, event.ended_ms)
    client.set_terminated(parent, event.status, event.ended_ms)


def _find_or_create(
    client: MlflowClient,
    experiment_id: str,
    key: str,
    name: str,
    started_ms: int,
    tags: Mapping[str, str],
) -> str:
    found = client.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{key}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    return str(
        client.create_run(
            experiment_id, start_time=started_ms, tags={RUN_KEY: key, **tags}, run_name=name
        ).info.run_id
    )


def _log(
    client: MlflowClient,
    run: str,
    metrics: Mapping[str, float],
    params: Mapping[str, str],
    tags: Mapping[str, str],
    at_ms: int,
) -> None:
    """Log in batches; parameters that the run has already are left as they are, as MLflow refuses to change them."""
    from mlflow.entities import Metric, Param, RunTag

    known = client.get_run(run).data.params
    fresh = [Param(k, v[:500]) for k, v in sorted(params.items()) if k not in known]
    values = [Metric(k, float(v), at_ms, 0) for k, v in sorted(metrics.items())]
    for start in range(0, max(len(fresh), len(values), 1), 90):
        stop = start + 90
        labels = [RunTag(k, v[:4000]) for k, v in sorted(tags.items())] if start == 0 else []
        client.log_batch(run, values[start:stop], fresh[start:stop], labels)


def _log_artifact(client: MlflowClient, run: str, path: Path, stage: str) -> None:
    if path.is_dir():
        client.log_artifacts(run, str(path), f"{stage}/{path.name}")
    elif path.is_file():
        client.log_artifact(run, str(path), stage)


def _seconds(event: Event) -> str:
    return f"{(event.ended_ms - event.started_ms) / 1000:.1f}"


@lru_cache(maxsize=1)
def git_revision() -> str:
    """Return the commit of the checkout that runs, or "" where there is none."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def run_tags(pipeline_config: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that tie a run to its cause: configuration, data, source revision, and the Airflow run."""
    tags = {f"digest.{name}": digest for name, digest in digests.items()}
    tags |= {f"config.{k}": str(v) for k, v in pipeline_config.items()}
    tags |= {"git.revision": revision} if (revision := git_revision()) else {}
    for name in ("AIRFLOW_CTX_DAG_ID", "AIRFLOW_CTX_DAG_RUN_ID", "ELASTIC_CTR_AIRFLOW_URL"):
        if os.environ.get(name):
            tags[name.lower()] = os.environ[name]
    return tags
