"""The trigger forms: `config`, `date`, `hour`, `workspace`, and often-changed settings.

Types, limits, choices and defaults of the settings come from the configuration's JSON schema.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import Param

from pipelines.config import Config
from pipelines.services.environment import REPOSITORY

CONFIG_VARIABLE = "ELASTIC_CTR_CONFIG"
DEFAULT_CONFIG = "conf/simulated.yaml"

_LEARNING, _ROWS, _GATE = "How to train", "How large the model is", "When to promote"

FORM = {
    "training.batch_size": (_LEARNING, "Batch size (impressions)", "Impressions per step."),
    "training.passes": (_LEARNING, "Passes", "How often the data of a day is trained on."),
    "training.seed": (_LEARNING, "Random seed", "Equal seeds give equal models."),
    "training.device": (_LEARNING, "Device", "Where the model is trained."),
    "model.deep.learning_rate": (
        _LEARNING,
        "Learning rate of the embeddings",
        "Size of a step of the rows of the deep part.",
    ),
    "model.dense.learning_rate": (
        _LEARNING,
        "Learning rate of the dense layers",
        "Size of a step of weights and biases.",
    ),
    "model.dim": (_ROWS, "Embedding width (numbers per row)", "Numbers per row of the deep part."),
    "training.admission.min_count": (
        _ROWS,
        "Admission threshold (times seen)",
        "An id gets a row when it was seen so often; 1: at once.",
    ),
    "model.deep.l21": (
        _ROWS,
        "Group lasso penalty (per row)",
        "Larger: more rows become zero and are left out of the export. 0: none.",
    ),
    "model.deep.l1": (
        _ROWS,
        "Lasso penalty (per number)",
        "Larger: more single numbers become zero. 0: none.",
    ),
    "model_gate.max_auc_drop_to_champion": (
        _GATE,
        "Most AUC below the champion",
        "In units of AUC: 0.005 allows 0.745 where the champion has 0.750.",
    ),
    "model_gate.max_auc_drop_to_baseline": (
        _GATE,
        "Most AUC below the baseline",
        "The same against logistic regression.",
    ),
    "model_gate.bootstrap": (
        _GATE,
        "Without a champion to compare with",
        "Whether a candidate may then be promoted.",
    ),
}
"""The settings of the form, in its order: path → section, title with the unit, explanation."""

_CHOICES = {
    "auto": "a GPU if there is one",
    "cpu": "the CPU",
    "gpu": "a GPU; fails without one",
    "never": "do not promote",
    "first": "promote if nothing was ever promoted",
    "always": "promote",
}
"""Values of the choices → what the form shows."""

_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
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
        title="Hour (0 to 23)",
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
            "Search for the fewest bytes that lose at most so much AUC: 0.0005 allows 0.7495 "
            "after 0.7500. Empty: no limit.",
            title="Most AUC to lose",
            type=["null", "number"],
            minimum=0,
            section=search,
        ),
        "budget_bytes": Param(
            None,
            "Search for the best AUC in so many bytes. Empty: no limit.",
            title="Size (bytes)",
            type=["null", "integer"],
            minimum=1,
            section=search,
        ),
        "plans": Param(
            150,
            "The number of plans to measure at most.",
            title="Plans to measure",
            type="integer",
            minimum=1,
            maximum=5000,
            section=search,
        ),
        "fine_tune": Param(
            False,
            "Also measure the best plan with `fine_tune`, which trains the dense weights on the "
            "day again, and use that if it is better.",
            title="Fine-tune",
            type="boolean",
            section=search,
        ),
        "steps": Param(
            None,
            "A YAML list of compression.steps. Without limits it is applied as given; a search "
            "keeps its drop_fields.",
            title="Steps (YAML)",
            type=["null", "string"],
            maxLength=4096,
            section=search,
        ),
    }


def _config(section: str) -> Param:
    default = os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG
    text = "The YAML file of the pipeline."
    examples = sorted(f"conf/{path.name}" for path in (REPOSITORY / "conf").glob("*.yaml"))
    return Param(
        default,
        text,
        title="Configuration (file)",
        type="string",
        minLength=1,
        section=section,
        examples=examples,
        **_PATH,
    )


def _date(text: str, section: str) -> Param:
    return Param(None, text, title="Date", type=["null", "string"], format="date", section=section)


def _workspace(section: str) -> Param:
    text = "The folder of artifacts. Empty: `ELASTIC_CTR_WORKSPACE`, else `workspace`."
    title = "Workspace (folder)"
    return Param(None, text, title=title, type=["null", "string"], section=section, **_PATH)


def _setting(schema: dict[str, Any], path: str) -> Param:
    """Return the input of a setting. It is empty by default, which keeps the YAML file's value."""
    section, title, text = FORM[path]
    node = schema
    default: Any = None
    for part in path.split("."):
        node = node["properties"][part]
        # The default that a section gives its part has precedence over the part's own.
        inherited = isinstance(default, dict) and part in default
        default = default[part] if inherited else node.get("default")
        # Pydantic writes a nested model as a reference, inside `allOf` if it has a description.
        references = (option.get("$ref") for option in (node, *node.get("allOf", ())))
        if reference := next(filter(None, references), None):
            node = schema["$defs"][reference.rsplit("/", 1)[1]]
    further = {name: node[name] for name in _LIMITS if name in node}
    if "enum" in node:
        shown = {value: f"{value}: {_CHOICES[value]}" for value in node["enum"]}
        further |= {"enum": [None, *shown]}
        further |= {"values_display": {"null": "as in the YAML file", **shown}}
    return Param(
        None,
        f"{text} Empty: the value of the YAML file (built-in default {default!r}). "
        f"Setting `{path}`.",
        title=title,
        type=["null", node["type"]],
        section=section,
        **further,
    )
