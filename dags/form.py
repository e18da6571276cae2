"""The trigger forms: `config`, `date`, `hour`, `workspace`, and often-changed settings.

Types, limits and descriptions of the settings come from the configuration's JSON schema.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import Param

from pipelines.config import Config

CONFIG_VARIABLE = "ELASTIC_CTR_CONFIG"
DEFAULT_CONFIG = "conf/simulated.yaml"

FORM = (
    "training.batch_size",
    "training.passes",
    "training.seed",
    "training.admission.min_count",
    "model.dim",
    "model.deep.learning_rate",
    "model.deep.l21",
    "model.deep.l1",
    "model.dense.learning_rate",
    "model_gate.max_auc_drop_to_champion",
    "model_gate.max_auc_drop_to_baseline",
)
"""The settings of the form, in its order."""

_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum")
# Control characters in a path would end up in logs and command lines.
_PATH = {"maxLength": 1024, "pattern": r"^[^\x00-\x1f]*$"}


def trigger_form() -> dict[str, Param]:
    """Return the parameters of a training DAG, in the order of the form."""
    section = "What to train"
    date = _date(
        "The day to train on. Empty: the day, or hour, of the run's data interval (a backfill sets "
        "one per run).",
        section,
    )
    hour = Param(
        None,
        "An hour of that day, in local time: 13 is from 13:00 to 14:00. Empty: the whole day.",
        title="Hour",
        type=["null", "integer"],
        minimum=0,
        maximum=23,
        section=section,
    )
    schema = Config.model_json_schema()
    return {
        "config": _config(section),
        "date": date,
        "hour": hour,
        "workspace": _workspace(section),
        **{path: _setting(schema, path) for path in FORM},
    }


def compression_form() -> dict[str, Param]:
    """Return the parameters of `compress_champion`."""
    subject, search = "What to compress", "What to search for"
    return {
        "config": _config(subject),
        "date": _date("The day whose model is compressed. Empty: that of the champion.", subject),
        "workspace": _workspace(subject),
        "max_auc_drop": Param(
            0.0005,
            "Search for the fewest bytes that lose at most so much AUC. Empty: no limit.",
            type=["null", "number"],
            minimum=0,
            section=search,
        ),
        "budget_bytes": Param(
            None,
            "Search for the best AUC in so many bytes. Empty: no limit.",
            type=["null", "integer"],
            minimum=1,
            section=search,
        ),
        "plans": Param(
            150,
            "The number of plans to measure at most.",
            type="integer",
            minimum=1,
            maximum=5000,
            section=search,
        ),
        "fine_tune": Param(
            False,
            "Also measure the best plan with `fine_tune`, which trains the dense weights on the "
            "day again, and use that if it is better.",
            type="boolean",
            section=search,
        ),
        "steps": Param(
            None,
            "A YAML list of compression.steps. Without limits it is applied as given; a search "
            "keeps its drop_fields.",
            type=["null", "string"],
            maxLength=4096,
            section=search,
        ),
    }


def _config(section: str) -> Param:
    default = os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG
    text = "The YAML file of the pipeline."
    return Param(default, text, type="string", minLength=1, section=section, **_PATH)


def _date(text: str, section: str) -> Param:
    return Param(None, text, title="Date", type=["null", "string"], format="date", section=section)


def _workspace(section: str) -> Param:
    text = "The folder of artifacts. Empty: `ELASTIC_CTR_WORKSPACE`, else `workspace`."
    return Param(None, text, type=["null", "string"], section=section, **_PATH)


def _setting(schema: dict[str, Any], path: str) -> Param:
    """Return the input of a setting. It is empty by default, which keeps the YAML file's value."""
    section, node = schema, schema
    default: Any = None
    for part in path.split("."):
        section, node = node, node["properties"][part]
        # The default that a section gives its part has precedence over the part's own.
        inherited = isinstance(default, dict) and part in default
        default = default[part] if inherited else node.get("default")
        # Pydantic writes a nested model as a reference, inside `allOf` if it has a description.
        references = (option.get("$ref") for option in (node, *node.get("allOf", ())))
        if reference := next(filter(None, references), None):
            node = schema["$defs"][reference.rsplit("/", 1)[1]]
    about = section.get("description", "").splitlines()[0]
    return Param(
        None,
        f"{about} Empty: the value of the YAML file (built-in default {default!r}).",
        title=path,
        type=["null", node["type"]],
        section=path.rpartition(".")[0],
        **{name: node[name] for name in _LIMITS if name in node},
    )
