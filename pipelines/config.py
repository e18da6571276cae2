"""The configuration: one YAML file with a section per topic, strict and frozen.

Order of precedence: `--set a.b=value`, then the YAML file, then the defaults. In the file
`${NAME}` and `${NAME:-default}` are replaced from the environment; `${WORKSPACE}` is the workspace.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError

from compression.settings import CompressionSettings, SelectionSettings
from compression.steps.settings import check_step_fields
from features.errors import InputError
from features.redaction import remember
from features.schema import Identifier, Schema, Settings
from pipelines.follow.settings import FollowSettings
from simulator.settings import SimulatorSettings
from spark_jobs.settings import GraphSettings, Source, SparkSettings, StatisticsSettings
from training.data.layout import FieldLayout, groups_of
from training.models.multi_hash.settings import check_dedicated_rows
from training.pretraining.settings import PretrainSettings
from training.settings import ModelSettings, TrainingSettings
from validation.settings import DataGateSettings, ModelGateSettings

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_WORD = re.compile(r"variable(247b[0-9a-f]+7d)end")
"""What stands for a variable while YAML is read: its text in hexadecimal digits."""

MAX_VALUES = 1_000_000
"""How many values a configuration may hold, aliases written out."""


class TrackingSettings(Settings):
    """MLflow: the experiment and the registered model. `MLFLOW_TRACKING_URI` names the server."""

    experiment: Annotated[str, Field(min_length=1)] = "elastic-ctr"
    registered_model: Annotated[str, Field(min_length=1)] = "ctr"


class ScheduleSettings(Settings):
    """What is expected of a day or hour, and when.

    `deadline_hours` after its end a day (or hour) is expected to be complete; `elastic-ctr check`
    calls it late from then on. Until then Airflow waits for a day without data; afterwards its run
    fails, or skips the day (`missing_input: skip`).
    """

    deadline_hours: Annotated[float, Field(ge=0)] = 6
    missing_input: Literal["fail", "skip"] = "fail"


class Config(Settings):
    """Everything a run depends on, except the date and the workspace."""

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
    tracking: TrackingSettings = TrackingSettings()
    schedule: ScheduleSettings = ScheduleSettings()


def load_config(path: Path, overrides: Sequence[str] = (), workspace: Path | None = None) -> Config:
    """Read a YAML file, apply `a.b=value` overrides (values are YAML), and validate everything.

    Raises:
        InputError: the file is missing or no YAML mapping, or a key or value is wrong; the message
            lists each key.
    """
    document = _read(path, workspace or default_workspace())
    for override in overrides:
        _assign(document, override)
    try:
        config = Config.model_validate(document)
        # A section cannot check what depends on another one. These checks are cheap and run before
        # the first stage, which is hours earlier than the training that would fail.
        groups_of(FieldLayout.of(config.features), config.model)
        check_dedicated_rows(config.features, config.training.admission)
        check_step_fields(config.compression.steps, config.features, config.graph.relations)
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(each)}" for each in error.errors(include_url=False))
        raise InputError(
            f"{path}: the configuration is not valid\n{problems}\n"
            "`elastic-ctr config --schema` lists every key"
        ) from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return config


def default_workspace() -> Path:
    """Return `ELASTIC_CTR_WORKSPACE`, by default `workspace` in the current folder."""
    return Path(os.environ.get("ELASTIC_CTR_WORKSPACE", "workspace"))


def _read(path: Path, workspace: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the configuration ({error.strerror}); "
            "`elastic-ctr init` drafts one from your log"
        ) from error
    variables = {**os.environ, "WORKSPACE": str(workspace.resolve())}
    try:
        # A word stands for each variable: `[${A}, b]` is no YAML, and neither may a value be read
        # as YAML, which could add keys.
        document = yaml.safe_load(_VARIABLE.sub(_as_word, text))
        _check_size(document, str(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a mapping of sections at the top level")
    return {name: _substituted(value, path, variables) for name, value in document.items()}


def _substituted(node: Any, path: Path, variables: Mapping[str, str]) -> Any:
    """Replace the variables in every text of a document.

    After YAML was read, so that a value cannot add keys. A text that is one variable and nothing
    else may become a number or a truth value.
    """
    if isinstance(node, dict):
        return {name: _substituted(value, path, variables) for name, value in node.items()}
    if isinstance(node, list):
        return [_substituted(value, path, variables) for value in node]
    if not isinstance(node, str) or not _WORD.search(node):
        return node
    text = _WORD.sub(lambda word: _value_of(_from_word(word), path, variables), node)
    if _WORD.fullmatch(node):
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            return text
        return value if isinstance(value, bool | int | float) else text
    return text


def _as_word(variable: re.Match[str]) -> str:
    return f"variable{variable.group().encode().hex()}end"


def _from_word(word: re.Match[str]) -> re.Match[str]:
    variable = _VARIABLE.fullmatch(bytes.fromhex(word.group(1)).decode())
    assert variable is not None
    return variable


def _value_of(placeholder: re.Match[str], path: Path, variables: Mapping[str, str]) -> str:
    name, default = placeholder.groups()
    if name not in variables and default is None:
        raise InputError(
            f"{path}: ${{{name}}} is not set in the environment; "
            f"set it or write ${{{name}:-default}}"
        )
    value = variables.get(name)
    if value and name != "WORKSPACE":
        # It may be a secret: it is kept out of manifests, journal, MLflow and messages.
        remember(name, value)
    # As in a shell, `:-` also applies to a variable that is set but empty.
    return value or default or ""


def _assign(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override!r}: expected key.path=value")
    *parents, leaf = key.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            raise InputError(f"--set {override!r}: {parent!r} is not a section")
    try:
        document[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override!r}: the value is not valid YAML: {error}") from error
    _check_size(document[leaf], f"--set {key}")


def _check_size(document: Any, where: str) -> None:
    """Refuse aliases that multiply: a few hundred characters can stand for billions of values."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if not isinstance(node, dict | list):
            return 1
        # An alias is the same object again: its size is computed once and counted each time.
        if id(node) not in sizes:
            # Counts for a node that contains itself.
            sizes[id(node)] = MAX_VALUES
            children = node.values() if isinstance(node, dict) else node
            sizes[id(node)] = 1 + sum(map(size, children))
        return sizes[id(node)]

    if size(document) > MAX_VALUES:
        raise InputError(
            f"{where}: stands for more than {MAX_VALUES:,} values; write it without YAML aliases"
        )


def _describe(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "(whole file)"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    if error["type"] == "missing":
        return f"{where}: required, but missing"
    return f"{where}: {error['msg']} (got {error['input']!r})"
