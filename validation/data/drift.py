"""Drift: a day's values against those of earlier days, field by field.

Each figure is a distance between a day p and the other days q together, over counts of records by
value. An earlier day is held against the other earlier days in the same way, so the days themselves
tell how much they differ: a week of them has its weekdays in it. The limit of a figure is twice the
largest one among the earlier days, but at least the setting (of a ratio r, twice r - 1).

* `psi` = Σ (p - q) · ln(p / q) over the 20 most frequent values of q and the rest of its values
  (population stability index; counts are smoothed by 1/2);
* `share_change` = max |p - q| over single values (L∞);
* `new_value_rate`: share of p whose value is not in q;
* `js`: Jensen-Shannon divergence in bits of a number, over cells between and at the deciles of q;
* `auc`: the AUC of a field alone, its values ranked by their click rate on the day. Values with
  less than 50 records are one value: their rates would be the labels themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.canonical import NULL
from features.errors import InputError
from features.schema import ColumnField, Numeric, Schema, Time
from validation.checks import Check
from validation.data.checks import WHOLE_DAY, Aggregates
from validation.settings import DataGateSettings

Counts = NDArray[np.float64]
Distance = Callable[[Counts, Counts], float]

_FREQUENT, _SHOWN = 20, 3
_LEAST_IN_HOUR, _LEAST_OF_VALUE = 50, 50
_DECILES = np.arange(1, 10) / 10
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class Day:
    """What ingest counted: the aggregates, and the `values.parquet` of each field."""

    aggregates: Aggregates
    values: Mapping[str, pa.Table]

    def known_up_to(self, field: str) -> int | None:
        """Return the highest hash that is there, if values with higher ones were left out."""
        hashes = self.values[field].filter(pc.not_equal(self.values[field]["value"], NULL))["hash"]
        is_cut = len(hashes) < self.aggregates.of(field, "distinct")
        return pc.max(hashes).as_py() if is_cut else None


def read_values(path: Path) -> dict[str, pa.Table]:
    """Return `field, value, hash, impressions, clicks` of a `values.parquet`, by field.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        table = pq.read_table(path, columns=["field", "value", "hash", "impressions", "clicks"])
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: cannot read the day's values ({error}); run `ingest` for that day again"
        ) from error
    names = pc.unique(table["field"]).to_pylist()
    return {name: table.filter(pc.equal(table["field"], name)) for name in names}


def sound_value_checks(day: Day, schema: Schema, settings: DataGateSettings) -> list[Check]:
    """Return the checks that need no history: fields that tell the label, damaged text."""
    checks = []
    for field in schema.column_fields():
        if field.name not in day.values or isinstance(field, Time):
            continue
        counts = _Field(field, [day])
        clicks = day.values[field.name]["clicks"].to_numpy()
        auc = counts.auc(clicks[counts.kept[0]])
        words = f"{field.name}: AUC of the field alone"
        limit, name = settings.max_field_auc, f"{field.name}.auc"
        checks.append(Check(name, auc, None, limit, words, "", "data_gate.max_field_auc"))
        if not isinstance(field, Numeric):
            checks.append(_damaged_text(counts, settings.max_damaged_text_share))
    return checks


def drift_checks(
    day: Day, history: Sequence[Day], schema: Schema, settings: DataGateSettings, *, hours: bool
) -> list[Check]:
    """Return the checks of a day against earlier days.

    Args:
        day: the day to judge.
        history: earlier days, at least two.
        schema: its fields that read a column are compared, except times.
        settings: the least limits, and fields that are not compared.
        hours: whether hours of the day can be compared: not on a day when the clock changes, or
            of a single hour.
    """
    days = [*history, day]
    checks = _day_checks(days, settings)
    if hours:
        checks += _hour_checks(days, settings)
    for field in schema.column_fields():
        ignored = field.name in settings.drift_ignored_fields or isinstance(field, Time)
        if not ignored and all(field.name in each.values for each in days):
            checks += _field_checks(field, days, settings)
    return checks


class _Field:
    """Counts of a field's values on several days.

    Attributes:
        values: object [v], distinct.
        n: records, float64 [days, v].
        kept: of each day, its rows of `values.parquet` that count, bool.
    """

    def __init__(self, field: ColumnField | None, days: Sequence[Day]) -> None:
        self.field, self.name = field, field.name if field else WHOLE_DAY
        tables = [day.values[self.name] for day in days]
        # Of a day that is cut, higher hashes are unknown; they are left out of every day.
        cut = [day.known_up_to(self.name) for day in days]
        least = min((each for each in cut if each is not None), default=None)
        self.kept = [
            np.ones(len(t), bool)
            if least is None
            else (t["hash"].to_numpy() <= least) | pc.equal(t["value"], NULL).to_numpy()
            for t in tables
        ]
        found = [t["value"].to_pandas()[kept] for t, kept in zip(tables, self.kept, strict=True)]
        codes, values = pd.factorize(pd.concat(found))
        self.values: NDArray[np.object_] = np.asarray(values, object)
        self.n = np.zeros((len(days), len(values)))
        number = np.repeat(np.arange(len(days)), [len(each) for each in found])
        shown = [t["impressions"].to_numpy()[k] for t, k in zip(tables, self.kept, strict=True)]
        self.n[number, codes] = np.concatenate(shown)

    @property
    def numbers(self) -> Counts:
        """The values as numbers; NaN where one is none."""
        return pd.to_numeric(pd.Series(self.values), errors="coerce").to_numpy(np.float64)

    def cells(self, n: Counts) -> NDArray[np.intp]:
        """Return a cell [v] per number: between or at deciles of counts n; the last holds NaN."""
        x = self.numbers
        order = np.argsort(x)
        order = order[(n[order] > 0) & ~np.isnan(x[order])]
        edges = np.array([])
        if len(order):
            total = np.cumsum(n[order])
            edges = np.unique(x[order][np.searchsorted(total, _DECILES * total[-1])])
        cells = np.searchsorted(edges, x) + np.searchsorted(edges, x, side="right")
        return np.where(np.isnan(x), 2 * len(edges) + 1, cells)

    def auc(self, clicks: NDArray[np.int64]) -> float:
        """Return the AUC of the field on its only day, given the clicks of each value."""
        n = self.n[0]
        if isinstance(self.field, Numeric):
            cells = self.cells(n)
        else:
            cells = np.where(n >= _LEAST_OF_VALUE, np.arange(1, len(n) + 1), 0)
        shown, clicked = (np.bincount(cells, weights=w) for w in (n, clicks))
        order = np.argsort(np.divide(clicked, shown, out=np.zeros(len(shown)), where=shown > 0))
        positive, negative = clicked[order], (shown - clicked)[order]
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative / 2
        return float((positive * below).sum() / pairs) if pairs else 0.5


def _damaged_text(counts: _Field, limit: float) -> Check:
    values, n = counts.values, counts.n[0]
    damaged = np.array([_is_damaged(text) for text in values], bool)
    name, share = counts.name, float(n[damaged].sum() / max(n.sum(), 1))
    examples = ", ".join(map(repr, values[damaged][:_SHOWN]))
    words, setting = f"{name}: share of text in a wrong encoding", "max_damaged_text_share"
    return Check(f"{name}.damaged_text", share, None, limit, words, examples, _of_gate(setting))


def _is_damaged(text: str) -> bool:
    """Whether text was replaced by a decoder, or is UTF-8 that was read as Windows-1252."""
    if text.isascii():
        return False
    if _REPLACEMENT in text:
        return True
    try:
        text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return False
    return True


def _day_checks(days: Sequence[Day], settings: DataGateSettings) -> list[Check]:
    checks = []
    for metric, setting, words in (
        ("rows_kept", "max_rows_change", "records kept"),
        ("ctr", "max_ctr_change", "click-through rate"),
    ):
        figures = np.array([[day.aggregates.day(metric)] for day in days])
        name = setting.removeprefix("max_")
        checks.append(_ratio_check(name, figures, words, settings, setting))
    return checks


def _hour_checks(days: Sequence[Day], settings: DataGateSettings) -> list[Check]:
    if not all(WHOLE_DAY in day.values for day in days):
        return []
    hours = _Field(None, days)
    often = hours.n[:-1].mean(axis=0) >= _LEAST_IN_HOUR
    if not often.any():
        return []
    named = [f"hour {hour}" for hour in hours.values[often]]
    shares = (hours.n[:, often] + 0.5) / hours.n.sum(axis=1, keepdims=True)
    words = "share of the day in one hour"
    check = _ratio_check("hour_change", shares, words, settings, "max_hour_change", named)
    missing = (hours.n[-1] == 0) & (hours.n[:-1].min(axis=0) >= _LEAST_IN_HOUR)
    examples = ", ".join(f"hour {hour}" for hour in hours.values[missing])
    words, count = "hours without records that each earlier day has", float(missing.sum())
    drift = _of_gate("drift")
    return [check, Check("hours_missing", count, 0, 0, words, examples, drift)]


def _ratio_check(
    name: str,
    figures: Counts,
    words: str,
    settings: DataGateSettings,
    setting: str,
    labels: Sequence[str] = (),
) -> Check:
    """Return a check of the ratio, above 1, of the last row's figures to the earlier median."""
    history = figures[:-1]
    ratios = [_ratios(row, np.delete(history, i, axis=0)) for i, row in enumerate(history)]
    now, least = _ratios(figures[-1], history), getattr(settings, setting)
    # The maximum of NaN is NaN, with which no check passes.
    limit = np.nanmax([least, 1 + 2 * (np.max(ratios) - 1)])
    at = int(np.argmax(now))
    where = f"{labels[at]}: " if labels else ""
    expected = np.median(history, axis=0)[at]
    examples = f"{where}expected about {expected:.4g}, observed {figures[-1][at]:.4g}"
    words = f"{words}, ratio to the median of {len(history)} earlier ones"
    return Check(name, float(np.max(now)), None, limit, words, examples, _of_gate(setting))


def _ratios(row: Counts, others: Counts) -> Counts:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = row / np.median(others, axis=0)
        return np.maximum(ratio, 1 / ratio)


def _field_checks(
    field: ColumnField, days: Sequence[Day], settings: DataGateSettings
) -> list[Check]:
    name, counts = field.name, _Field(field, days)
    figures = np.array([[day.aggregates.of(name, "distinct") + 1] for day in days])
    checks = [
        _ratio_check(
            f"{name}.cardinality_change",
            figures,
            f"{name}: distinct values",
            settings,
            "max_cardinality_change",
        )
    ]
    if counts.n.sum(axis=1).min() == 0:
        return checks
    judged = partial(_distance_check, counts, settings)
    if isinstance(field, Numeric):
        quartiles = [_quartiles(counts, n) for n in (counts.n[:-1].sum(axis=0), counts.n[-1])]
        examples = "quartiles {} before, {} now".format(*quartiles)
        js = partial(_js_of_numbers, counts)
        return [*checks, judged("js", js, "max_js", "JS divergence", examples)]
    changed, new = _examples(counts)
    return [
        *checks,
        judged("psi", _psi, "max_psi", "PSI", changed, bounded=False),
        judged("share_change", _share_change, "max_share_change", "change of a share", changed),
        judged("new_value_rate", _new_rate, "max_new_value_rate", "share of new values", new),
    ]


def _distance_check(
    counts: _Field,
    settings: DataGateSettings,
    figure: str,
    distance: Distance,
    setting: str,
    words: str,
    examples: str,
    *,
    bounded: bool = True,
) -> Check:
    history, least = counts.n[:-1], getattr(settings, setting)
    total = history.sum(axis=0)
    usual = max(distance(row, total - row) for row in history)
    # A bounded figure may come half-way to 1 where twice the usual one would be no limit.
    limit = max(least, min(2 * usual, (1 + usual) / 2) if bounded else 2 * usual)
    words = f"{counts.name}: {words} against {len(history)} earlier ones"
    value = distance(counts.n[-1], total)
    name = f"{counts.name}.{figure}"
    return Check(name, value, None, limit, words, examples, _of_gate(setting))


def _psi(p: Counts, q: Counts) -> float:
    p, q = p[q > 0], q[q > 0]
    order = np.argsort(-q, kind="stable")[:_FREQUENT]
    cells = [np.append(n[order], n.sum() - n[order].sum()) + 0.5 for n in (p, q)]
    a, b = (n / n.sum() for n in cells)
    return float(((a - b) * np.log(a / b)).sum())


def _share_change(p: Counts, q: Counts) -> float:
    change = np.abs(p / p.sum() - q / q.sum())
    return float(change[q > 0].max(initial=0))


def _new_rate(p: Counts, q: Counts) -> float:
    return float(p[q == 0].sum() / p.sum())


def _js_of_numbers(counts: _Field, p: Counts, q: Counts) -> float:
    cells = counts.cells(q)
    size = int(cells.max()) + 1
    a, b = (np.bincount(cells, weights=n, minlength=size) / n.sum() for n in (p, q))
    middle = (a + b) / 2
    parts = [x[x > 0] * np.log2(x[x > 0] / middle[x > 0]) for x in (a, b)]
    return float(sum(part.sum() for part in parts) / 2)


def _quartiles(counts: _Field, n: Counts) -> str:
    known = ~np.isnan(counts.numbers) & (n > 0)
    if not known.any():
        return "none"
    order = np.argsort(counts.numbers[known])
    x, total = counts.numbers[known][order], np.cumsum(n[known][order])
    found = x[np.searchsorted(total, np.array([0.25, 0.5, 0.75]) * total[-1])]
    return "/".join(f"{each:.4g}" for each in found)


def _examples(counts: _Field) -> tuple[str, str]:
    """Return the values whose share changed most, and the most frequent new ones, as text."""
    now, total = counts.n[-1], counts.n[:-1].sum(axis=0)
    p, q = now / now.sum(), total / total.sum()
    most = np.argsort(-np.abs(p - q), kind="stable")[:_SHOWN]
    changed = (f"{counts.values[i]!r} {q[i]:.1%} before, {p[i]:.1%} now" for i in most)
    new = np.flatnonzero(total == 0)
    new = new[np.argsort(-now[new], kind="stable")[:_SHOWN]]
    return ", ".join(changed), ", ".join(f"{counts.values[i]!r}" for i in new)


def _of_gate(setting: str) -> str:
    return f"data_gate.{setting}"
