"""Draft a configuration from a sample of a log.

The draft guesses the role and kind of every column from its name and its values. It is meant to be
checked by a person, so it carries comments with what the guesses rest on.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.canonical import EPOCH, ISO, NUMBER, canonical, python_pattern
from features.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_ROWS = 20_000

# Names that give a column's role away.
_LABEL = re.compile(r"^(is_)?(click|clicked|label|y|target)s?$", re.I)
_TIME = re.compile(r"time|date|_ts$|^ts$|_at$|stamp", re.I)
_USER = re.compile(r"^(user|member|visitor|customer|device|uid)(_?id)?$", re.I)
_ITEM = re.compile(r"^(item|ad|video|article|product|creative|doc|movie)(_?id)?$", re.I)
_OUTCOME = re.compile(
    r"^is_(?!rand|new|weekend)|play_time|watch|dwell|stay_time|conver|purchase|like$|^liked|finish"
    r"|long_view|revenue|rating",
    re.I,
)
_ID = re.compile(r"id$|^id|code|zip", re.I)

_MAX_CODES = 50
"""A column with more distinct numbers than this is numeric, unless it is named like an id."""

_FIRST_S, _END_S = 631_152_000, 4_102_444_800
"""Epoch seconds of 1990 and 2100: a column of epochs has values between them in its unit."""


@dataclass(frozen=True)
class SampledColumn:
    """A column of the sample: its name, its values without nulls, the number of distinct ones."""

    name: str
    values: tuple[str, ...]
    distinct: int

    @property
    def numeric(self) -> bool:
        """Whether every value is a number."""
        return self.all_match(NUMBER)

    def all_match(self, pattern: str) -> bool:
        """Whether there are values and each matches a shared pattern."""
        return bool(self.values) and all(re.match(python_pattern(pattern), v) for v in self.values)

    def separator(self) -> str | None:
        """Return the separator of a list column: a mark in at least a tenth of the values."""
        # Text with spaces is prose, in which commas separate nothing.
        if not self.values or self.numeric or " " in "".join(self.values[:200]):
            return None
        for mark in ("|", ";", ","):
            if sum(mark in v for v in self.values) / len(self.values) >= 0.1:
                return mark
        return None

    def time_unit(self) -> str | None:
        """Return the unit of a time column, or None if its values are not times of 1990 to 2100."""
        if self.all_match(ISO):
            return "iso"
        if not self.all_match(EPOCH):
            return None
        # A value from the middle: a few odd ones at the ends do not matter.
        typical = abs(sorted(map(int, self.values))[len(self.values) // 2])
        for unit, scale in {"s": 1, "ms": 1_000, "us": 1_000_000}.items():
            if _FIRST_S * scale <= typical < _END_S * scale:
                return unit
        return None


def draft(pattern: str) -> str:
    """Return commented YAML for the log files that match a glob pattern.

    Raises:
        InputError: no file matches, the sample cannot be read, or no column looks like a label or
            a time.
    """
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (the pattern may be absolute)
    if not found:
        raise InputError(f"--data {pattern!r}: no file matches")
    # One file is enough for a draft; sorted, it is the same one on every machine.
    path = Path(found[0])
    columns = [_column(str(name), values) for name, values in _sample(path).items()]
    label = _pick(
        columns,
        _LABEL,
        "a label (0/1, named like click or label)",
        lambda c: set(c.values) <= {"0", "1"},
    )
    time = _pick(
        columns, _TIME, "a timestamp (epoch or ISO time)", lambda c: c.time_unit() is not None
    )
    rest = [column for column in columns if column.name not in (label.name, time.name)]
    return "\n".join(_lines(pattern, path, label, time, rest)) + "\n"


def _sample(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            return next(pq.ParquetFile(path).iter_batches(batch_size=SAMPLE_ROWS)).to_pandas()
        # The separator is detected; values stay text, so that `007` is not a number.
        # Only pandas' Python engine detects a separator.
        return pd.read_csv(path, sep=None, engine="python", nrows=SAMPLE_ROWS, dtype=str)
    except (OSError, ValueError, StopIteration) as error:
        raise InputError(f"{path}: cannot read a sample: {error}") from error


def _column(name: str, series: pd.Series) -> SampledColumn:
    # In canonical form, as ingest will store them.
    texts = tuple(text for text in (canonical(v) for v in series.dropna().tolist()) if text)
    return SampledColumn(name, texts, len(set(texts)))


def _pick(
    columns: list[SampledColumn],
    name: re.Pattern[str],
    what: str,
    fits: Callable[[SampledColumn], bool],
) -> SampledColumn:
    for column in columns:
        if name.search(column.name) and fits(column):
            return column
    raise InputError(
        f"no column looks like {what}; the log has {sorted(c.name for c in columns)}. "
        "Write the YAML by hand, with a file of conf/ as an example"
    )


def _lines(
    pattern: str, path: Path, label: SampledColumn, time: SampledColumn, rest: list[SampledColumn]
) -> Iterator[str]:
    outcomes = [c for c in rest if _OUTCOME.search(c.name)]
    features = [c for c in rest if c not in outcomes]
    yield "# Drafted from a sample: check `forbidden`, `timezone`, `user`, `item`, then the rest."
    yield f"name: {_identifier(path.stem.split('.')[0]) or 'my_log'}"
    yield "source:"
    yield f"  path: {str(Path(pattern).absolute())!r}"
    yield f"  format: {'parquet' if path.suffix == '.parquet' else 'csv'}"
    yield "features:"
    yield f"  label: {label.name}"
    for role, name in {"user": _USER, "item": _ITEM}.items():
        named = next((c.name for c in features if name.search(c.name)), None)
        guess = f"{features[0].name}  # a guess: no column is named like a {role}"
        yield f"  {role}: {named or guess}"
    yield f"  timestamp: {{column: {time.name}, unit: {time.time_unit()}}}"
    yield "  timezone: UTC  # defines the day; an IANA name or an offset such as '+08:00'"
    yield "  # Outcomes of the same impression leak the label. These names look like outcomes:"
    yield f"  forbidden: [{', '.join(c.name for c in outcomes)}]"
    yield "  fields:"
    for column in features:
        # A constant carries no information; a second time column would duplicate the timestamp.
        if column.distinct > 1 and not _TIME.search(column.name):
            yield f"    - {_field(column)}"
    yield "    - {name: hour, kind: time, part: hour_of_day}"


def _field(column: SampledColumn) -> str:
    name = _identifier(column.name)
    start = f"name: {name}" + ("" if name == column.name else f", column: {column.name!r}")
    mark = column.separator()
    if mark:
        return f"{{{start}, kind: multi_valued, separator: {mark!r}}}"
    if column.numeric and column.distinct > _MAX_CODES and not _ID.search(column.name):
        count = f"{column.distinct:,} distinct numbers in the sample"
        return f"{{{start}, kind: numeric, transform: log}}  # {count}"
    return f"{{{start}, kind: categorical}}  # {column.distinct:,} distinct in the sample"


def _identifier(text: str) -> str:
    """Replace what a field's name may not contain."""
    return re.sub(r"^[^A-Za-z]+|[^A-Za-z0-9_]", "", re.sub(r"[\s:.-]+", "_", text))[:64]
