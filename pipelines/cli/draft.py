"""Draft a configuration from a sample of a log: guesses a person can check, with the reasons as comments."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.canonical import EPOCH, ISO, NUMBER, canonical, python_pattern
from features.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_ROWS = 20_000
_LABEL = re.compile(r"^(is_)?(click|clicked|label|y|target)s?$", re.I)
_TIME = re.compile(r"time|date|_ts$|^ts$|_at$|stamp", re.I)
_USER = re.compile(r"^(user|member|visitor|customer|device|uid)(_?id)?$", re.I)
_ITEM = re.compile(r"^(item|ad|video|article|product|creative|doc|movie)(_?id)?$", re.I)
_OUTCOME = re.compile(
    r"^is_(?!rand|new|weekend)|play_time|watch|dwell|stay_time|conver|purchase|like$|^liked|finish|long_view|revenue|rating",
    re.I,
)
_ID = re.compile(r"id$|^id|code|zip", re.I)
_MAX_CODES = 50


@dataclass(frozen=True)
class Column:
    """What the sample says of one column."""

    name: str
    values: tuple[str, ...]
    distinct: int

    @property
    def numeric(self) -> bool:
        """Whether every present value is a number."""
        return bool(self.values) and all(re.match(python_pattern(NUMBER), v) for v in self.values)

    def separator(self) -> str | None:
        """Return the separator of a list column: one that at least a tenth of the values hold, between short parts."""
        for mark in ("|", ";", ","):
            share = sum(mark in v for v in self.values) / max(len(self.values), 1)
            if share >= 0.1 and not self.numeric and " " not in "".join(self.values[:200]):
                return mark
        return None


def draft(pattern: str) -> str:
    """Return commented YAML for the files of a pattern.

    Raises:
        InputError: no file matches, the sample cannot be read, or no column looks like a label or a time.
    """
    path = _first_file(pattern)
    columns = {str(name): _column(str(name), values) for name, values in _sample(path).items()}
    label = _pick(
        columns,
        _LABEL,
        "a label (0/1, named like click or label)",
        lambda c: set(c.values) <= {"0", "1"},
    )
    time = _pick(columns, _TIME, "a timestamp (epoch or ISO time)", lambda c: _unit(c) is not None)
    rest = [c for name, c in columns.items() if name not in (label.name, time.name)]
    return "\n".join(_lines(pattern, path, label, time, rest)) + "\n"


def _first_file(pattern: str) -> Path:
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (the pattern may be absolute)
    if not found:
        raise InputError(f"--data {pattern!r}: no file matches")
    return Path(found[0])


def _sample(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            return next(pq.ParquetFile(path).iter_batches(batch_size=SAMPLE_ROWS)).to_pandas()
        return pd.read_csv(path, sep=None, engine="python", nrows=SAMPLE_ROWS, dtype=str)
    except (OSError, ValueError, StopIteration) as error:
        raise InputError(f"{path}: cannot sample it: {error}") from error


def _column(name: str, series: pd.Series) -> Column:
    texts = tuple(text for text in (canonical(v) for v in series.dropna().tolist()) if text)
    return Column(str(name), texts, len(set(texts)))


def _pick(columns: dict[str, Column], name: re.Pattern[str], what: str, fits: object) -> Column:
    assert callable(fits)
    named = [c for c in columns.values() if name.search(c.name) and fits(c)]
    if not named:
        raise InputError(
            f"no column looks like {what}; the log has {sorted(columns)}. Write the YAML by hand from conf/ as a pattern"
        )
    return named[0]


def _unit(column: Column) -> str | None:
    """Return the unit of a time column, or None when it holds no times of 1990 to 2100."""
    if column.values and all(re.match(python_pattern(ISO), v) for v in column.values):
        return "iso"
    if not column.values or not all(re.match(python_pattern(EPOCH), v) for v in column.values):
        return None
    typical = abs(int(sorted(column.values)[len(column.values) // 2]))
    ranges = {"s": 1, "ms": 1_000, "us": 1_000_000}
    return next(
        (
            unit
            for unit, scale in ranges.items()
            if 631_152_000 * scale <= typical < 4_102_444_800 * scale
        ),
        None,
    )


def _lines(
    pattern: str, path: Path, label: Column, time: Column, rest: list[Column]
) -> Iterator[str]:
    outcomes = [c for c in rest if _OUTCOME.search(c.name)]
    features = [c for c in rest if c not in outcomes]
    ids = {"user": _first(features, _USER), "item": _first(features, _ITEM)}
    yield "# Drafted from a sample: check every line, above all `forbidden`, `timezone`, `user` and `item`."
    yield f"name: {_identifier(path.stem.split('.')[0]) or 'my_log'}"
    yield "source:"
    yield f"  path: {str(Path(pattern).absolute())!r}"
    yield f"  format: {'parquet' if path.suffix == '.parquet' else 'csv'}"
    yield "features:"
    yield f"  label: {label.name}"
    for role, column in ids.items():
        yield f"  {role}: {column.name if column else f'{features[0].name}  # a guess: no column is named like a {role}'}"
    yield f"  timestamp: {{column: {time.name}, unit: {_unit(time)}}}"
    yield "  timezone: UTC  # defines the day; an IANA name or an offset such as '+08:00'"
    yield "  # Outcomes of the same impression leak the label. These names look like outcomes:"
    yield f"  forbidden: [{', '.join(c.name for c in outcomes)}]"
    yield "  fields:"
    yield from (
        f"    - {_field(column)}"
        for column in features
        if column.distinct > 1 and not _TIME.search(column.name)
    )
    yield "    - {name: hour, kind: time, part: hour_of_day}"


def _first(columns: list[Column], name: re.Pattern[str]) -> Column | None:
    return next((c for c in columns if name.search(c.name)), None)


def _field(column: Column) -> str:
    source = "" if _identifier(column.name) == column.name else f", column: {column.name!r}"
    named = f"name: {_identifier(column.name)}{source}"
    mark = column.separator()
    if mark:
        return f"{{{named}, kind: multi_valued, separator: {mark!r}}}"
    if column.numeric and column.distinct > _MAX_CODES and not _ID.search(column.name):
        return f"{{{named}, kind: numeric, transform: log}}  # {column.distinct:,} distinct numbers in the sample"
    return f"{{{named}, kind: categorical}}  # {column.distinct:,} distinct in the sample"


def _identifier(text: str) -> str:
    return re.sub(r"^[^A-Za-z]+|[^A-Za-z0-9_]", "", re.sub(r"[\s:.-]+", "_", text))[:64]
