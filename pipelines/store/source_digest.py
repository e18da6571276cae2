"""A digest of the project's source that a module imports, directly or not: part of every artifact's hash.

It follows `import` statements in the text, those inside functions too, so that lazy imports count. A change of the
documentation, of a test or of another stage leaves it unchanged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = frozenset(
    {
        "elastic_embeddings",
        "features",
        "simulator",
        "spark_jobs",
        "training",
        "compression",
        "validation",
        "pipelines",
    }
)


def source_digest(module: str, root: Path = ROOT) -> str:
    """Return a hex digest of the sources in the import closure of a module (`pipelines.stages.train`)."""
    digest = hashlib.sha256()
    for name, path in sorted(closure(module, root).items()):
        digest.update(name.encode() + b"\x00" + path.read_bytes() + b"\x00")
    return digest.hexdigest()


def closure(module: str, root: Path = ROOT) -> dict[str, Path]:
    """Return the project modules that a module imports, itself included, by name."""
    found: dict[str, Path] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        path = _path(name, root)
        if name in found or path is None:
            continue
        found[name] = path
        pending += _imports(path)
    return found


def _path(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((c for c in candidates if c.is_file()), None)


_IMPORT = re.compile(
    rf"""
    ^[ \t]*
    (?: from[ ]((?:{"|".join(sorted(PACKAGES))})[\w.]*)[ ]import[ ](\([^)]*\)|[^\n]*)
      | import[ ]([^\n]*) )
    """,
    re.MULTILINE | re.VERBOSE,
)
"""The statements as ruff formats them. Parsing the files instead took a third of a second in every stage."""


@lru_cache(maxsize=512)
def _imports(path: Path) -> tuple[str, ...]:
    return tuple(_names(path.read_text(encoding="utf-8")))


def _names(text: str) -> Iterator[str]:
    for module, members, modules in _IMPORT.findall(text):
        if module:
            yield module
            yield from (f"{module}.{name}" for name in _before_as(members.strip("()")))
        else:
            yield from (name for name in _before_as(modules) if name.split(".")[0] in PACKAGES)


def _before_as(names: str) -> Iterator[str]:
    """Yield the names of a list such as `a as b, c  # a remark`."""
    for line in names.splitlines():
        yield from (
            words[0] for part in line.partition("#")[0].split(",") if (words := part.split())
        )
