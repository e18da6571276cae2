"""Keeps secrets out of what is stored or printed: one rule for manifests, journal, MLflow, logs.

Two kinds of secrets are known: credentials in addresses (`http://user:pass@host`, `?token=…`) and
values that `${NAME}` took from the environment. In their place stand `***` and `${NAME}`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s@]+(?:/[^/\s@]*)?@")
_PARAMETER = re.compile(
    r"([?&;][\w.-]*(?:token|passw|secret|key|signature|credential)[\w.-]*=)[^&;\s'\")]+", re.I
)
_SHORTEST = 6
"""Characters. A shorter value would be found in words that have nothing to do with it."""

_values: dict[str, str] = {}


def remember(name: str, value: str) -> None:
    """Have `redact` replace a value by `${name}`.

    Values of fewer than six characters and paths that exist are no secrets: a message that hides
    the path of a file would be of no use.
    """
    if len(value) >= _SHORTEST and not _is_path(value):
        _values[value] = f"${{{name}}}"


def redact(text: str) -> str:
    """Return a text without credentials of addresses and without remembered values."""
    text = _PARAMETER.sub(r"\1***", _USER.sub(r"\1***@", text))
    # A value may contain another one.
    for value in sorted(_values, key=len, reverse=True):
        text = text.replace(value, _values[value])
    return text


def redacted(document: Any) -> Any:
    """Return a JSON document with every text in it redacted; the names of mappings are kept."""
    if isinstance(document, str):
        return redact(document)
    if isinstance(document, dict):
        return {name: redacted(value) for name, value in document.items()}
    if isinstance(document, list | tuple):
        return [redacted(value) for value in document]
    return document


def _is_path(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):
        # Too long for a path, or with a character that no path has.
        return False
