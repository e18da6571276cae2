"""Stage `validate_model`: parity in a fresh process, quality against champion and baseline."""

from __future__ import annotations

import json
import tempfile
from itertools import islice
from pathlib import Path

from features.errors import InputError, UnsoundError
from features.partition import comparable, end_h
from pipelines.stages.champion_recipe import recipe_inputs, train_champion_recipe
from pipelines.stages.stage import Context, Inputs, Metrics, Stage
from pipelines.store.artifacts import STAGING, DamagedError, Version
from pipelines.store.lineage import input_of, verdict_of
from pipelines.tracking.champion import (
    Champion,
    champion_before,
    known_champion,
    version_of,
    was_ever_promoted,
)

_HOURS = "calibration_hours.json"
_EARLIER_DAYS = 14


def champion_model(context: Context) -> Inputs:
    """Return the compressed model that the candidate must be compared with, and its recipe's data.

    Raises:
        UnsoundError: there is none although there should be: its artifacts are missing, or the
            registry names none and a first model is not expected.
        RetryableError: MLflow does not answer, and no earlier answer is known.
    """
    champion = champion_to_beat(context)
    if champion is None:
        return {}
    try:
        compressed = champion.compressed(context.store)
    except InputError as error:
        if context.config.model_gate.bootstrap == "always":
            return {}
        raise UnsoundError(
            f"the candidate of {context.day} cannot be compared with the champion, {champion} of "
            f"{champion.model}: {error}. Restore its artifacts, or `elastic-ctr rollback` to a "
            "version that is there, or accept the candidate with --bootstrap"
        ) from error
    return {"champion": compressed, **recipe_inputs(context, champion)}


def champion_to_beat(context: Context) -> Champion | None:
    """Return the version that the candidate is compared with, or None for a first model.

    That is the one that serves. If the candidate itself serves, it is the one that it replaced, so
    that a day that is decided again gets the same verdict. If a model of a later day serves, which
    a candidate cannot replace, it is the last one of an earlier day.
    """
    store, model = context.store, context.config.tracking.registered_model
    serving = known_champion(store, model, context.report)
    if serving is None:
        _check_bootstrap(context)
        return None
    own = store.current("export", context.day)
    if own is not None and own.hash == serving.digest:
        return version_of(store, model, serving.replaced) if serving.replaced else None
    if not serving.day or end_h(serving.partition) <= end_h(context.day):
        return serving
    earlier = champion_before(store, model, context.day)
    export = earlier.export(store) if earlier else None
    if earlier is None or export is None or input_of(store, export, "compressed") is None:
        context.report(f"{serving} serves; no champion of a day before {context.day} is left")
        return None
    return earlier


def _check_bootstrap(context: Context) -> None:
    """Raise UnsoundError unless a model without a champion to compare with may be blessed."""
    store, model = context.store, context.config.tracking.registered_model
    allowed = context.config.model_gate.bootstrap
    if allowed == "always" or (allowed == "first" and not was_ever_promoted(store, model)):
        return
    raise UnsoundError(
        f"{model} has no champion in MLflow, so the candidate of {context.day} cannot be compared "
        "with the model that serves. Set the alias `champion` in MLflow, or accept the candidate "
        "with --bootstrap (model_gate.bootstrap: always)"
    )


def earlier_reports(context: Context) -> list[Version]:
    """Return the reports that the candidate's calibration is compared with, latest first.

    They are no inputs: each report would then be made from all before it, which `clean` keeps.
    """
    reports = context.store.before("validation_report", context.day)
    found = (v for v in reports if comparable(v.day, context.day) and _HOURS in v.commit["files"])
    return list(islice(found, _EARLIER_DAYS))


class ValidateModel(Stage):
    """Compare the export with the trained model, the champion and the baselines; write the verdict.

    After `blessed` or `refused` the day goes on. `unsound` stops it, and later days do not
    warm-start from its checkpoint.
    """

    name = "validate-model"
    artifact = "validation_report"
    reads = ("impressions", "checkpoint", "export", "compressed", champion_model)
    sections = ("features", "model_gate")
    tracked = ("verdict.json", "plots")

    def fingerprint(self, context: Context) -> object:
        """The calibration of earlier days by hour, by its checksum."""
        return {
            v.day.isoformat(): v.commit["files"][_HOURS]["sha256"] for v in earlier_reports(context)
        }

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `validation.model.check.check_model`."""
        from validation.model.check import Candidate, check_model

        paths = {name: version.path for name, version in inputs.items()}
        # Not in `out`: only the verdict and what it rests on are published.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=STAGING) as scratch:
            candidate = Candidate(
                paths["impressions"],
                paths["checkpoint"],
                paths["export"],
                paths.get("champion"),
                paths["compressed"],
                train_champion_recipe(context, inputs, Path(scratch)),
                _undamaged(earlier_reports(context), context),
            )
            figures = check_model(
                candidate, context.config.features, context.config.model_gate, out
            )
        for note in json.loads((out / "verdict.json").read_text(encoding="utf-8"))["notes"]:
            context.report(note)
        return figures

    def check_result(self, version: Version) -> None:
        """Stop the day when the model is unsound."""
        if verdict_of(version) == "unsound":
            verdict = json.loads((version.path / "verdict.json").read_text(encoding="utf-8"))
            raise UnsoundError(
                f"the model of {version.day} is unsound: {'; '.join(verdict['reasons'])}. "
                "The last champion stays."
            )


def _undamaged(reports: list[Version], context: Context) -> list[Path]:
    found = []
    for version in reports:
        try:
            version.verify()
        except DamagedError as error:
            context.report(f"{error}; calibration is not compared with {version.day}")
            continue
        found.append(version.path)
    return found
