"""A configuration of ten lines, artifacts with invented content, and trivial stages."""

import json
from dataclasses import replace
from datetime import date

import yaml

from features.errors import NoDataError
from pipelines.config import load_config
from pipelines.stages.promote import Promote
from pipelines.stages.stage import Context, Stage, execute
from pipelines.stages.validate_model import champion_model
from pipelines.store.artifacts import Store

DAYS = [date(2026, 1, d) for d in range(1, 6)]
EMPTY_DAY = DAYS[1]
"""The day that the tiny chain's source holds nothing of."""

DOCUMENT = {
    "name": "tiny",
    "source": {"path": "logs/*.csv", "format": "csv"},
    "features": {
        "label": "click",
        "user": "user_id",
        "item": "ad",
        "timestamp": {"column": "time", "unit": "s"},
        "forbidden": ["dwell", "like", "share", "bought", "rating", "finished"],
        "fields": [
            {"name": "ad", "kind": "categorical"},
            {"name": "tags", "kind": "multi_valued", "separator": "|"},
        ],
    },
}
AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""Variables with which MLflow is away."""


def write_config(folder, **sections):
    """Write the configuration, some sections changed, and return its path."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, **sections}), encoding="utf-8")
    return path


def make_context(folder, day=DAYS[0], overrides=(), report=None, **sections):
    """Return what stages work with; the workspace is `<folder>/workspace`."""
    workspace = folder / "workspace"
    config = load_config(write_config(folder, **sections), overrides, workspace)
    return Context(config, day, Store(workspace), *([report] if report else []))


def publish(store, artifact, day, version=None, inputs=(), files=None, named=None, **metrics):
    """Publish a version with invented content.

    Inputs are recorded by their artifacts' names, those of `named` by the names given.
    """
    version = version or f"{artifact}{_name(day)}"
    if "verdict" in metrics and files is None:
        files = {"verdict.json": json.dumps({"verdict": metrics["verdict"], "reasons": []})}
    entries = {
        name: {"artifact": v.artifact, "day": v.day.isoformat(), "hash": v.hash}
        for name, v in ({v.artifact: v for v in inputs} | (named or {})).items()
    }
    with store.staging(artifact, day, version) as out:
        for name, text in (files or {"data.txt": f"{artifact} {day} {version}"}).items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text, encoding="utf-8")
        facts = {
            "stage": artifact,
            "inputs": entries,
            "metrics": metrics,
            "config": {},
            "seconds": 0.5,
        }
        return store.publish(out, artifact, day, version, facts)


def publish_candidate(store, day, verdict="blessed", content="weights", champion=None):
    """Publish what `promote` reads: an export, its compressed model, and the verdict on them.

    `champion` is the compressed model that the candidate was compared with.
    """
    name = f"{content}{_name(day)}"
    checkpoint = publish(store, "checkpoint", day, f"k{name}", files={"data.txt": name})
    compressed = publish(
        store, "compressed", day, f"c{name}", [checkpoint], files={"data.txt": name}
    )
    files = {"saved_model/saved_model.pb": f"{content} {day}"}
    export = publish(store, "export", day, name, [compressed], files=files)
    publish(
        store,
        "validation_report",
        day,
        f"{verdict}{name}{champion.hash if champion else ''}",
        [checkpoint, export, compressed],
        named={"champion": champion} if champion else None,
        files={"verdict.json": json.dumps({"verdict": verdict, "reasons": [verdict]})},
        verdict=verdict,
    )
    return export


def promote_candidate(context, day=DAYS[0], verdict="blessed", content="weights"):
    """Publish a candidate that was compared with the champion, and decide on it."""
    today = replace(context, day=day)
    publish_candidate(context.store, day, verdict, content)
    publish_candidate(context.store, day, verdict, content, champion_model(today).get("champion"))
    return execute(Promote(), today).version


def _name(day):
    """The day of the month, or an hour as it is."""
    return getattr(day, "day", day)


class Step(Stage):
    """A link of the tiny chain: reads the link before it, writes one file."""

    name = "ingest"
    artifact = "impressions"
    sections = ("features", "model", "compression")

    def run(self, context, inputs, out):
        """Write the names of what was read; the source of the chain holds nothing of one day."""
        if not self.reads and context.day == EMPTY_DAY:
            raise NoDataError(f"no file for {context.day} at logs/*.csv")
        (out / "read.txt").write_text(" ".join(inputs), encoding="utf-8")
        return {"rows_kept": 7, "inputs": len(inputs), "promoted": False, "skill": float("nan")}
