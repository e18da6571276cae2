"""Draft a configuration from a sample of a log.

The draft guesses the role and kind of every column from its name and its values. It is meant to be
checked by a person, so it carries comments with what the guesses rest on.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from features.errors import InputError
from features.schema import RESERVED
from pipelines.cli.draft_columns import LogSample, SampledColumn, read_sample

# Names that give a column's role away, the likeliest first.
_LABELS = (
    re.compile(
        r"^(is_|was_|has_)?(click(ed)?|clk|klick|geklickt|点击|是否点击|クリック)(_flag)?s?$", re.I
    ),
    re.compile(r"^(is_)?(label|target|y)$|click|klick|クリック", re.I),
)
_TIME = re.compile(r"time|date|(^|_)ts?(_|$)|_at$|stamp|zeit|datum|时间|時間|日時|日期|日付", re.I)
_USER = re.compile(
    r"^(user|member|visitor|customer|device|session|uid|nutzer|benutzer|kunden?|用户|ユーザー?|顧客)"
    r"([ _-]?(id|nr|nummer|hash|编号|番号))?$",
    re.I,
)
_ITEM = re.compile(
    r"^(item|ad|video|article|product|creative|doc|movie|news|sku|artikel|produkt|anzeigen?|商品|物品"
    r"|广告|広告|視頻|视频)([ _-]?(id|nr|nummer|hash|编号|番号))?$",
    re.I,
)
_OUTCOME = re.compile(
    r"^is_(?!rand|new|weekend)|play_?(time|dur)|watch|dwell|stay_time|conver|purchas|bought|(^|_)likes?$|^liked|finish"
    r"|long_view|revenue|rating|gekauft|verweildauer|購入|购买|观看",
    re.I,
)
_ID = re.compile(r"id$|^id|code|zip|plz|(^|_)nr$|hash", re.I)

_MAX_CODES = 50
"""A column with more distinct numbers than this is numeric, unless it is named like an id."""

_MIN_ROWS = 1000
"""The default of `data_gate.min_rows`."""


class _Field(NamedTuple):
    """A drafted field, and why it is drafted so."""

    name: str
    column: str
    settings: str
    why: str


def draft(pattern: str) -> str:
    """Return commented YAML for the log files that match a glob pattern.

    Raises:
        InputError: no file matches, the sample cannot be read, or no column looks like a label or
            a time.
    """
    wildcard = pattern.replace("{date}", "*").replace("{hour}", "*")
    found = sorted(glob.glob(wildcard, recursive=True))  # noqa: PTH207 (it may be absolute)
    if not found:
        raise InputError(f"--data {pattern!r}: no file matches")
    # One file is enough for a draft; sorted, it is the same one on every machine.
    sample = read_sample(Path(found[0]))
    return "\n".join(_lines(pattern, sample)) + "\n"


def _lines(pattern: str, sample: LogSample) -> Iterator[str]:
    columns = sample.columns
    label = _label(columns)
    time = _time([c for c in columns if c is not label])
    rest = [c for c in columns if c is not label and c is not time]
    outcomes = {c.name: why for c in rest if (why := _outcome(c, label))}
    left_out = {c.name: why for c in rest if c.name not in outcomes and (why := _useless(c))}
    features = [c for c in rest if c.name not in outcomes and c.name not in left_out]
    if not features:
        raise InputError(
            f"{sample.path}: no column is left for features. Left out: {left_out}; outcomes: "
            f"{outcomes}. Write the YAML by hand, with a file of conf/ as an example"
        )
    user, user_why, item, item_why = _ids(features)
    fields = [field for column in features for field in _fields(column, (user, item))]
    fields = _unique(fields)
    path, dated, zone, zone_why = _partition(pattern, time)

    yield f"# Drafted from the first {sample.rows:,} records of {sample.path.name}. Check `label`,"
    yield "# `forbidden`, `timezone`, `user` and `item` first, then the rest."
    yield from _source(sample, path, dated)
    yield "features:"
    others = [c.name for c in rest if _is_label(c) and any(p.search(c.name) for p in _LABELS)]
    other = f"; also possible: {', '.join(others)}" if others else ""
    yield f"  label: {_text(label.name)}  # {label.click_rate:.1%} are 1{other}"
    yield f"  user: {_text(user.name)}  # {user_why}"
    yield f"  item: {_text(item.name)}  # {item_why}"
    unit = time.time_unit()
    yield f"  timestamp: {{column: {_text(time.name)}, unit: {unit}}}  # like {time.values[0]}"
    yield f"  timezone: {_text(zone)}  # {zone_why}"
    yield "  # Outcomes of the same impression leak the label. These columns look like outcomes:"
    yield "  forbidden:" + ("" if outcomes else " []")
    yield from (f"    - {_text(name)}  # {why}" for name, why in outcomes.items())
    if left_out:
        yield "  # Left out:"
        yield from (f"  #   {name}: {why}" for name, why in left_out.items())
    yield from _feature_fields(fields)
    by_column = {c.name: c for c in features}
    yield from _gate(sample, time, fields, by_column)
    yield from _admission(fields, by_column)
    yield from _relations(fields, by_column, label, user, item)


def _source(sample: LogSample, path: str, dated: bool) -> Iterator[str]:
    yield f"name: {_identifier(sample.path.stem.split('.')[0]) or 'my_log'}"
    yield "source:"
    yield f"  path: {_text(path)}"
    yield f"  format: {sample.format}"
    if dated:
        yield "  partition: path  # the dates in the path are those of the times"
    if sample.separator not in ("", ","):
        yield f"  separator: {_text(sample.separator)}"
    if sample.encoding not in ("", "utf-8"):
        yield f"  encoding: {sample.encoding}  # not all bytes are UTF-8"
    if sample.null_values:
        words = ", ".join(map(_text, sample.null_values))
        yield f"  null_values: [{words}]  # these texts stand in place of values"


def _feature_fields(fields: list[_Field]) -> Iterator[str]:
    yield "  fields:"
    for field in fields:
        column = "" if field.column == field.name else f", column: {_text(field.column)}"
        yield f"    - {{name: {field.name}{column}, {field.settings}}}  # {field.why}"
    hour = next(n for n in ("hour", "hour_of_day", "impression_hour") if n not in _names(fields))
    yield f"    - {{name: {hour}, kind: time, part: hour_of_day}}"


def _is_label(column: SampledColumn) -> bool:
    return bool(column.values) and set(column.values) <= {"0", "1", "true", "false"}


def _label(columns: list[SampledColumn]) -> SampledColumn:
    binary = [c for c in columns if _is_label(c)]
    for pattern in _LABELS:
        for column in binary:
            if pattern.search(column.name):
                return column
    # An outcome such as a like is no click, even if it is the only one.
    if len(binary) == 1 and not _OUTCOME.search(binary[0].name):
        return binary[0]
    raise _not_found("a label (0/1 or true/false, named like click or label)", columns)


def _time(columns: list[SampledColumn]) -> SampledColumn:
    named = [c for c in columns if _TIME.search(c.name) and c.time_unit()]
    # Without a name that tells, only text is recognised: many ids look like epochs.
    named += [c for c in columns if c.time_unit() == "iso"]
    if named:
        return named[0]
    days = [c.name for c in columns if c.dates]
    hint = f" ({days} hold days without a time: write 2024-06-01T00:00:00)" if days else ""
    raise _not_found(f"a timestamp (epoch or ISO time){hint}", columns)


def _not_found(what: str, columns: list[SampledColumn]) -> InputError:
    return InputError(
        f"no column looks like {what}; the log has {sorted(c.name for c in columns)}. "
        "Write the YAML by hand, with a file of conf/ as an example"
    )


def _outcome(column: SampledColumn, label: SampledColumn) -> str | None:
    """Return why a column looks like an outcome of the impression."""
    if any(pattern.search(column.name) for pattern in _LABELS) and _is_label(column):
        return f"another label than {label.name}"
    if _OUTCOME.search(column.name):
        return "its name"
    # A user or item may have its own click rate; these are no outcomes.
    if _USER.search(column.name) or _ITEM.search(column.name):
        return None
    return column.tells(label)


def _useless(column: SampledColumn) -> str | None:
    """Return why a column is no feature."""
    if column.nested:
        return column.nested
    if not column.values:
        return "no value in the sample"
    if column.distinct == 1:
        return f"constant: {column.values[0][:40]!r}"
    if column.dates:
        return "a date: the day's impressions share it, and the next day's do not"
    if column.time_unit() == "iso" or (_TIME.search(column.name) and column.time_unit()):
        return "a second time; a `kind: time` field can read it"
    if column.decimal_commas and column.distinct > _MAX_CODES:
        return "numbers with decimal commas are not read: write points"
    # Floats differ by nature; an integer that always does is a count of the rows or an id.
    unique = len(column.values) >= 50 and column.distinct == len(column.values)
    if unique and not column.separator() and not (column.numeric and not column.integral):
        return "unique per row, like a request's id"
    return None


def _ids(features: list[SampledColumn]) -> tuple[SampledColumn, str, SampledColumn, str]:
    """Return the user and item columns, each with what the choice rests on."""
    single = [c for c in features if not c.separator() and not (c.numeric and not c.integral)]
    # Among columns named like ids first; then the one with the most values.
    likely = sorted(single or features, key=lambda c: (not _ID.search(c.name), -c.distinct))
    user = next((c for c in features if _USER.search(c.name)), None)
    item = next((c for c in features if _ITEM.search(c.name) and c is not user), None)
    user_why = item_why = "its name"
    if user is None:
        user = next((c for c in likely if c is not item), likely[0])
        user_why = f"a guess: an id with {user.distinct:,} values"
    if item is None:
        item = next((c for c in likely if c is not user), likely[0])
        item_why = f"a guess: an id with {item.distinct:,} values that is not the user"
    return user, user_why, item, item_why


def _fields(column: SampledColumn, ids: tuple[SampledColumn, SampledColumn]) -> list[_Field]:
    name = _identifier(column.name)
    count = f"{column.distinct:,} distinct in the sample"
    if column.listed:
        return [_Field(name, column.name, "kind: multi_valued", "lists")]
    mark = column.separator()
    if mark:
        share = sum(mark in v for v in column.values) / len(column.values)
        settings = f"kind: multi_valued, separator: {_text(mark)}"
        return [_Field(name, column.name, settings, f"{share:.0%} of the values have {mark!r}")]
    # `bid` and `paid` end like an id; an id has no fraction.
    is_id = column in ids or (_ID.search(column.name) and column.integral)
    if not column.numeric or is_id or (column.integral and column.distinct <= _MAX_CODES):
        return [_Field(name, column.name, "kind: categorical", count)]
    skewed = column.skewed
    transform = "log" if skewed else "standard"
    shape = "a long tail" if skewed else "no long tail"
    numbers = _Field(
        name, column.name, f"kind: numeric, transform: {transform}", f"{count}, {shape}"
    )
    bounds = column.boundaries()
    if not bounds:
        return [numbers]
    # A number has one weight; buckets learn any shape. `select-features` tells which one is worth
    # its place.
    settings = f"kind: numeric, transform: buckets, boundaries: {json.dumps(bounds)}"
    return [numbers, _Field(f"{name}_bucket"[:64], column.name, settings, "deciles of the sample")]


def _unique(fields: list[_Field]) -> list[_Field]:
    """Give fields whose names clash, are empty or are reserved other names."""
    used: set[str] = {"hour"} - _names(fields)
    result = []
    for number, field in enumerate(fields, 1):
        suffix = "_bucket" if "transform: buckets" in field.settings else ""
        name = field.name if field.name not in ("", suffix) else f"field_{number}{suffix}"
        if name in RESERVED or name in used or not name[0].isalpha():
            name = f"{name[:56]}_{number}" if name[0].isalpha() else f"field_{number}{suffix}"
        used.add(name)
        result.append(field._replace(name=name))
    return result


def _names(fields: list[_Field]) -> set[str]:
    return {field.name for field in fields}


def _partition(pattern: str, time: SampledColumn) -> tuple[str, bool, str, str]:
    """Return the path, whether its dates partition the log, and the time zone with its reason."""
    absolute = str(Path(pattern).absolute())
    zone = time.common_offset()
    if zone:
        return absolute, "{date}" in pattern, zone, "the offset of all times in the sample"
    why = "defines the day: an IANA name or an offset such as '+08:00'; the times do not tell it"
    return absolute, "{date}" in pattern, "UTC", why


def _gate(
    sample: LogSample, time: SampledColumn, fields: list[_Field], columns: dict[str, SampledColumn]
) -> Iterator[str]:
    """Yield limits of the data gate where the sample would fail the default ones."""
    often = {f.name: columns[f.column].null_share for f in fields}
    often = {name: share for name, share in often.items() if share > 0.3}
    few = sample.rows // max(time.days, 1)
    if not often and few >= 2 * _MIN_ROWS:
        return
    yield "data_gate:"
    if few < 2 * _MIN_ROWS:
        yield f"  min_rows: {max(1, few // 4)}  # a day of the sample has about {few:,}"
    if often:
        yield "  null_share_by_field:  # half way from the share in the sample to 1"
        for name, share in often.items():
            yield f"    {name}: {(1 + share) / 2:.2f}  # {share:.0%} are empty"


def _admission(fields: list[_Field], columns: dict[str, SampledColumn]) -> Iterator[str]:
    """Yield thresholds for fields most of whose ids are seen once: such ids learn nothing."""
    counts = {}
    for field in fields:
        column = columns[field.column]
        if "numeric" not in field.settings and column.distinct >= 200:
            once = column.seen_once()
            if once >= 0.3:
                counts[field.name] = (3 if once >= 0.6 else 2, once)
    if counts:
        yield "training:"
        yield "  admission:"
        yield "    kind: poisson"
        yield "    min_counts:  # an id gets a row after so many impressions"
        for name, (count, once) in counts.items():
            yield f"      {name}: {count}  # {once:.0%} of its values are in the sample once"


def _relations(
    fields: list[_Field],
    columns: dict[str, SampledColumn],
    label: SampledColumn,
    user: SampledColumn,
    item: SampledColumn,
) -> Iterator[str]:
    """Yield the pairs of a user's and an item's group whose joint click rate is its own."""
    single = [f for f in fields if f.settings == "kind: categorical"]
    lefts = [f for f in single if f.column != item.name and columns[f.column].constant_by(user)]
    rights = [f for f in single if f.column != user.name and columns[f.column].constant_by(item)]
    lefts = [f for f in lefts if f.column != user.name]
    scored = [
        (columns[left.column].joint_z(columns[right.column], label), left.name, right.name)
        for left in lefts
        for right in rights
        if left is not right
    ]
    # 3 standard errors; a few pairs are tried.
    best = sorted((pair for pair in scored if pair[0] > 3), reverse=True)[:2]
    if best:
        yield "graph:"
        yield "  relations:  # the pair's click rate in one half of the sample holds in the other"
        for z, left, right in best:
            yield f"    - {{left: {left}, right: {right}}}  # {z:.1f} standard errors"


def _identifier(text: str) -> str:
    """Replace what a field's name may not contain."""
    import unicodedata

    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return re.sub(r"^[^A-Za-z]+|[^A-Za-z0-9_]", "", re.sub(r"[\s:.-]+", "_", plain))[:57]


def _text(text: str) -> str:
    """Write a text in YAML: quoted unless it is a plain word."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text)
    words = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}
    return text if plain and text.lower() not in words else json.dumps(text, ensure_ascii=False)
