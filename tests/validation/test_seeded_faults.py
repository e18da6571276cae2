"""Faults of the data on simulated days, each found by the check that names it (fault F14).

Ingest and gate are the real ones. What is found before the gate has its own tests: exact copies
are dropped and counted, files and columns that are missing are named, times of another unit end
ingest.
"""

import json
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.schema import Schema
from simulator.impressions import chunks, impressions
from simulator.settings import SimulatorSettings
from simulator.world import World
from spark_jobs.ingest import ingest
from spark_jobs.settings import Source
from validation.data.expectations import check_data
from validation.settings import DataGateSettings

pytestmark = [pytest.mark.spark, pytest.mark.covers("F14")]

SCHEMA = Schema.model_validate(
    {
        "label": "click",
        "user": "user_id",
        "item": "item_id",
        "timestamp": {"column": "timestamp_ms", "unit": "ms"},
        "fields": [
            *({"kind": "categorical", "name": name} for name in ("user_id", "item_id")),
            *({"kind": "categorical", "name": name} for name in ("slot", "device", "city")),
            {"kind": "categorical", "name": "position"},
            {"kind": "multi_valued", "name": "user_tags"},
            {"kind": "time", "name": "hour"},
            {"kind": "numeric", "name": "price", "transform": "log"},
        ],
    }
)
WORLD = World(
    SimulatorSettings(
        impressions_per_day=8000, users=1500, items=300, new_items_per_day=5, chunk_rows=8000
    )
)
DAYS = [date(2026, 1, 1) + timedelta(days=i) for i in range(5)]
CITIES = ("Zürich", "Köln", "São Paulo", "Oslo", "Malmö")
HOUR_MS = 3_600_000


def log_of(day):
    """The simulated log of a day, with a field of text that is not ASCII."""
    (chunk,) = chunks(WORLD.settings)
    frame = impressions(WORLD, day, chunk).to_pandas()
    return frame.assign(city=[CITIES[user % len(CITIES)] for user in frame["user_id"]])


def hour_of(frame):
    return frame["timestamp_ms"] // HOUR_MS % 24


def hour_again(frame):
    """The records of an hour twice, the second time with other ids and times."""
    again = frame[hour_of(frame) == 12]
    again = again.assign(
        impression_id=again["impression_id"] + 10**9, timestamp_ms=again["timestamp_ms"] + 1
    )
    return pd.concat([frame, again[hour_of(again) == 12]])


def hours_later(frame, hours):
    """Times of another zone, of which the log keeps the day."""
    start = frame["timestamp_ms"].min() // (24 * HOUR_MS) * (24 * HOUR_MS)
    moved = (frame["timestamp_ms"] - start + hours * HOUR_MS) % (24 * HOUR_MS)
    return frame.assign(timestamp_ms=start + moved)


def clicked_more(frame, times):
    clicks = frame["click"].to_numpy().copy()
    more = int((times - 1) * clicks.sum())
    clicks[np.random.default_rng(1).choice(np.flatnonzero(clicks == 0), more, False)] = 1
    return frame.assign(click=clicks)


FAULTS = {
    "swapped columns": (
        lambda f: f.assign(slot=f["device"], device=f["slot"]),
        {"slot.new_value_rate", "device.new_value_rate"},
    ),
    "swapped ids": (
        lambda f: f.assign(user_id=f["item_id"], item_id=f["user_id"]),
        {"user_id.cardinality_change", "item_id.new_value_rate"},
    ),
    "another unit": (lambda f: f.assign(price=f["price"] * 1000), {"price.js"}),
    "numbers as text": (lambda f: f.assign(price="1,5"), {"price.unreadable_share"}),
    "click rate x 3": (lambda f: clicked_more(f, 3), {"ctr_change"}),
    "half the volume": (lambda f: f.iloc[::2], {"rows_change"}),
    "a missing hour": (lambda f: f[hour_of(f) != 12], {"hours_missing", "hour_change"}),
    "a duplicated hour": (hour_again, {"hour_change"}),
    "half of the day": (lambda f: f[hour_of(f) < 12], {"hours_missing", "rows_change"}),
    "another time zone": (
        lambda f: f.assign(timestamp_ms=f["timestamp_ms"] + 8 * HOUR_MS),
        {"quarantined_share", "hour_change"},
    ),
    "another time zone within the day": (lambda f: hours_later(f, 8), {"hour_change"}),
    "every time at noon": (
        lambda f: f.assign(timestamp_ms=f["timestamp_ms"].min() + 12 * HOUR_MS),
        {"hour_change", "hours_missing"},
    ),
    "re-numbered users": (
        lambda f: f.assign(user_id=f["user_id"] + 10**9),
        {"user_id.new_value_rate"},
    ),
    "re-numbered items": (
        lambda f: f.assign(item_id=f["item_id"] * 7 + 10**9),
        {"item_id.new_value_rate"},
    ),
    "a field that tells the label": (
        lambda f: f.assign(position=f["position"] + f["click"] * 6),
        {"position.auc"},
    ),
    "a number that tells the label": (
        lambda f: f.assign(price=f["price"].fillna(0) / 1e3 + f["click"]),
        {"price.auc"},
    ),
    "nulls": (
        lambda f: f.assign(device=f["device"].where(f.index % 10 < 3)),
        {"device.null_share", "device.share_change"},
    ),
    "some nulls": (
        lambda f: f.assign(device=f["device"].where(f.index % 10 < 6)),
        {"device.share_change", "device.new_value_rate"},
    ),
    "text decoded as Windows-1252": (
        lambda f: f.assign(city=[c.encode().decode("cp1252") for c in f["city"]]),
        {"city.damaged_text", "city.new_value_rate"},
    ),
    "text decoded with replacements": (
        lambda f: f.assign(city=[c.encode("latin-1").decode(errors="replace") for c in f["city"]]),
        {"city.damaged_text"},
    ),
    "one value for all": (lambda f: f.assign(slot="top"), {"slot.psi"}),
    "one user floods the log": (
        lambda f: f.assign(user_id=f["user_id"].where(f.index % 3 > 0, f["user_id"].iloc[0])),
        {"user_id.share_change"},
    ),
    "lists cut to one": (
        lambda f: f.assign(user_tags=f["user_tags"].str[:1]),
        {"user_tags.new_value_rate"},
    ),
    "labels that cannot be read": (
        lambda f: f.assign(click=f["click"].astype("string").where(f.index % 10 > 0, "yes")),
        {"quarantined_share"},
    ),
    "labels upside down": (lambda f: f.assign(click=1 - f["click"]), {"ctr_change"}),
}

TOGETHER = [
    (
        "swapped columns",
        "another unit",
        "re-numbered users",
        "a field that tells the label",
        "text decoded as Windows-1252",
    ),
    ("swapped ids", "numbers as text", "some nulls", "text decoded with replacements"),
    ("a number that tells the label", "one value for all", "a duplicated hour"),
    ("one user floods the log", "lists cut to one", "nulls", "a missing hour"),
    ("half the volume", "click rate x 3", "re-numbered items"),
    ("labels upside down", "another time zone within the day"),
    ("another time zone", "labels that cannot be read"),
]
"""Faults that do not hide each other, on one day: an ingest is slow."""


@dataclass
class Logs:
    """Ingests logs and judges them against clean days."""

    spark: object
    folder: object
    history: tuple = ()
    clean: object = None

    def made(self, name, frame, day):
        out = self.folder / name.replace(" ", "-")
        out.mkdir()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), out / "log.parquet")
        source = Source(path=str(out / "log.parquet"))
        ingest(self.spark, source, SCHEMA, day, out)
        return out

    def judged(self, folder, **settings):
        return check_data(
            folder / "aggregates.parquet",
            [each / "aggregates.parquet" for each in self.history],
            SCHEMA,
            DataGateSettings(**({"drift_min_days": 4} | settings)),
            folder,
        )


@pytest.fixture(scope="module")
def logs(spark, tmp_path_factory):
    found = Logs(spark, tmp_path_factory.mktemp("logs"))
    found.history = tuple(found.made(str(day), log_of(day), day) for day in DAYS[:-1])
    found.clean = log_of(DAYS[-1])
    return found


def judged_with(logs, names):
    frame = logs.clean
    for name in names:
        frame = FAULTS[name][0](frame)
    verdict = logs.judged(logs.made("+".join(names), frame, DAYS[-1]))
    assert not verdict.passed
    expected = set().union(*(FAULTS[name][1] for name in names))
    assert expected <= {check.name for check in verdict.failed}, verdict.reasons


@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: names[0])
def test_each_seeded_fault_is_found_by_its_check(logs, names):
    judged_with(logs, names)


@pytest.mark.sweep
@pytest.mark.parametrize("name", FAULTS)
def test_each_seeded_fault_is_found_alone(logs, name):
    judged_with(logs, [name])


@pytest.fixture(scope="module")
def clean(logs):
    return logs.made("clean", logs.clean, DAYS[-1])


def test_a_clean_day_passes_every_check(logs, clean):
    verdict = logs.judged(clean)
    assert verdict.passed, verdict.reasons
    assert {"hour_change", "user_id.psi", "price.js"} <= {check.name for check in verdict.checks}
    assert verdict.notes == ()


def test_without_enough_earlier_days_nothing_is_judged_and_the_verdict_says_so(logs, clean):
    verdict = logs.judged(clean, drift_min_days=5)
    assert "user_id.psi" not in {check.name for check in verdict.checks}
    assert json.loads((clean / "verdict.json").read_text())["notes"] == [
        "drift is not judged: 4 earlier ones to compare with, `data_gate.drift_min_days` asks for 5"
    ]


def test_a_finding_names_field_limits_examples_and_setting(logs):
    day = logs.made("renamed", logs.clean.replace({"slot": {"feed": "stream"}}), DAYS[-1])
    failed = {check.name: check.finding for check in logs.judged(day).failed}
    text = failed["slot.new_value_rate"]
    assert text.startswith("slot: share of new values against 4 earlier ones: 0.4")
    assert "must be at most 0.3 ('stream'); `data_gate.max_new_value_rate` sets" in text
    assert "before, 0.0% now" in failed["slot.share_change"]

    assert logs.judged(day, drift="off").passed
    ignored = logs.judged(day, drift_ignored_fields=("slot",))
    assert ignored.passed
    warned = logs.judged(day, drift="warn")
    assert warned.passed
    assert set(failed) == {check.name for check in warned.drifted}
    document = json.loads((day / "verdict.json").read_text())
    assert text in document["drift"]
    assert not {c["name"]: c["passed"] for c in document["checks"]}["slot.new_value_rate"]
