"""A digest of the project's source that a module imports, directly or not.

It is part of every version's hash. It follows `import` statements, those inside functions too, so
lazy imports count. A change of documentation, a test or another stage does not change it.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
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

LIBRARIES = frozenset(
    {"great_expectations", "keras", "numba", "numpy", "pandas", "pyarrow", "pyspark", "tensorflow"}
)
"""Libraries whose version may decide on the content of a result, by the names of their imports."""

_LIBRARY = re.compile(rf"^[ \t]*(?:from|import)[ ]({'|'.join(sorted(LIBRARIES))})\b", re.MULTILINE)

# Import statements as ruff formats them. Patterns are used because parsing the files took a third
# of a second in every stage; a test compares the result with the parser's for every file.
_IMPORT = re.compile(
    rf"""
    ^[ \t]*
    (?: from[ ]((?:{"|".join(sorted(PACKAGES))})[\w.]*)[ ]import[ ](\([^)]*\)|[^\n]*)
      | import[ ]([^\n]*) )
    """,
    re.MULTILINE | re.VERBOSE,
)


def source_digest(module: str, root: Path = ROOT) -> str:
    """Return a hex digest of the source of a module (`pipelines.stages.train`) and its imports."""
    digest = hashlib.sha256()
    for name, path in sorted(closure(module, root).items()):
        digest.update(name.encode() + b"\x00" + path.read_bytes() + b"\x00")
    return digest.hexdigest()


def library_versions(module: str, root: Path = ROOT) -> dict[str, str]:
    """Return the versions of the `LIBRARIES` that a module's source imports, directly or not.

    The version of one that is not installed is "".
    """
    paths = closure(module, root).values()
    return {name: _version(name) for name in sorted(set().union(*map(_libraries_of, paths)))}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


@lru_cache(maxsize=512)
def _libraries_of(path: Path) -> frozenset[str]:
    return frozenset(_LIBRARY.findall(path.read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def source_revision() -> str:
    """Return the git commit of the checkout that runs, "" outside a checkout.

    It ends with `-dirty` where tracked files differ from the commit.
    """
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def closure(module: str, root: Path = ROOT) -> dict[str, Path]:
    """Return the project modules that a module imports, itself included, by name."""
    found: dict[str, Path] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        base = root.joinpath(*name.split("."))
        files = (base.with_suffix(".py"), base / "__init__.py")
        # `from module import member` is followed as module and as `module.member`; the latter is
        # no file unless the member is a module.
        path = next((file for file in files if file.is_file()), None)
        if name not in found and path is not None:
            found[name] = path
            pending += imports_of(path)
    return found


@lru_cache(maxsize=512)
def imports_of(path: Path) -> tuple[str, ...]:
    """Return the names of the project that a file imports: modules and members of modules."""
    names: list[str] = []
    for module, members, modules in _IMPORT.findall(path.read_text(encoding="utf-8")):
        if module:
            names += [module, *(f"{module}.{name}" for name in _before_as(members.strip("()")))]
        else:
            names += [name for name in _before_as(modules) if name.split(".")[0] in PACKAGES]
    return tuple(names)


def _before_as(names: str) -> Iterator[str]:
    """Yield the names of a list such as `a as b, c  # a remark`."""
    for line in names.splitlines():
        parts = (part.split() for part in line.partition("#")[0].split(","))
        yield from (words[0] for words in parts if words)
