"""The distances of drift by hand, and fields of which only some values are kept (fault F14)."""

import math

import numpy as np
import pyarrow as pa
import pytest

from features.schema import Categorical, Numeric, Schema
from spark_jobs import aggregates
from validation.data.checks import Aggregates
from validation.data.drift import Day, drift_checks, sound_value_checks
from validation.settings import DataGateSettings

pytestmark = pytest.mark.covers("F14")


def table(counts, hashes=None, clicks=None):
    return pa.table(
        {
            "value": pa.array(list(counts)),
            "hash": pa.array(hashes or list(range(len(counts))), pa.int64()),
            "impressions": pa.array(list(counts.values()), pa.int64()),
            "clicks": pa.array(clicks or [0] * len(counts), pa.int64()),
        }
    )


def day(field, values, distinct=None):
    found = {
        ("", "rows_kept"): 1000.0,
        ("", "ctr"): 0.1,
        (field, "distinct"): float(distinct or len(values)),
    }
    return Day(Aggregates(found), {field: values})


def check(name, today, history, field):
    schema = Schema(label="y", user="u", item="i", timestamp={"column": "t"}, fields=(field,))
    checks = drift_checks(today, history, schema, DataGateSettings(), hours=False)
    return {c.name: c for c in checks}[name]


CITY, PRICE = Categorical(name="city"), Numeric(name="price")


def test_distances_of_a_category_by_hand():
    week = [day("city", table({"a": 60, "b": 40}))] * 3
    today = day("city", table({"a": 30, "b": 50, "c": 20}))
    assert check("city.new_value_rate", today, week, CITY).value == pytest.approx(0.2)
    assert check("city.share_change", today, week, CITY).value == pytest.approx(0.3)
    p = [30.5 / 81.5, 50.5 / 81.5, 0.5 / 81.5]
    q = [180.5 / 301.5, 120.5 / 301.5, 0.5 / 301.5]
    psi = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert check("city.psi", today, week, CITY).value == pytest.approx(psi)


def test_a_number_that_moved_away_is_one_bit_apart():
    week = [day("price", table({"1": 50, "2": 50}))] * 3
    same = day("price", table({"1": 500, "2": 500}))
    moved = day("price", table({"1000": 50, "2000": 50}))
    assert check("price.js", same, week, PRICE).value == pytest.approx(0)
    found = check("price.js", moved, week, PRICE)
    assert found.value == pytest.approx(1)
    assert found.examples == "quartiles 1/1/2 before, 1000/1000/2000 now"


def test_the_limit_is_learned_from_the_days():
    days = [day("city", table({"a": 50, f"new{i}": 50})) for i in range(4)]
    # Half of each day is new: the limit is half-way from there to 1, not twice as much.
    found = check("city.new_value_rate", days[0], days[1:], CITY)
    assert (found.value, found.high, found.passed) == (0.5, 0.75, True)
    renumbered = day("city", table({"x": 50, "y": 50}))
    assert not check("city.new_value_rate", renumbered, days, CITY).passed


def test_values_that_a_day_did_not_keep_are_not_new():
    # Hashes above 1 are unknown on the earlier days; null counts whatever its hash is.
    cut = [day("city", table({"a": 5, "b": 5, "": 5}, [0, 1, 90]), distinct=4)] * 3
    today = day("city", table({"a": 5, "b": 5, "c": 90, "d": 5, "": 5}, [0, 1, 2, 3, 90]))
    assert check("city.new_value_rate", today, cut, CITY).value == 0


def test_the_lowest_hashes_and_null_are_kept(monkeypatch):
    monkeypatch.setattr(aggregates, "KEPT_VALUES", 3)
    column = aggregates._ColumnValues()
    order = np.random.default_rng(0).permutation(20)
    for part in np.array_split(order, 5):
        texts = [f"v{i:02}" if i else "" for i in part.tolist()]
        ones = pa.array([1] * len(part))
        batch = {"value": texts, "hash": pa.array(part), "n": ones, "clicks": ones}
        column.keep(pa.record_batch(batch))
    kept = column.table("city")
    assert kept["value"].to_pylist() == ["", "v01", "v02", "v03"]
    assert kept["field"].to_pylist() == ["city"] * 4


def test_rare_values_do_not_tell_the_label():
    schema = Schema(label="y", user="u", item="i", timestamp={"column": "t"}, fields=(CITY,))
    rare = table({f"c{i}": 1 for i in range(200)}, clicks=[i % 2 for i in range(200)])
    common = table({"no": 100, "yes": 100}, clicks=[0, 100])
    aucs = [
        {c.name: c for c in sound_value_checks(day("city", each), schema, DataGateSettings())}
        for each in (rare, common)
    ]
    assert [found["city.auc"].value for found in aucs] == [0.5, 1.0]
