"""The trigger form: `config`, `date`, `hour`, `workspace`, and the marked leaves of the configuration's JSON schema."""

from __future__ import annotations

import os

from airflow.sdk import Param

from pipelines.form import FormField, form_fields

CONFIG_VARIABLE = "ELASTIC_CTR_CONFIG"
DEFAULT_CONFIG = "conf/simulated.yaml"

_SECTION = "What to train"
_PATH = {"maxLength": 1024, "pattern": r"^[^\x00-\x1f]*$"}


def trigger_form() -> dict[str, Param]:
    """Return the parameters of a training DAG, in the order of the form. An empty setting leaves the YAML's value."""
    return {**_subject(), **{field.path: _setting(field) for field in form_fields()}}


def compression_form() -> dict[str, Param]:
    """Return the parameters of `compress_champion`."""
    section = "What to search for"
    limits = {
        "max_auc_drop": Param(
            0.0005,
            "The fewest bytes that lose at most so much AUC. Empty: no limit.",
            type=["null", "number"],
            minimum=0,
            section=section,
        ),
        "budget_bytes": Param(
            None,
            "The best AUC in so many bytes. Empty: no limit.",
            type=["null", "integer"],
            minimum=1,
            section=section,
        ),
        "plans": Param(
            150,
            "Plans to measure at most.",
            type="integer",
            minimum=1,
            maximum=5000,
            section=section,
        ),
        "fine_tune": Param(
            False,
            "Measure the found plan with `fine_tune` too, and take that if it is better: dense weights learn the day again.",
            type="boolean",
            section=section,
        ),
        "steps": Param(
            None,
            "A YAML list of compression.steps, carried out as it is where both limits are empty; a search keeps its drop_fields.",
            type=["null", "string"],
            maxLength=4096,
            section=section,
        ),
    }
    return {**_compressed(), **limits}


def setting_paths() -> tuple[str, ...]:
    """Return the configuration paths that the form can override."""
    return tuple(field.path for field in form_fields())


def default_config() -> str:
    """Return the configuration file of runs that name none: `ELASTIC_CTR_CONFIG`, else the simulator's profile."""
    return os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG


def _subject() -> dict[str, Param]:
    return {
        "config": _config(_SECTION),
        "date": Param(
            None,
            "The day to train on. Empty: the day, or hour, of the run's data interval (a backfill sets one per run).",
            title="Date",
            type=["null", "string"],
            format="date",
            section=_SECTION,
        ),
        "hour": Param(
            None,
            "An hour of that day, as its clock shows it: 13 is from 13:00 to 14:00. Empty: the whole day.",
            title="Hour",
            type=["null", "integer"],
            minimum=0,
            maximum=23,
            section=_SECTION,
        ),
        "workspace": _workspace(_SECTION),
    }


def _compressed() -> dict[str, Param]:
    section = "What to compress"
    day = Param(
        None,
        "The day whose model is compressed. Empty: that of the champion.",
        title="Date",
        type=["null", "string"],
        format="date",
        section=section,
    )
    return {"config": _config(section), "date": day, "workspace": _workspace(section)}


def _config(section: str) -> Param:
    return Param(
        default_config(),
        "The YAML file of the pipeline.",
        type="string",
        minLength=1,
        section=section,
        **_PATH,
    )


def _workspace(section: str) -> Param:
    words = "Where artifacts go. Empty: `ELASTIC_CTR_WORKSPACE`, else `workspace`."
    return Param(None, words, type=["null", "string"], section=section, **_PATH)


def _setting(field: FormField) -> Param:
    section = field.path.rpartition(".")[0]
    return Param(
        None,
        field.description,
        title=field.path,
        type=["null", field.type],
        section=section,
        **field.limits,
    )
