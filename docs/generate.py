"""Parts of the documentation that are generated when the site is built.

A page holds a marker such as `<!-- generated: configuration -->`; it is replaced by Markdown made
from the code, so that the reference never differs from what the program accepts.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal

# MkDocs runs hooks without the repository and this folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import ml_test_score
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_MARKER = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)
_TESTS = re.compile(r"<!-- tests: ([A-Za-z0-9-]+) -->")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the markers of a page (called by MkDocs for each page)."""
    markdown = _MARKER.sub(lambda match: GENERATORS[match.group(1)](), markdown)
    return _TESTS.sub(lambda match: ml_test_score.tests_of(match.group(1)), markdown)


def configuration() -> str:
    """Return a section with a table of keys for each settings class, from the top level down."""
    from pipelines.config import Config

    return "\n".join(_sections(Config, "", 2, set()))


def command_line() -> str:
    """Return the help text of every command."""
    from pipelines.cli.main import app

    group = typer.main.get_command(app)
    parts = []
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        context = command.make_context(f"elastic-ctr {name}", [], resilient_parsing=True)
        parts.append(f"## {name}\n\n```\n{command.get_help(context).strip()}\n```\n")
    return "\n".join(parts)


GENERATORS: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "command-line": command_line,
    "ml-test-score": ml_test_score.ml_test_score,
}


def _sections(model: type[BaseModel], path: str, level: int, done: set[type]) -> Iterator[str]:
    if path:
        yield f"{'#' * min(level, 4)} `{path}`\n"
    yield f"{inspect.cleandoc(model.__doc__ or '')}\n"
    yield "| key | values | default |"
    yield "|---|---|---|"
    for name, field in model.model_fields.items():
        yield f"| `{name}` | {_cell(_values(field.annotation))} | {_cell(_default(field))} |"
    yield ""
    for name, field in model.model_fields.items():
        for nested in _models(field.annotation):
            # Described once, where it is met first: some sections share a class.
            if nested not in done:
                done.add(nested)
                below = f"{path}.{name}" if path else name
                yield from _sections(nested, below, level + bool(path), done)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes that an annotation mentions."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _values(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _values(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (typing.Union, UnionType):
        return " or ".join(_values(part) for part in parts if part is not type(None))
    if origin is tuple or origin is list:
        return f"list of {_values(parts[0])}"
    if origin is dict:
        return f"mapping of {_values(parts[0])} to {_values(parts[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return f"section {annotation.__name__}"
    names = {str: "text", int: "integer", float: "number", bool: "`true` or `false`"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its section's defaults"
    return (
        "none" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
