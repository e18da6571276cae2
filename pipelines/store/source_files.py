"""The files behind a source, found without Spark: names, sizes and times tell whether a day (hour) must be ingested anew."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from features.partition import Partition, day_of
from spark_jobs.settings import Source, fill_pattern

_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


def source_files(source: Source, partition: Partition) -> list[Path]:
    """Return the local files that a source's patterns match for a day or an hour, side tables included, sorted.

    Drawn negatives of an hour depend on the files of its whole day.
    """
    read = partition if source.negatives is None else day_of(partition)
    filled = [fill_pattern(pattern, read) for pattern in source.patterns]
    filled += [fill_pattern(table.path, partition) for table in source.side_tables]
    return sorted({file for pattern in filled for file in _matches(pattern)})


def _matches(pattern: str) -> Iterator[Path]:
    for plain in expand_braces(pattern):
        for name in glob.glob(plain, recursive=True):  # noqa: PTH207 (the pattern may be absolute)
            path = Path(name)
            yield from (p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def expand_braces(pattern: str) -> list[str]:
    """Return the patterns that `a{b,c}` stands for: `ab` and `ac`."""
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [
        whole for part in found.group(1).split(",") for whole in expand_braces(head + part + tail)
    ]
