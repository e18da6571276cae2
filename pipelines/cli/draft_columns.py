"""A sample of a log, and what the values of its columns tell."""

from __future__ import annotations

import bz2
import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.canonical import EPOCH, ISO, NUMBER, canonical, python_pattern
from features.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SAMPLE_ROWS = 20_000

_FIRST_S, _END_S = 631_152_000, 4_102_444_800
"""Epoch seconds of 1990 and 2100: a column of epochs has values between them in its unit."""

_SCALES = {"s": 1, "ms": 1_000, "us": 1_000_000}
_NULLS = ("NULL", "null", "None", "N/A", "\\N")
_TELLING_AUC = 0.9


@dataclass(frozen=True)
class LogSample:
    """The first records of a file, and how the file is written."""

    path: Path
    rows: int
    columns: list[SampledColumn]
    format: str
    separator: str = ""
    encoding: str = ""
    null_values: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampledColumn:
    """A column of the sample: its name and its canonical values, "" for null.

    `listed`: the file holds lists. `nested`: why the values cannot be read, or "".
    """

    name: str
    cells: tuple[str, ...]
    listed: bool = False
    nested: str = ""

    @cached_property
    def values(self) -> tuple[str, ...]:
        """The values without nulls."""
        return tuple(cell for cell in self.cells if cell)

    @cached_property
    def distinct(self) -> int:
        """The number of distinct values."""
        return len(set(self.values))

    @property
    def null_share(self) -> float:
        """The share of nulls."""
        return 1 - len(self.values) / max(len(self.cells), 1)

    @property
    def click_rate(self) -> float:
        """Of a label: the share of ones."""
        return sum(v in ("1", "true") for v in self.values) / len(self.values)

    @cached_property
    def numeric(self) -> bool:
        """Whether every value is a number."""
        return self.all_match(NUMBER)

    @cached_property
    def integral(self) -> bool:
        """Whether every value is an integer."""
        return self.all_match(r"\A[-+]?[0-9]+\z")

    @cached_property
    def decimal_commas(self) -> bool:
        """Whether the values are numbers with a comma for the point."""
        return self.all_match(r"\A[-+]?[0-9.]*[0-9](,[0-9]+)?\z") and (
            sum("," in v for v in self.values) >= 0.5 * len(self.values)
        )

    @cached_property
    def dates(self) -> bool:
        """Whether the values are days without a time."""
        return self.all_match(r"\A(19|20)[0-9]{2}-?(0[1-9]|1[0-2])-?(0[1-9]|[12][0-9]|3[01])\z")

    def all_match(self, pattern: str) -> bool:
        """Whether there are values and each matches a shared pattern."""
        compiled = re.compile(python_pattern(pattern))
        return bool(self.values) and all(compiled.match(v) for v in self.values)

    def separator(self) -> str | None:
        """Return the separator of a list column.

        A space separates only words that come again in other values: `Action Comedy`, not prose.
        """
        if (
            not self.values
            or self.numeric
            or self.decimal_commas
            or self.time_unit()
            or self.nested
        ):
            return None
        spaces = sum(" " in v for v in self.values) / len(self.values)
        for mark, least in {"|": 0.01, ";": 0.1, ",": 0.1}.items():
            # Text with spaces is prose, in which commas separate nothing.
            if mark == "," and spaces > 0.01:
                continue
            if sum(mark in v for v in self.values) / len(self.values) >= least:
                return mark
        if spaces >= 0.1:
            words = {word for value in set(self.values) for word in value.split(" ")}
            if self.distinct >= 10 and 2 * len(words) < self.distinct:
                return " "
        return None

    def time_unit(self) -> str | None:
        """Return the unit of a time column, or None if its values are not times of 1990 to 2100."""
        return self._time_unit

    @cached_property
    def _time_unit(self) -> str | None:
        if self.all_match(ISO):
            return "iso"
        if not self.all_match(EPOCH):
            return None
        # A value from the middle: a few odd ones at the ends do not matter.
        typical = abs(sorted(map(int, self.values))[len(self.values) // 2])
        for unit, scale in _SCALES.items():
            if _FIRST_S * scale <= typical < _END_S * scale:
                return unit
        return None

    @property
    def days(self) -> int:
        """Of a time column: how many days (by its offset, or UTC) the sample is of."""
        unit = self.time_unit()
        if unit == "iso":
            return len({v[:10] for v in self.values})
        return len({int(v) // (86_400 * _SCALES[unit or "s"]) for v in self.values})

    def common_offset(self) -> str | None:
        """Return the offset that all ISO times have, unless it is UTC."""
        found = {m.group(1) for v in self.values if (m := re.search(r"([-+]\d\d:?\d\d)$", v[10:]))}
        if self.time_unit() != "iso" or len(found) != 1:
            return None
        [offset] = found
        complete = all(v.endswith(offset) for v in self.values)
        offset = offset if ":" in offset else f"{offset[:3]}:{offset[3:]}"
        return offset if complete and offset not in ("+00:00", "-00:00") else None

    @cached_property
    def numbers(self) -> np.ndarray:
        """The values of a numeric column, sorted."""
        import numpy as np

        return np.sort(np.array(self.values, float))

    @property
    def skewed(self) -> bool:
        """Whether no number is negative and the largest are far above the middle."""
        low, middle, high = (self.numbers[int(q * (len(self.numbers) - 1))] for q in (0, 0.5, 0.99))
        return bool(low >= 0 and high > 5 * middle)

    def boundaries(self) -> list[float]:
        """Return the deciles, rounded to three digits, each once."""
        import numpy as np

        inner = np.quantile(self.numbers, np.arange(1, 10) / 10)
        rounded = sorted({float(f"{b:.3g}") for b in inner})
        return rounded if len(rounded) > 1 else []

    def seen_once(self) -> float:
        """Return the share of ids (elements of lists) that the sample has once."""
        from collections import Counter

        mark = self.separator()
        parts = [p for v in self.values for p in (v.split(mark) if mark else [v])]
        counts = Counter(parts)
        return sum(n == 1 for n in counts.values()) / max(len(counts), 1)

    def tells(self, label: SampledColumn) -> str | None:
        """Return how this column alone tells the label, or None if it does not."""
        import pandas as pd

        frame = pd.DataFrame({"x": self.cells, "y": label.cells})
        frame = frame[frame["y"] != ""]
        y = frame["y"].isin(["1", "true"])
        if y.nunique() < 2 or not self.values:
            return None
        zero = {"", "0", "false"} | ({"0.0"} if self.numeric else set())
        present = ~frame["x"].isin(zero)
        if 20 <= present.sum() < len(frame) and y[present].mean() >= 0.99 > 0.7 > y.mean():
            return "it has a value other than 0 only with a click"
        # In columns of many ids some click always; that is their rate, not the impression's end.
        if self.distinct <= 50:
            score = frame["x"].map(y.groupby(frame["x"]).mean())
        elif self.numeric:
            score = pd.to_numeric(frame["x"]).fillna(-float("inf"))
        else:
            return None
        ranks, positives = score.rank(), int(y.sum())
        negatives = len(y) - positives
        auc = (ranks[y].sum() - positives * (positives + 1) / 2) / (positives * negatives)
        auc = max(auc, 1 - auc)
        if min(positives, negatives) < 20 or auc < _TELLING_AUC:
            return None
        return f"alone it tells the label: AUC {auc:.3f}"

    def constant_by(self, other: SampledColumn) -> bool:
        """Whether each value of another column goes with one value of this one, nearly always."""
        import pandas as pd

        frame = pd.DataFrame({"x": self.cells, "by": other.cells})
        groups = frame.groupby("by")["x"]
        again = groups.size()[lambda n: n > 1].index
        # Without values that come again nothing is shown.
        return len(again) >= 20 and bool((groups.nunique()[again] == 1).mean() > 0.95)

    def joint_z(self, other: SampledColumn, label: SampledColumn) -> float:
        """Return how surely a pair's click rate differs from what its two values alone explain.

        Residuals of the additive rates of one half of the rows, averaged by pair, against those of
        the other half: their mean product over its standard error.
        """
        import numpy as np
        import pandas as pd

        frame = pd.DataFrame({"a": self.cells, "b": other.cells})
        y = pd.Series(np.array([v in ("1", "true") for v in label.cells], float))
        residual = y - y.mean()
        for _ in range(3):
            for side in ("a", "b"):
                residual = residual - residual.groupby(frame[side]).transform("mean")
        # Rows of one user or burst are neighbours; a seeded draw separates the halves evenly.
        half = np.random.default_rng(0).random(len(frame)) < 0.5
        pairs = frame["a"] + "\x1f" + frame["b"]
        first, second = (residual[part].groupby(pairs[part]).sum() for part in (half, ~half))
        product = (first * second).dropna()
        spread = float(np.sqrt((product**2).sum()))
        return float(product.sum()) / spread if len(product) >= 4 and spread > 0 else 0.0


def read_sample(path: Path) -> LogSample:
    """Read the first records of a CSV or Parquet file.

    Raises:
        InputError: the file cannot be read, is of another format or has no header.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir():
        raise InputError(f"{path} is a folder: give a pattern of files, such as {path}/*.parquet")
    try:
        if path.suffix == ".parquet":
            batch = next(pq.ParquetFile(path).iter_batches(batch_size=SAMPLE_ROWS))
            columns = [
                _typed_column(name, values)
                for name, values in zip(batch.schema.names, batch.columns, strict=True)
            ]
            return LogSample(path, batch.num_rows, columns, "parquet")
        return _read_csv(path)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, StopIteration, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot read a sample: {error}") from error


def _typed_column(name: str, values: Any) -> SampledColumn:
    import pyarrow.types as types

    kind = values.type
    if types.is_struct(kind) or types.is_map(kind):
        return SampledColumn(name, (), nested="a structure: write its parts as columns")
    if types.is_list(kind) or types.is_large_list(kind):
        texts = ["|".join(map(canonical, v)) if v else "" for v in values.to_pylist()]
        return SampledColumn(name, tuple(texts), listed=True)
    return SampledColumn(name, tuple(map(canonical, values.to_pylist())))


def _read_csv(path: Path) -> LogSample:
    import pandas as pd

    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
    with openers.get(path.suffix, open)(path, "rb") as stream:
        head = stream.read(1 << 20)
    encoding = "utf-8"
    try:
        # The last character may be cut.
        head.decode("utf-8", "strict") if len(head) < 1 << 20 else head[:-4].decode("utf-8")
    except UnicodeDecodeError as error:
        encoding = "utf-8" if error.start >= len(head) - 8 else "cp1252"
    first = head.split(b"\n", 1)[0].decode(encoding, "replace").strip("\r\ufeff")
    if first.startswith(("{", "[")):
        raise InputError(
            f"{path}: looks like JSON; logs are CSV or Parquet. Convert it, for instance with "
            "pandas.read_json(FILE, lines=True).to_parquet(FILE2)"
        )
    # The header tells the separator; in the values a list's own mark may be more frequent.
    separator = max((",", "\t", ";", "|"), key=first.count)
    names = [name.strip('"') for name in first.split(separator)]
    values = [n for n in names if re.match(python_pattern(f"{NUMBER}|{ISO}"), n)]
    if values:
        raise InputError(
            f"{path}: the first line looks like values ({values[0]!r}), not like names: a log "
            "needs a header. Write one line of names, separated like the values, at the top"
        )
    # Values stay text, so that `007` is not a number; nulls stay unchanged.
    frame = pd.read_csv(
        path, sep=separator, nrows=SAMPLE_ROWS, dtype=str, keep_default_na=False,
        encoding=encoding, encoding_errors="replace", on_bad_lines="skip", index_col=False,
    )  # fmt: skip
    frame.columns = frame.columns.str.removeprefix("\ufeff")
    nulls = tuple(word for word in _NULLS if frame.isin([word]).any(axis=None))
    columns = [_text_column(str(name), frame[name], nulls) for name in frame.columns]
    return LogSample(path, len(frame), columns, "csv", separator, encoding, nulls)


def _text_column(name: str, series: pd.Series, nulls: tuple[str, ...]) -> SampledColumn:
    # In canonical form, as ingest will store them.
    cells = tuple("" if v in nulls else canonical(v) for v in series.fillna("").tolist())
    filled = [cell for cell in cells if cell][:200]
    if filled and all(_is_json(cell) for cell in filled):
        why = "JSON in text is not read: write lists as a|b, or as Parquet lists"
        return SampledColumn(name, cells, nested=why)
    return SampledColumn(name, cells)


def _is_json(text: str) -> bool:
    if not text.startswith(("[", "{")):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
