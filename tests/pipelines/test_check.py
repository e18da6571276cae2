"""`elastic-ctr check` names days that did not happen, and days whose inputs changed since."""

import json

import pytest
from tiny_days import DAYS, EMPTY_DAY, publish, write_config

from pipelines.store.artifacts import Store


@pytest.fixture
def check(here, tmp_path, tiny_chain, mlflow_away):
    def run(first, last, *more):
        config = write_config(tmp_path)
        code, out, err = here("check", "-c", config, "--from", first, "--to", last, "--json", *more)
        assert not err
        found = json.loads(out)
        return code, {each["day"]: each["state"] for each in found["days"]}, found

    return run


@pytest.fixture
def run_days(here, tmp_path, tiny_chain, mlflow_away):
    def run(first, last):
        return here("run", "-c", write_config(tmp_path), "--from", first, "--to", last)

    return run


def test_complete_skipped_missing_and_late_days(check, run_days):
    # Faults H4, F10, F11.
    run_days(DAYS[0], DAYS[0])
    assert check(DAYS[0], DAYS[0])[:2] == (0, {"2026-01-01": "ok"})
    assert check(DAYS[0], EMPTY_DAY)[:2] == (13, {"2026-01-01": "ok", "2026-01-02": "late"})
    run_days(DAYS[2], DAYS[2])
    assert check(DAYS[0], DAYS[2])[0] == 14
    run_days(EMPTY_DAY, EMPTY_DAY)
    code, states, _ = check(DAYS[0], DAYS[2])
    assert (code, states["2026-01-02"]) == (10, "skipped")


def test_late_rows_make_what_was_made_of_them_stale(check, run_days, tmp_path):
    # Faults H15, F12.
    run_days(DAYS[0], DAYS[0])
    store = Store(tmp_path / "workspace")
    publish(store, "impressions", DAYS[0], "late")
    code, states, found = check(DAYS[0], DAYS[0])
    assert (code, states) == (11, {"2026-01-01": "stale"})
    assert "impressions of 2026-01-01 changed since" in found["days"][0]["reason"]


def test_a_day_backfilled_after_its_successor_marks_it(check, run_days, monkeypatch, tmp_path):
    # Faults H15, F5: the checkpoint of the third day was made from that of the first.
    import tiny_days

    def warm_start(context):
        before = context.store.latest_before("checkpoint", context.day)
        return {"checkpoint": before} if before else {}

    monkeypatch.setattr(tiny_days.Step_checkpoint, "reads", (warm_start,))
    monkeypatch.setattr(tiny_days, "EMPTY_DAY", None)
    run_days(DAYS[0], DAYS[0])
    run_days(DAYS[2], DAYS[2])
    run_days(DAYS[1], DAYS[1])
    code, states, found = check(DAYS[0], DAYS[2])
    assert (code, list(states.values())) == (11, ["ok", "ok", "stale"])
    assert "made without checkpoint of 2026-01-02" in found["days"][2]["reason"]
    run_days(DAYS[2], DAYS[2])
    assert check(DAYS[0], DAYS[2])[0] == 0


def test_incomplete_blocked_and_old(check, run_days, tmp_path):
    store = Store(tmp_path / "workspace")
    publish(store, "impressions", DAYS[0])
    assert check(DAYS[0], DAYS[0])[0] == 12
    publish(store, "validation_report", DAYS[0], verdict="unsound")
    assert check(DAYS[0], DAYS[0])[0] == 15
    assert check(DAYS[0], DAYS[0], "--max-age", "26h")[0] == 16
