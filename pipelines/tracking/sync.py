"""Sends the journal to MLflow: a parent run per pipeline and day (or hour), a child per stage.

One more run per pipeline has the figures of all days, so that MLflow draws them as lines. The step
of a metric is the day (or hour) since 1970. Runs are found by the tag `elastic_ctr.run_key`, so a
retry creates no second one; a metric that is sent twice has the same time and step, and MLflow
stores it once. MLflow is imported inside the functions that need it.
"""

from __future__ import annotations

import getpass
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import InputError, RetryableError
from features.partition import end_h, length_h, parse_partition, start_h
from features.redaction import redact
from pipelines.store.lease import lease
from pipelines.store.source_digest import source_revision
from pipelines.tracking.journal import Event, TrackingJournal
from pipelines.tracking.pages import experiment_tags, page

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
CONNECT_S, SYNC_S, EVENT_S = 30.0, 60.0, 5.0
"""Limits in seconds: for the first answer, for a sync, and more for each event that it sends."""

LONGEST_S = 1800.0
"""Limit in seconds for other work with MLflow, which may upload a model."""

_EPOCH_H = start_h(date(1970, 1, 1))
_BAD_REQUEST = 400
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

        with reachable(self.uri, CONNECT_S):
            client = MlflowClient(self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

    def sync(self) -> int:
        """Send the pending events; return how many. One that MLflow refuses is set aside.

        Raises:
            RetryableError: MLflow does not answer, or another process is sending for too long.
        """
        journal = TrackingJournal(self.workspace)
        if not journal.pending():
            return 0
        client, sent = self.client(), 0
        with lease(self.workspace / "tracking", SYNC_S):
            # Listed under the lock: another process may just have sent them.
            pending = journal.pending()
            # The limit is for all: a server that sends a byte now and then never times out.
            with reachable(self.uri, SYNC_S + EVENT_S * len(pending)):
                experiment_id = self.experiment_id(client)
                for path in pending:
                    sent += _send_or_set_aside(client, experiment_id, journal, path)
        return sent

    def experiment_id(self, client: MlflowClient) -> str:
        """Return the experiment's id; create the experiment if it does not exist."""
        found = client.get_experiment_by_name(self.experiment)
        if found and found.lifecycle_stage == "deleted":
            raise RetryableError(
                f"the experiment {self.experiment} was deleted in MLflow: restore it "
                f"(`mlflow experiments restore -x {found.experiment_id}`), or name another in "
                "`tracking.experiment`"
            )
        if found:
            experiment_id, known = str(found.experiment_id), found.tags
        else:
            # A server chooses where files go. Without a server they go to the workspace.
            local = "://" not in self.uri or self.uri.startswith("sqlite")
            location = (self.workspace / "mlartifacts").resolve().as_uri() if local else None
            experiment_id, known = str(client.create_experiment(self.experiment, location)), {}
        for name, value in experiment_tags(experiment_id).items():
            # What a person chose stays; what the user interface guessed does not.
            if "inferred" in known.get(name, "inferred"):
                client.set_experiment_tag(experiment_id, name, value)
        return experiment_id

    def day_run(self, client: MlflowClient, day_key: str, started_ms: int) -> str:
        """Return the id of the parent run of `<pipeline>/<day>`, created if it does not exist."""
        day = day_key.rsplit("/", 1)[1]
        return _find_or_create(client, self.experiment_id(client), day_key, day, started_ms)


@contextmanager
def reachable(uri: str, within_s: float = LONGEST_S) -> Iterator[None]:
    """Turn what MLflow raises into an error that says whether trying again helps.

    Args:
        uri: the tracking server or database; shown without credentials.
        within_s: limit of the whole block in seconds. It holds in the main thread only, which has
            the signals; stages and commands run there.

    Raises:
        RetryableError: no answer, or not in time; access refused; database locked or full.
        InputError: MLflow refuses a name or value.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with _limited(within_s):
            yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        said = redact(str(error).strip().partition("\n")[0])[:300]
        if is_refusal(error):
            raise InputError(
                f"MLflow at {redact(uri)} refuses a name or value: {said}. "
                "Correct it in the section `tracking` of the configuration"
            ) from error
        raise RetryableError(
            f"MLflow at {redact(uri)} did not answer as expected ({said}). "
            f"Events stay in the journal; {_remedy(said)}, then run `elastic-ctr sync` or the "
            "stage again"
        ) from error


def is_refusal(error: Exception) -> bool:
    """Whether MLflow answered that a request is wrong, which trying again does not change."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.get_http_status_code() == _BAD_REQUEST


def _remedy(said: str) -> str:
    if "locked" in said:
        return "another process writes to the database: let it end"
    if "disk" in said or "space" in said:
        return "free disk space (`elastic-ctr clean --keep DAYS`)"
    return "start the server (`make up`), or correct address and credentials"


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise RetryableError in a block that takes longer, also while it waits for an answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise RetryableError(
            f"MLflow answered too slowly: not done after {seconds:.0f} s. Events stay in the "
            "journal; look at the server, then run `elastic-ctr sync` or the stage again"
        )

    before = signal.signal(signal.SIGALRM, end)
    # Again after a second: a library may swallow the first error.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _send_or_set_aside(
    client: MlflowClient, experiment_id: str, journal: TrackingJournal, path: Path
) -> bool:
    """Send an event and mark it as sent; return False when it was set aside instead."""
    from mlflow.exceptions import MlflowException

    try:
        _send(client, experiment_id, journal, journal.read(path))
    except MlflowException as error:
        if not is_refusal(error):
            raise
        journal.set_aside(path, f"MLflow refuses it: {error}")
        return False
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        journal.set_aside(path, f"not an event of this release: {type(error).__name__}: {error}")
        return False
    # After a kill before this line the event is sent again, which changes nothing.
    journal.mark_sent(path)
    return True


def _send(client: MlflowClient, experiment_id: str, journal: TrackingJournal, event: Event) -> None:
    started_ms, ended_ms = event.started_ms, event.ended_ms
    parent = _find_or_create(client, experiment_id, event.day_key, event.day, started_ms)
    journal.remember_run(event.day, parent)
    run = _find_or_create(
        client, experiment_id, event.run_key, event.stage, started_ms, {_PARENT: parent}
    )
    # 1. The day's run. Its settings are those of the last stage that ran.
    if event.settings:
        client.log_text(parent, event.settings, "settings.yaml")
    seconds = {f"seconds.{event.stage}": f"{(ended_ms - started_ms) / 1000:.1f}"}
    _log(client, parent, event, event.day_metrics, ended_ms, {**event.tags, **seconds})
    trained_on = [each for each in event.datasets if each["context"] == "training"]
    _log_datasets(client, parent, trained_on)

    # 2. The stage's run, with its artifacts.
    _log(client, run, event, event.metrics, ended_ms, event.tags)
    _log_datasets(client, run, event.datasets)
    for path in map(Path, event.artifacts):
        if path.is_dir():
            client.log_artifacts(run, str(path), path.name)
        elif path.is_file():
            client.log_artifact(run, str(path))
    for each in (run, parent):
        client.set_terminated(each, event.status, ended_ms)
    uri = redact(client.tracking_uri).rstrip("/")
    if uri.startswith("http"):
        names = {Path(path).name for path in event.artifacts}
        paths = {"MLflow run": run}
        paths |= {"Report": f"{run}/artifacts"} if names else {}
        paths |= (
            {"Data Docs": f"{run}/artifacts/data_docs/index.html"} if "data_docs" in names else {}
        )
        links = {name: page(uri, experiment_id, path) for name, path in paths.items()}
        journal.remember_run(event.day, parent, {event.stage: links})

    # 3. The pipeline's run. The time of a metric is the day's end, for MLflow's axis of time.
    if event.day_metrics:
        name = f"{event.pipeline}: all days"
        whole = _find_or_create(client, experiment_id, event.pipeline, name, started_ms)
        time_ms = (end_h(parse_partition(event.day)) - _EPOCH_H) * 3_600_000
        only_metrics = replace(event, params={})
        _log(client, whole, only_metrics, event.day_metrics, time_ms, {})
        client.set_terminated(whole, event.status, ended_ms)


def _log_datasets(client: MlflowClient, run: str, datasets: Sequence[Mapping[str, str]]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(each["name"], each["digest"], "local", json.dumps({"uri": each["uri"]})),
            [InputTag("mlflow.data.context", each["context"])],
        )
        for each in datasets
    ]
    if inputs:
        client.log_inputs(run, inputs)


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
            experiment_id,
            start_time=started_ms,
            tags={
                RUN_KEY: key,
                "mlflow.user": getpass.getuser(),
                "mlflow.source.type": "LOCAL",
                "mlflow.source.name": f"elastic-ctr {name if _PARENT in (tags or {}) else 'run'}",
                **(tags or {}),
            },
            run_name=name,
        )
    )
    return str(run.info.run_id)


def _log(
    client: MlflowClient,
    run: str,
    event: Event,
    metrics: Mapping[str, float],
    time_ms: int,
    tags: Mapping[str, str],
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    # MLflow does not allow to change a parameter, so the ones that the run has are not sent again.
    known = client.get_run(run).data.params
    params = [Param(k, v) for k, v in sorted(event.params.items()) if k not in known]
    step = step_of(event.day)
    values = [Metric(k, float(v), time_ms, step) for k, v in sorted(metrics.items())]
    labels = [RunTag(k, v) for k, v in sorted(tags.items())]
    for start in range(0, max(len(params), len(values), 1), _BATCH):
        part = slice(start, start + _BATCH)
        client.log_batch(run, values[part], params[part], labels if start == 0 else [])


def step_of(day: str) -> int:
    """Return the step of a day's metrics: days since 1970-01-01; of an hour's: hours since then.

    >>> step_of("1970-02-01"), step_of("1970-01-02T03")
    (31, 27)
    """
    partition = parse_partition(day)
    return (start_h(partition) - _EPOCH_H) // length_h(partition)


def run_tags(config: Mapping[str, object], digests: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that say what a run is of: configuration, data, source, and Airflow run."""
    tags = {f"digest.{name}": digest for name, digest in digests.items()}
    tags |= {f"config.{name}": str(value) for name, value in config.items()}
    if revision := source_revision():
        commit = revision.removesuffix("-dirty")
        tags |= {"mlflow.source.git.commit": commit}
        tags |= {"mlflow.source.git.dirty": str(commit != revision).lower()}
    for name in ("AIRFLOW_CTX_DAG_ID", "AIRFLOW_CTX_DAG_RUN_ID", "ELASTIC_CTR_AIRFLOW_URL"):
        if os.environ.get(name):
            tags[name.lower()] = os.environ[name]
    return tags
