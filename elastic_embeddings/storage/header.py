"""The header of a saved table, and policies and optimizers as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib import import_module
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from elastic_embeddings.errors import InputError
from elastic_embeddings.storage.files import ArrayHeader

# An array's name becomes a file's name, so it must not lead out of the folder.
_ARRAY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")
_KIND = "kind"
# Classes that were renamed after they were written to Keras files.
_RENAMED = {"PlugIn": "PlugInRate"}


@dataclass(frozen=True, kw_only=True)
class SlabHeader:
    """The description of a saved slab.

    Attributes:
        dim: width of its vectors.
        init_scale: of initial vectors.
        dtype: of weights and slots; bfloat16 is stored as uint16 bits.
        optimizer: the class's name.
        parameters: of the optimizer, as arguments of its constructor.
        slots: name → width, in column order of the packed state.
    """

    dim: int
    init_scale: float
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    optimizer: str
    parameters: dict[str, Any]
    slots: dict[str, int]

    def __post_init__(self) -> None:
        # 0 and 0.0 are the same scale, and must give the same bytes in the file.
        object.__setattr__(self, "init_scale", float(self.init_scale))
        _check_types(self)


@dataclass(frozen=True, kw_only=True)
class TableHeader:
    """The content of `table.json`. The order of the fields is that of the file.

    Attributes:
        format: of the files.
        kind: a full table, or a delta: the changes after step `since`.
        step: optimizer steps so far, the clock of `last_seen`.
        since: the step at which a delta starts; None in a full table.
        deletions_since: tombstones of steps up to this one were dropped; no delta can start before
            it.
        seed: of initial vectors and admission.
        fields: names, by code.
        days: the step at the start of each day.
        slabs: by name.
        shard, shards: which part of the keys it holds, `mix64(key) % shards == shard`.
        arrays: by file name without suffix.
    """

    format: Literal[2] = 2
    kind: Literal["full", "delta"] = "full"
    step: int
    since: int | None = None
    deletions_since: int = 0
    seed: int
    fields: tuple[str, ...]
    days: tuple[int, ...] = (0,)
    slabs: dict[str, SlabHeader]
    shard: int = 0
    shards: int = 1
    arrays: dict[str, ArrayHeader] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_types(self)
        for name, array in self.arrays.items():
            if not _ARRAY_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an array")
            _check_types(array)

    def to_json(self) -> dict[str, Any]:
        """Return the header as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TableHeader:
        """Return the header that `to_json` returned.

        Raises:
            ValueError, TypeError, AttributeError, KeyError: a name is missing or unknown, or a
                value has another type.
        """
        given = dict(document)
        given["slabs"] = {name: SlabHeader(**slab) for name, slab in given["slabs"].items()}
        given["arrays"] = {
            name: ArrayHeader(**{**array, "shape": tuple(array["shape"])})
            for name, array in given.get("arrays", {}).items()
        }
        # JSON has lists only; the header's fields are tuples.
        for name in ("fields", "days"):
            if name in given:
                given[name] = tuple(given[name])
        return cls(**given)


def as_plain(value: Any) -> Any:
    """Return frozen dataclasses, also inside mappings and sequences, as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        # Fields that a subclass fixes (`init=False`) are no arguments of its constructor.
        parts = {f.name: as_plain(getattr(value, f.name)) for f in fields(value) if f.init}
        return {_KIND: type(value).__name__} | parts
    if isinstance(value, Mapping):
        return {name: as_plain(part) for name, part in value.items()}
    return [as_plain(part) for part in value] if isinstance(value, list | tuple) else value


def from_plain(value: Any) -> Any:
    """Return the argument of `as_plain`; sequences come back as tuples.

    Classes are looked up in `elastic_embeddings`, then among those registered with `keras.saving`.

    Raises:
        InputError: there is no such dataclass.
    """
    if isinstance(value, list | tuple):
        return tuple(from_plain(part) for part in value)
    if not isinstance(value, Mapping):
        return value
    parts = {name: from_plain(part) for name, part in value.items() if name != _KIND}
    if _KIND not in value:
        return parts
    name = str(value[_KIND])
    kind = getattr(import_module("elastic_embeddings"), _RENAMED.get(name, name), None)
    if kind is None:
        import keras  # here because it takes seconds, and only a user's own policies need it

        kind = keras.saving.get_registered_object(name)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise InputError(
            f"no policy or optimizer {name!r} in elastic_embeddings: "
            "register yours with keras.saving first"
        )
    return kind(**parts)


def _check_types(header: ArrayHeader | SlabHeader | TableHeader) -> None:
    """Raise a ValueError if a value of a header has another type than annotated."""
    for name, kind in get_type_hints(type(header)).items():
        value = getattr(header, name)
        if not _is_a(value, kind):
            raise ValueError(f"{name} is {value!r}")


def _is_a(value: object, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(_is_a(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_a(part, arguments[0]) for part in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _is_a(name, arguments[0]) and _is_a(part, arguments[1]) for name, part in value.items()
        )
    # A bool is an int for `isinstance`, but not a valid number of a header.
    return kind is Any or (isinstance(value, kind) and not isinstance(value, bool))
