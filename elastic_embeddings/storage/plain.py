"""Policies and optimizers as plain JSON, and back: what a Keras configuration holds of a layer's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

from elastic_embeddings.errors import InputError

_KIND = "kind"


def as_plain(value: Any) -> Any:
    """Return frozen dataclasses, nested in mappings and sequences or not, as dictionaries, lists and numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        return {_KIND: type(value).__name__} | {
            field.name: as_plain(getattr(value, field.name))
            for field in fields(value)
            if field.init
        }
    if isinstance(value, Mapping):
        return {name: as_plain(part) for name, part in value.items()}
    return [as_plain(part) for part in value] if isinstance(value, list | tuple) else value


def from_plain(value: Any) -> Any:
    """Return what `as_plain` was given; sequences come back as tuples.

    A class is looked up in `elastic_embeddings`, then among those registered with `keras.saving`.

    Raises:
        InputError: there is no such dataclass.
    """
    if isinstance(value, list | tuple):
        return tuple(from_plain(part) for part in value)
    if not isinstance(value, Mapping):
        return value
    parts = {name: from_plain(part) for name, part in value.items() if name != _KIND}
    return _kind(str(value[_KIND]))(**parts) if _KIND in value else parts


def _kind(name: str) -> Any:
    found = getattr(import_module("elastic_embeddings"), name, None)
    if found is None:
        import keras  # takes seconds, and only policies of a user's own need it

        found = keras.saving.get_registered_object(name)
    if not (isinstance(found, type) and is_dataclass(found)):
        raise InputError(
            f"no policy or optimizer {name!r} in elastic_embeddings: register yours with keras.saving first"
        )
    return found
