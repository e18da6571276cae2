"""Calibration against the same hours of earlier days."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from test_gates import GOOD

from validation.model.gates import SAME_HOURS, GateResult, decide
from validation.model.hours import HOURS, HourSums, compare_hours, local_hours_of
from validation.settings import ModelGateSettings

SETTINGS = ModelGateSettings()
RATIO = np.concatenate([np.full(18, 1.1), np.full(6, 0.8)])
"""Predicted over observed clicks of a sound model: it predicts too few in the evening."""
EVENING, MORNING = range(19, 24), range(8, 12)
pytestmark = pytest.mark.covers("audit-M7")


def day(seed, heldout=EVENING, rows=6_000, over=1.0, spread=0.0, rate=0.1):
    """A day of 24 hours with random clicks; the model predicts `RATIO` times `over` of them."""
    draw = np.random.default_rng(seed)
    held, sums = np.isin(np.arange(24), heldout), np.zeros((24, 3))
    sums[:, 0] = draw.integers(rows * 0.8, rows * 1.2, 24)
    sums[:, 1] = sums[:, 0] * rate * over
    level = math.exp(draw.normal(0, spread)) if spread else 1.0
    sums[:, 2] = draw.binomial(sums[:, 0].astype(int), np.clip(rate * level / RATIO, 0, 1))
    return HourSums(sums, held)


def judged(today, earlier, **settings):
    evidence = replace(GOOD, same_hours=compare_hours(today, earlier))
    verdict = decide(evidence, ModelGateSettings(**settings))
    return verdict, next((c for c in verdict.checks if c.name == SAME_HOURS), None)


def history(count=7, **changes):
    return [day(seed, **changes) for seed in range(count)]


@pytest.mark.parametrize("over", [1.15, 1 / 1.15])
def test_a_model_that_is_fifteen_percent_off_everywhere_is_refused(over):
    """Its ratio beside the baseline's (1.02) and its own limits (0.5 to 2) let it through."""
    verdict, check = judged(day(100, over=over), history())
    assert verdict.result is GateResult.REFUSED
    assert check.value == pytest.approx(over, rel=0.05)
    (reason,) = verdict.reasons
    assert "in hours 19 to 23, over that of 7 earlier days in the same hours" in reason
    found = re.search(r"\((\S+) against (\S+), standard error \d\.\d%, [\d,]+ clicks", reason)
    assert [float(each) for each in found.groups()] == pytest.approx([0.8 * over, 0.8], rel=0.05)
    assert "clicks that are lost or late in the log, and for changed training settings" in reason
    assert reason.endswith("`model_gate.max_calibration_change` sets the limit")
    # As the day before: nothing to refuse.
    assert judged(day(100), history())[0].result is GateResult.BLESSED


def test_half_a_day_is_compared_with_the_same_half_of_earlier_days():
    """Without its evening a day has another ratio, which is no fault of the model."""
    today = day(100, MORNING, 20_000)
    today.sums[12:] = 0
    earlier = history(rows=20_000)
    whole = [e.sums[:, 1].sum() / e.sums[:, 2].sum() for e in earlier]
    ratio = today.sums[:, 1].sum() / today.sums[:, 2].sum()
    assert ratio / np.mean(whole) > 1.05
    verdict, check = judged(today, earlier)
    assert verdict.result is GateResult.BLESSED
    assert "in hours 8 to 11" in check.words
    assert check.value == pytest.approx(1, abs=0.04)
    # Held against the evenings of earlier days, the same candidate would be refused.
    mistaken = [HourSums(np.roll(e.sums, 8 - 19, axis=0), e.heldout) for e in earlier]
    assert judged(today, mistaken)[0].result is GateResult.REFUSED


def test_an_hour_that_is_cut_counts_by_the_candidates_impressions():
    """Hour 18 has a ratio of its own, and the candidate has ten times its share of it."""
    today, earlier = day(100, (17, 18), 60_000), history(heldout=(17, 18), rows=60_000)
    for each in earlier:
        each.sums[18] /= 10
    _, check = judged(today, earlier)
    assert check.value == pytest.approx(1, abs=0.02)
    summed = np.mean([e.sums[17:19, 1].sum() / e.sums[17:19, 2].sum() for e in earlier])
    assert abs(today.sums[17:19, 1].sum() / today.sums[17:19, 2].sum() / summed - 1) > 0.05


@pytest.mark.parametrize(
    ("rows", "rate", "spread"),
    [(10, 0.02, 0.0), (60, 0.1, 0.0), (2_000, 0.1, 0.0), (2_000, 0.1, 0.05), (60_000, 0.1, 0.05)],
)
@pytest.mark.parametrize("days", [5, 14])
def test_noise_refuses_few_sound_models(rows, rate, spread, days):
    """Three standard errors are 0.27 %; with a spread estimated from few days at most 1.5 %."""
    refused = 0
    for trial in range(300):
        made = [
            day((trial, n), rows=rows, rate=rate, spread=spread, heldout=(20, 21))
            for n in range(days + 1)
        ]
        refused += judged(made[0], made[1:])[0].result is not GateResult.BLESSED
    assert refused <= 5


def test_too_few_earlier_days_are_not_judged_and_it_is_said():
    off = day(100, over=1.5)
    verdict, check = judged(off, history(4))
    assert (verdict.result, check) == (GateResult.BLESSED, None)
    assert verdict.as_dict()["notes"] == [
        "calibration against earlier days not judged: 4 of 5 earlier days with sound figures of "
        "hours 19 to 23 (`model_gate.calibration_min_days`)"
    ]
    # A day that lacks one of the hours is none of them.
    partial = day(7)
    partial.sums[22] = 0
    assert judged(off, [*history(4), partial])[1] is None
    assert judged(off, history(5))[0].notes == ()
    assert judged(off, history(4), calibration_min_days=4)[0].result is GateResult.REFUSED
    assert judged(off, [])[0].result is GateResult.BLESSED


def test_a_small_change_passes_however_certain_it_is():
    many = {"rows": 10_000_000}
    today, earlier = day(100, over=1.04, **many), history(**many)
    assert judged(today, earlier)[0].result is GateResult.BLESSED
    verdict, _ = judged(today, earlier, max_calibration_change=1.03)
    assert verdict.result is GateResult.REFUSED


@pytest.mark.parametrize("rows", [0, 1])
def test_next_to_nothing_held_out_is_judged_by_no_hour(rows):
    today = HourSums(np.zeros((24, 3)), np.zeros(24, bool))
    today.sums[5, 0] = rows
    today.heldout[5] = bool(rows)
    assert judged(today, history())[0].result is GateResult.BLESSED


def test_sums_by_hour_from_impressions_and_from_before_training(tmp_path):
    """Known sums; the checkpoint's hours fill in what is not held out."""
    hours = [
        {"hour": 3, "scored": 50, "clicks": 4, "calibration": 1.5},
        {"hour": 4, "scored": 50, "clicks": 0, "calibration": None},
        {"hour": 5, "scored": 99, "clicks": 9, "calibration": 9.0},
    ]
    (tmp_path / "progressive.json").write_text(json.dumps({"hours": hours}))
    label, probability = np.array([1, 0, 1], np.float32), np.array([0.5, 0.25, 0.5], np.float32)
    sums = HourSums.of(np.array([5, 5, 6]), label, probability, tmp_path / "progressive.json")
    expected = {3: [50, 6, 4], 5: [2, 0.75, 1], 6: [1, 0.5, 1]}
    for hour in range(24):
        assert sums.sums[hour].tolist() == expected.get(hour, [0, 0, 0])
    assert np.flatnonzero(sums.heldout).tolist() == [5, 6]
    sums.write(tmp_path / HOURS, comparable=True)
    again = HourSums.read(tmp_path / HOURS)
    np.testing.assert_array_equal(again.sums, sums.sums)
    np.testing.assert_array_equal(again.heldout, sums.heldout)
    sums.write(tmp_path / HOURS, comparable=False)
    assert HourSums.read(tmp_path / HOURS) is None


def test_hours_are_those_of_the_local_clock(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "impressions").mkdir()
    # 2026-03-29: Berlin's clock goes from 2 to 3 at 01:00 UTC.
    stamps = [1_774_745_999_999, 1_774_746_000_000, 1_774_742_400_000]
    table = pa.table({"record_id": [7, 8, 9], "timestamp_ms": stamps})
    pq.write_table(table, tmp_path / "impressions" / "a.parquet")
    found = local_hours_of(tmp_path, np.array([9, 7, 8]), "Europe/Berlin")
    assert found.tolist() == [1, 1, 3]
    assert local_hours_of(tmp_path, np.array([8]), "-05:30").tolist() == [19]
