"""Values, times and tokens by Spark against TensorFlow and Python, on awkward and random values."""

import math
import random
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from features import canonical as rules
from features.schema import (
    Categorical,
    Cross,
    MultiValued,
    Numeric,
    Schema,
    Time,
    TimePart,
    Timestamp,
    TimeUnit,
)
from features.timezones import utc_offsets
from pipelines.follow.raw_rows import raw_string, read_rows
from pipelines.served.elastic_ctr_model import _text
from spark_jobs.counting import SHOWN, counted, field_token, token
from spark_jobs.times import bounds_ms, epoch_ms, in_partition, time_part
from spark_jobs.values import canonical, number, single_value, value_list

pytestmark = pytest.mark.spark

AWKWARD = (
    *(
        "",
        " ",
        "007",
        "7",
        " 7",
        "7 ",
        "1.0",
        "1.00",
        "-1.0",
        "+1.0",
        "1.",
        ".0",
        "1.05",
        "0.0",
        "-0",
        "-0.0",
        "+0",
        "00.0",
        "1.0\n",
    ),
    *(
        "nan",
        "NaN",
        "NAN",
        "nan\n",
        "True",
        "TRUE",
        "true",
        "tRue",
        "False",
        "FALSE",
        "null",
        "None",
        "1e5",
        "1.0e5",
        "1E400",
        "-1e999",
    ),
    *(
        "ä",
        "a\u0308",
        "日本語",
        "🙂",
        "\x1f",
        "\x1e",
        "a\x00b",
        "$1",
        "{1}",
        "\\1",
        "٣",
        "1\u00a0",
        "1.0.0",
        "-",
        ".",
        "1e-400",
        "5e-324",
    ),
    *(
        "12345678901234567890.0",
        "9007199254740993",
        "0.1",
        "-3",
        "3",
        "2.9999999999999999",
        "1e",
        "+5",
        "-.5",
        "1_000",
        "0x10",
    ),
)
NUMBERISH = st.from_regex(r"\A[-+]?[0-9]{0,4}\.?[0-9]{0,3}([eE][-+]?[0-9]{1,3})?\Z", fullmatch=True)
TEXT = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    NUMBERISH,
    st.text("truefalsTRUEnaN01.-+\n", max_size=6),
)
ZONES = (
    "UTC",
    "Asia/Shanghai",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "+05:45",
    "Asia/Gaza",
)


def drawn(strategy: st.SearchStrategy, count: int) -> list:
    """Values drawn by hypothesis, gathered so that one Spark job judges them all."""
    found = []

    @settings(max_examples=count, database=None, phases=[Phase.generate], deadline=None)
    @given(strategy)
    def gather(value):
        found.append(value)

    gather()
    return found


def columns_of(spark, values: Iterable, **expressions) -> dict[str, list]:
    """Evaluate expressions of a column `v` over values, in their order."""
    frame = spark.createDataFrame(
        [(i, value) for i, value in enumerate(values)],
        "i long, v " + expressions.pop("kind", "string"),
    )
    rows = sorted(frame.select("i", *(e.alias(name) for name, e in expressions.items())).collect())
    return {name: [row[name] for row in rows] for name in expressions}


def texts(tensor) -> list[str]:
    return [value.decode() for value in tensor.numpy()]


@pytest.fixture(scope="module")
def keys():
    from features import keys

    return keys


def test_canonical_and_numbers_agree_with_tensorflow_and_python(spark, keys):
    values = [*AWKWARD, *drawn(TEXT, 600)]
    found = columns_of(spark, values, c=canonical(F.col("v")), n=number(canonical(F.col("v"))))
    assert found["c"] == [rules.canonical(value) for value in values]
    assert found["c"] == texts(keys.canonical(values))
    numbers, present = keys.numbers(Numeric(name="x"), values)
    assert found["n"] == [
        n if p else None for n, p in zip(numbers.numpy().tolist(), present.numpy(), strict=True)
    ]
    assert sum(present.numpy()) > 50


def test_null_is_the_empty_string(spark):
    assert columns_of(spark, [None, "x"], c=canonical(F.col("v")))["c"] == ["", "x"]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (
            "double",
            [1.0, 1e10, 1.5, -0.0, None, float("nan"), 2.0**53, 1e300],
            ["1", "10000000000", "1.5", "0", "", "", "9007199254740992", "1e+300"],
        ),
        ("float", [1.0, 0.1, 16777216.0], ["1", "0.1", "16777216"]),
        ("boolean", [True, False, None], ["true", "false", ""]),
        ("bigint", [1650812741436, -5, None], ["1650812741436", "-5", ""]),
        ("decimal(10,2)", [None], [""]),
        ("date", [date(2022, 4, 25)], ["2022-04-25"]),
        (
            "timestamp",
            [datetime(2022, 4, 25, 1, 2, 3, 4000, tzinfo=UTC)],
            ["2022-04-25T01:02:03.004000Z"],
        ),
    ],
)
def test_typed_values_have_one_spelling(spark, kind, values, expected):
    frame = spark.createDataFrame(
        [(i, value) for i, value in enumerate(values)], f"i long, v {kind}"
    )
    rows = sorted(
        frame.select("i", single_value("v", frame.schema["v"].dataType).alias("v")).collect()
    )
    assert [row["v"] for row in rows] == expected


def halves(bits: int) -> st.SearchStrategy:
    """Floats halfway between two of their shortest decimals, such as 2097152.25 in 32 bits."""
    powers = (18, 21) if bits == 32 else (47, 50)
    eighths = st.tuples(
        st.sampled_from(powers), st.floats(1, 2, width=16), st.sampled_from(range(8))
    )
    return eighths.map(lambda drawn: float(int(drawn[1] * 2 ** drawn[0])) + drawn[2] / 8)


@pytest.mark.covers("audit-M9")
@pytest.mark.parametrize(("bits", "kind"), [(32, "float"), (64, "double")])
def test_floats_have_one_spelling_in_ingest_follow_mode_and_serving(spark, bits, kind):
    # Beyond these bounds Java before 19 spells some numbers differently.
    least, most = (1e-18, 2.0**63) if bits == 64 else (2.0**-60, 2.0**63)
    plain = st.floats(least, most, width=bits) | st.integers(1, 10**7).map(lambda n: n / 1000)
    sign = np.float32 if bits == 32 else np.float64
    numbers = st.tuples(plain | halves(bits), st.sampled_from((1, -1))).map(lambda t: t[0] * t[1])
    values = [sign(value) for value in drawn(numbers, 1500)]
    values += map(sign, (0.1, -2097152.25, 1e-5, 1e20, math.inf, -math.inf, 0.0))
    table = spark.createDataFrame(
        pd.DataFrame({"i": range(len(values)), "v": pd.Series(values, dtype=sign)})
    )
    assert table.schema["v"].dataType.simpleString() == kind
    column = single_value("v", table.schema["v"].dataType).alias("v")
    written = [row["v"] for row in table.orderBy("i").select(column).collect()]
    assert written == [rules.canonical(raw_string(value)) for value in values]
    assert written == [rules.canonical(_text("v", value)) for value in values]


@pytest.mark.covers("audit-M9")
def test_decimals_and_times_have_one_spelling_in_ingest_and_follow_mode(spark, tmp_path):
    moments = [datetime(2022, 4, 5, 1, 2, 3, us, tzinfo=UTC) for us in (4000, 0, 400_000)]
    columns = {
        "decimals": pa.array(map(Decimal, ("1E-8", "0", "-10.5")), pa.decimal128(18, 8)),
        "moments": pa.array(moments, pa.timestamp("us", "UTC")),
        "local": pa.array([m.replace(tzinfo=None) for m in moments], pa.timestamp("us")),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    frame, rows = spark.read.parquet(str(tmp_path)), read_rows(tmp_path / "a.parquet")
    for name in columns:
        column = single_value(name, frame.schema[name].dataType).alias("v")
        written = [row["v"] for row in frame.select(column).collect()]
        assert written == [rules.canonical(raw_string(value)) for value in rows[name]], name
    assert [_text("v", value) for value in rows["decimals"]] == [
        "0.00000001",
        "0.00000000",
        "-10.50000000",
    ]


@pytest.mark.parametrize(
    ("kind", "separator", "value", "expected"),
    [
        ("string", ",", "12,3.0,,3.0", ["12", "3", "3"]),
        ("string", "|", "a|b c|", ["a", "b c"]),
        ("string", "\\E.", "a\\E.b", ["a", "b"]),
        ("string", ",", "", []),
        ("string", ",", None, []),
        ("array<double>", ",", [1.0, None, 2.5], ["1", "2.5"]),
        ("array<string>", ",", ["", "a,b", "True"], ["a,b", "true"]),
        ("bigint", ",", 7, ["7"]),
    ],
)
def test_lists_hold_canonical_values_and_no_null(spark, kind, separator, value, expected):
    frame = spark.createDataFrame([(value,)], f"v {kind}")
    assert (
        frame.select(value_list("v", frame.schema["v"].dataType, separator)).first()[0] == expected
    )


def moments_of_every_kind() -> list[int]:
    """Milliseconds around every change of every zone in use, plus random and extreme ones."""
    changes = sorted({start for zone in ZONES for start in utc_offsets(zone)[0][1:]})
    dice = random.Random(5)
    around = [change * 1000 + shift for change in dice.sample(changes, 150) for shift in (-1, 0, 1)]
    return [
        *around,
        *(dice.randrange(-(10**13), 6 * 10**12) for _ in range(200)),
        0,
        -1,
        -86_400_001,
        4_102_444_800_000,
    ]


def test_local_time_parts_agree_with_tensorflow_around_every_clock_change(spark):
    from features import times

    moments = moments_of_every_kind()
    wanted = {f"{zone} {part}": (zone, part) for zone in ZONES for part in TimePart}
    expressions = {name: time_part(F.col("v"), part, zone) for name, (zone, part) in wanted.items()}
    found = columns_of(spark, moments, kind="long", **expressions)
    for name, (zone, part) in wanted.items():
        assert found[name] == times.time_part(moments, part, zone).numpy().tolist(), name
    hours = [
        datetime.fromtimestamp(ms // 1000, ZoneInfo("America/New_York")).hour
        for ms in moments
        if 0 <= ms < 4 * 10**12
    ]
    assert hours == [
        h
        for h, ms in zip(found[f"America/New_York {TimePart.HOUR_OF_DAY}"], moments, strict=True)
        if 0 <= ms < 4 * 10**12
    ]


ISO_TIMES = (
    *(
        "2022-03-27T02:30:00",
        "2022-03-27 02:30:00.5+02:00",
        "2022-03-27T02:30Z",
        "2024-02-29T23:59:59.999999999-0330",
        "2023-02-29T00:00:00",
    ),
    *(
        "1900-02-29T00:00:00Z",
        "2000-02-29T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "0000-12-31T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "2022-13-01T00:00",
    ),
    *(
        "2022-00-10T00:00",
        "2022-04-31T00:00",
        "2022-01-01T24:00",
        "2022-01-01T23:60",
        "2022-01-01T23:59:60",
        "2022-01-01",
        "",
        "now",
        "1650812741436",
    ),
    *(
        "2022-01-01T00:00:00z",
        "2022-01-01T00:00:00+8",
        "1969-12-31T23:59:59.001Z",
        "2022-01-01T00:00:00\n",
        " 2022-01-01T00:00:00",
    ),
)
EPOCHS = (
    "0",
    "-1",
    "-1001",
    "1650812741436",
    "1650812741",
    "1650812741436999",
    "-999999",
    "007",
    "1.5",
    "",
    "1e3",
    "+5",
    "999999999999999",
    "x",
    "--1",
)


@pytest.mark.parametrize("unit", list(TimeUnit))
def test_raw_times_agree_with_tensorflow(spark, unit):
    from features import times

    day, offset = r"(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9]", r"(Z|[+-][01][0-9]:?[0-5][0-9])?"
    clock = r"[0-2][0-9]:[0-5][0-9](:[0-6][0-9](\.[0-9]{1,9})?)?"
    pattern = st.from_regex(rf"\A{day}[T ]{clock}{offset}\Z")
    values = [*ISO_TIMES, *EPOCHS, *drawn(pattern, 150)]
    stamp = Timestamp(column="t", unit=unit, assume_offset="-03:30")
    found = columns_of(spark, values, ms=epoch_ms(F.col("v"), stamp))["ms"]
    ms, valid = times.epoch_ms(values, stamp)
    assert found == [
        m if v else None for m, v in zip(ms.numpy().tolist(), valid.numpy(), strict=True)
    ]
    assert sum(valid.numpy()) >= 8


@pytest.mark.parametrize(
    "zone", ["UTC", "Asia/Shanghai", "America/New_York", "America/Sao_Paulo", "+05:45"]
)
@pytest.mark.parametrize(
    "day", [date(2018, 3, 11), date(2018, 11, 4), date(2018, 2, 17), date(2018, 2, 18)]
)
def test_a_day_is_the_local_date(zone, day):
    parsed = (
        UTC
        if zone == "UTC"
        else ZoneInfo(zone)
        if "/" in zone
        else datetime.strptime(zone, "%z").tzinfo
    )
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=1)
    for minutes in range(0, 3 * 1440, 15):
        moment = start + timedelta(minutes=minutes)
        ms = int(moment.timestamp() * 1000)
        inside = any(first <= ms < end for first, end in bounds_ms(day, zone))
        assert inside == (moment.astimezone(parsed).date() == day), moment


def test_in_day_keeps_the_first_millisecond_and_leaves_out_the_last_of_the_day_before(spark):
    first, end = bounds_ms(date(2022, 5, 1), "Asia/Shanghai")[0]
    values = [first - 1, first, end - 1, end, None]
    found = columns_of(
        spark, values, kind="long", d=in_partition(F.col("v"), date(2022, 5, 1), "Asia/Shanghai")
    )
    assert found["d"] == [False, True, True, False, None]


FIELDS = (
    Categorical(name="site"),
    Numeric(name="price", transform="buckets", boundaries=(-1.5, 0, 0.1, 5, 1e6)),
    Numeric(name="dense"),
    Time(name="hour"),
    Time(name="week", part=TimePart.HOUR_OF_WEEK),
    MultiValued(name="tags"),
    Cross(name="both", of=("site", "price", "hour")),
)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "+05:45"])
def test_tokens_agree_with_tensorflow(spark, keys, zone):
    schema = Schema(
        label="y", user="u", item="i", timestamp=Timestamp(column="t"), timezone=zone, fields=FIELDS
    )
    values = [*AWKWARD, *map(str, moments_of_every_kind()[:200]), *drawn(TEXT, 200)]
    singles = [
        field
        for field in schema.column_fields()
        if not isinstance(field, MultiValued) and field.name != "dense"
    ]
    found = columns_of(
        spark,
        values,
        **{field.name: token(schema, field, canonical(F.col("v"))) for field in singles},
    )
    expected = {field.name: keys.tokens(schema, field, values) for field in singles}
    for field in singles:
        assert found[field.name] == texts(expected[field.name]), field.name
    parts = [
        F.lit(None).cast("string") if name == "tags" else canonical(F.col("v"))
        for name in schema.names()
    ]
    frame = spark.createDataFrame(
        [(i, value) for i, value in enumerate(values)], "i long, v string"
    )
    moment = epoch_ms(canonical(F.col("v")), schema.timestamp).alias("timestamp_ms")
    frame = frame.select(
        "i", moment, *(part.alias(name) for part, name in zip(parts, schema.names(), strict=True))
    )
    crossed = sorted(
        frame.select("i", field_token(schema, schema.field("both")).alias("c")).collect()
    )
    joined = keys.cross_tokens([expected[name] for name in ("site", "price", "hour")])
    assert [row["c"] for row in crossed] == texts(joined)


def test_multi_valued_tokens_have_no_repeats_and_a_null_when_empty(spark):
    schema = Schema(label="y", user="u", item="i", timestamp=Timestamp(column="t"), fields=FIELDS)
    rows = [(["b", "a", "b"], 1), ([], 0), (["b", "a", "b"], 0)]
    frame = spark.createDataFrame(rows, "tags array<string>, label int").withColumn(
        "timestamp_ms", F.lit(0)
    )
    found = counted(frame, schema, {"tag": schema.field("tags")}, SHOWN).collect()
    assert sorted(map(tuple, found)) == [("", 1, 0), ("a", 2, 1), ("b", 2, 1)]
