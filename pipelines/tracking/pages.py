"""Addresses of MLflow's pages, and the saved views of an experiment.

MLflow opens an experiment in its view for language models, unless the address (`workflowType`) or
the browser's switch says otherwise. A saved view is a tag of the experiment: a filter and columns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlencode

MODEL_TRAINING = "custom_model_development"
"""The kind of experiment (tag `mlflow.experimentKind`)."""


@dataclass(frozen=True)
class View:
    """A saved view: its name in the list *Views*, a search for runs, columns, and an order."""

    name: str
    search: str
    metrics: tuple[str, ...]
    columns: tuple[str, ...] = ()
    order: str = "attributes.start_time"

    def tag(self) -> str:
        """Return the value of the experiment's tag that makes MLflow list the view."""
        metrics = [f"metrics.`{name}`" for name in self.metrics]
        columns = {"selectedColumns": [*metrics, *self.columns], "orderByKey": self.order}
        state = json.dumps({"searchFilter": self.search, **columns})
        return json.dumps({"name": self.name, "createdAt": 0, "updatedAt": 0, "state": state})


VIEWS = {
    "days": View(
        "Days compared",
        "attributes.run_name LIKE '____-__-__%'",
        (
            "train/auc",
            "train/auc_lr_baseline",
            "train/log_loss",
            "train/keys_seen",
            "train/rows_in_table",
            "train/bytes_trained",
            "export/bytes_exported",
            "promote/promoted",
        ),
    ),
    "plans": View(
        "Compression plans compared",
        "attributes.run_name LIKE '%compress%'",
        (
            "compress/bytes_before",
            "compress/bytes_after",
            "compress/rows_after",
            "search-compression/bytes_chosen",
            "search-compression/ratio_chosen",
            "search-compression/auc_drop",
            "search-compression/auc_drop_low",
            "search-compression/auc_drop_high",
        ),
        ("params.`compression.steps`", "tags.`elastic_ctr.run_key`"),
        # Sorted by a figure, runs of stages stand for themselves, not below their day.
        "metrics.`compress/bytes_after`",
    ),
}
"""Views by their key in the address."""


def page(server: str, experiment_id: str = "", path: str = "", view: str = "") -> str:
    """Return the address of a page of the tracking server, in the view for model training.

    Args:
        server: base address of the tracking server; empty: an address relative to its pages.
        experiment_id: of the experiment; empty: the list of experiments.
        path: below the experiment's table of runs: `<run>/artifacts` for instance.
        view: key of `VIEWS`; empty: MLflow's own columns.

    >>> page("http://127.0.0.1:5000", "1", "f00/artifacts")
    'http://127.0.0.1:5000/#/experiments/1/runs/f00/artifacts?workflowType=machine_learning'
    """
    runs = f"/{experiment_id}/runs" if experiment_id else ""
    key = {"viewStateShareKey": view} if view else {}
    query = urlencode({"workflowType": "machine_learning", **key})
    return f"{server}/#/experiments{runs}{path and '/'}{path}?{query}"


def experiment_tags(experiment_id: str) -> dict[str, str]:
    """Return the tags of our experiments: their kind, their description, the saved views."""
    views = [f"[{view.name}]({page('', experiment_id, view=key)})" for key, view in VIEWS.items()]
    return {
        "mlflow.experimentKind": MODEL_TRAINING,
        "mlflow.note.content": (
            f"{' · '.join(views)}\n\n"
            "A run per day (or hour) of a pipeline, below it a run per stage. The run `all days` "
            "draws the figures of the days as lines. Metrics are named `stage/figure`."
        ),
        **{f"mlflow.sharedViewState.{key}": view.tag() for key, view in VIEWS.items()},
    }


def start_pages(server: str) -> list[str]:
    """Return the saved views of each of our experiments on a server, as lines to print.

    Before the first stage, which creates the experiment, it is the list of experiments.
    """
    import httpx

    body = {"filter": f"tags.`mlflow.experimentKind` = '{MODEL_TRAINING}'", "max_results": 20}
    search = f"{server}/api/2.0/mlflow/experiments/search"
    found = httpx.post(search, json=body, timeout=30, trust_env=False).raise_for_status().json()
    return [
        f"{page(server, each['experiment_id'], view=key)} ({each['name']}: {view.name})"
        for each in found.get("experiments", [])
        for key, view in VIEWS.items()
    ] or [page(server)]
