"""One YAML file is the whole configuration: the sections of every package joined, strict and frozen.

Order of precedence: `--set a.b=value`, then the YAML file, then the defaults. In the file `${NAME}` and
`${NAME:-default}` are replaced from the environment; `${WORKSPACE}` is the workspace.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, Field, ValidationError

from compression.settings import CompressionSettings, SelectionSettings
from compression.steps.settings import refuse_unknown_fields
from features.errors import InputError
from features.schema import Identifier, Schema, Settings
from pipelines.follow.settings import FollowSettings
from pipelines.settings import TrackingSettings
from simulator.settings import SimulatorSettings
from spark_jobs.settings import GraphSettings, Source, SparkSettings, StatisticsSettings
from training.data.field_groups import groups_of
from training.data.layout import Layout
from training.data.own_rows import refuse_own_rows_for_all
from training.pretraining.settings import PretrainSettings
from training.settings import ModelSettings, TrainingSettings
from validation.settings import DataGateSettings, ModelGateSettings

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class Config(Settings):
    """Everything a run depends on, but for the date and the workspace."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: Identifier
    source: Source
    features: Schema
    simulator: SimulatorSettings | None = None
    spark: SparkSettings = SparkSettings()
    data_gate: DataGateSettings = DataGateSettings()
    statistics: StatisticsSettings = StatisticsSettings()
    graph: GraphSettings = GraphSettings()
    pretraining: PretrainSettings = PretrainSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    compression: CompressionSettings = CompressionSettings()
    selection: SelectionSettings = SelectionSettings()
    model_gate: ModelGateSettings = ModelGateSettings()
    follow: FollowSettings = FollowSettings()
    tracking: TrackingSettings = Field(default=TrackingSettings())


def load_config(path: Path, overrides: Sequence[str] = (), workspace: Path | None = None) -> Config:
    """Read a YAML file, apply `a.b=value` overrides (values are YAML), and check the whole.

    Raises:
        InputError: the file is missing or no YAML mapping, or a key or value is wrong; the message lists each key.
    """
    document = _read(path, workspace or default_workspace())
    for override in overrides:
        _assign(document, override)
    try:
        config = Config.model_validate(document)
        groups_of(Layout.of(config.features), config.model)
        refuse_own_rows_for_all(config.features, config.training.admission)
        refuse_unknown_fields(config.compression.steps, config.features, config.graph.relations)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error)}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return config


def default_workspace() -> Path:
    """The workspace when none is named: `ELASTIC_CTR_WORKSPACE`, else `workspace` in the current folder."""
    return Path(os.environ.get("ELASTIC_CTR_WORKSPACE", "workspace"))


def _read(path: Path, workspace: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the configuration ({error.strerror}); `elastic-ctr init` drafts one from your log"
        ) from error
    try:
        document = yaml.safe_load(
            _substitute(text, path, {**os.environ, "WORKSPACE": str(workspace.resolve())})
        )
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a mapping of sections at the top level")
    return document


def _substitute(text: str, path: Path, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        """Return a placeholder's value."""
        name, default = match.groups()
        if name not in variables and default is None:
            raise InputError(
                f"{path}: ${{{name}}} is not set in the environment; set it or write ${{{name}:-default}}"
            )
        return variables.get(name) or default or ""

    return _VARIABLE.sub(value, text)


def _assign(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override!r}: expected key.path=value")
    *parents, leaf = key.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            raise InputError(f"--set {override!r}: {parent!r} is not a section")
    document[leaf] = yaml.safe_load(text)


def _explain(error: ValidationError) -> str:
    lines = [f"  {_where(e['loc'])}: {_what(e)}" for e in error.errors(include_url=False)]
    return (
        "the configuration is not valid\n"
        + "\n".join(lines)
        + "\n`elastic-ctr config --schema` lists every key"
    )


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "(whole file)"


def _what(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    return (
        f"{error['msg']} (got {error['input']!r})"
        if error["type"] != "missing"
        else "required, but missing"
    )
