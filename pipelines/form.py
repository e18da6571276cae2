"""The trigger form: leaves of the configuration's JSON schema, flattened, for the settings people change per run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipelines.config import Config

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
"""The marked leaves, in the order of the form."""

_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum")


@dataclass(frozen=True)
class FormField:
    """One input of the form: its configuration path, JSON type, what it means and what it allows.

    The form's own default is empty (`None`): a field left alone keeps what the YAML file says.
    """

    path: str
    type: str
    title: str
    description: str
    default: object
    limits: dict[str, Any] = field(default_factory=dict)


def form_fields() -> list[FormField]:
    """Return the marked leaves as form inputs; raises KeyError when a marked leaf is not in the schema."""
    schema = Config.model_json_schema()
    return [_field(schema, path) for path in FORM]


def _field(schema: dict[str, Any], path: str) -> FormField:
    section, leaf, default = _walk(schema, path)
    limits = {name: leaf[name] for name in _LIMITS if name in leaf}
    description = f"{section.get('description', '').splitlines()[0]} Empty: what the YAML says (built-in default {default!r})."
    return FormField(path, leaf["type"], leaf.get("title", path), description, default, limits)


def _walk(schema: dict[str, Any], path: str) -> tuple[dict[str, Any], dict[str, Any], object]:
    """Return the section that holds the leaf, the leaf, and its default along this path."""
    section, node, default = schema, schema, None
    for part in path.split("."):
        section = node
        node = node["properties"][part]
        default = (
            default[part] if isinstance(default, dict) and part in default else node.get("default")
        )
        node = _resolve(schema, node)
    return section, node, default


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref") or next(
        (option["$ref"] for option in node.get("allOf", []) if "$ref" in option), None
    )
    return schema["$defs"][reference.rsplit("/", 1)[1]] if reference else node
