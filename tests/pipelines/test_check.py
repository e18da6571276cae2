"""`elastic-ctr check` names days that did not happen, and days whose inputs changed since."""

import json
from dataclasses import replace

import pytest
import tiny_days
from tiny_days import DAYS, EMPTY_DAY, make_context, publish, write_config

from pipelines.stages.freshness import changed_inputs
from pipelines.stages.registry import artifacts
from pipelines.stages.train import Train, warm_start
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


@pytest.fixture
def repair(here, tmp_path, tiny_chain, mlflow_away):
    def run(*more):
        return here("run", "--repair", "-c", write_config(tmp_path), *more)

    return run


def chain_start(context):
    """Read the checkpoint before the day, as training does."""
    before = context.store.latest_before("checkpoint", context.day)
    return {"checkpoint": before} if before else {}


@pytest.mark.covers("H4", "F10", "F11")
def test_complete_skipped_missing_and_late_days(check, run_days):
    run_days(DAYS[0], DAYS[0])
    assert check(DAYS[0], DAYS[0])[:2] == (0, {"2026-01-01": "ok"})
    assert check(DAYS[0], EMPTY_DAY)[:2] == (13, {"2026-01-01": "ok", "2026-01-02": "late"})
    run_days(DAYS[2], DAYS[2])
    assert check(DAYS[0], DAYS[2])[0] == 14
    assert run_days(EMPTY_DAY, EMPTY_DAY)[0] == 4
    code, states, _ = check(DAYS[0], DAYS[2])
    assert (code, states["2026-01-02"]) == (10, "skipped")


@pytest.mark.covers("H4", "F10")
def test_a_run_of_days_without_data_says_so_and_is_exit_4(run_days):
    code, out, err = run_days(EMPTY_DAY, EMPTY_DAY)
    assert code == 4
    assert "no day from 2026-01-02 to 2026-01-02 has data" in err
    assert "already committed" not in out
    code, out, _ = run_days(DAYS[0], DAYS[2])
    assert (code, "without data: 2026-01-02" in out) == (0, True)


@pytest.mark.covers("H15", "F12")
def test_late_rows_make_what_was_made_of_them_stale(check, run_days, repair, tmp_path):
    run_days(DAYS[0], DAYS[2])
    store = Store(tmp_path / "workspace")
    assert "nothing to repair" in repair()[1]
    publish(store, "impressions", DAYS[0], "late")
    before = {artifact: store.current(artifact, DAYS[0]) for artifact in artifacts()}
    code, states, found = check(DAYS[0], DAYS[0])
    assert (code, states) == (11, {"2026-01-01": "stale"})
    assert "impressions of 2026-01-01 changed since" in found["days"][0]["reason"]
    # The next stage reads the same from what is made anew: nothing after it is.
    code, out, _ = repair()
    assert (code, "made again: 1 stages" in out) == (0, True)
    assert "2026-01-01 validate-data: impressions of 2026-01-01 changed since" in out
    assert check(DAYS[0], DAYS[0])[0] == 0
    changed = [a for a in artifacts() if store.current(a, DAYS[0]) != before[a]]
    assert changed == ["data_verdict"]


@pytest.mark.covers("H15")
def test_looking_for_changed_inputs_sets_no_damaged_checkpoint_aside(tmp_path):
    # Fault H15: `check` and `status` only look.
    context = make_context(tmp_path, overrides=["training.unvalidated_parent=true"])
    store = context.store
    first = publish(store, "checkpoint", DAYS[0], inputs=[publish(store, "impressions", DAYS[0])])
    made = publish(store, "checkpoint", DAYS[1], inputs=[first])
    (first.path / "data.txt").write_text("damaged", encoding="utf-8")
    assert "data.txt: damaged or missing" in changed_inputs(Train(), context, made)
    assert (store.damaged(), store.current("checkpoint", DAYS[0])) == ([], first)
    warm_start(replace(context, day=DAYS[1]))
    assert len(store.damaged()) == 1


@pytest.mark.covers("H15", "F5")
def test_a_day_backfilled_after_its_successor_marks_it(
    check, run_days, repair, monkeypatch, tmp_path
):
    # Faults H15, F5: the checkpoint of the third day was made from that of the first.
    monkeypatch.setattr(tiny_days.Step_checkpoint, "reads", (chain_start,))
    monkeypatch.setattr(tiny_days, "EMPTY_DAY", None)
    run_days(DAYS[0], DAYS[0])
    run_days(DAYS[2], DAYS[2])
    run_days(DAYS[1], DAYS[1])
    code, states, found = check(DAYS[0], DAYS[2])
    assert (code, list(states.values())) == (11, ["ok", "ok", "stale"])
    assert "made without checkpoint of 2026-01-02" in found["days"][2]["reason"]
    code, out, _ = repair()
    assert (code, "2026-01-03 train: made without checkpoint of 2026-01-02" in out) == (0, True)
    assert check(DAYS[0], DAYS[2])[0] == 0


@pytest.mark.covers("monitoring-4")
def test_incomplete_blocked_and_old(check, run_days, tmp_path):
    store = Store(tmp_path / "workspace")
    publish(store, "impressions", DAYS[0])
    assert check(DAYS[0], DAYS[0])[0] == 12
    publish(store, "validation_report", DAYS[0], verdict="unsound")
    assert check(DAYS[0], DAYS[0])[0] == 15
    assert check(DAYS[0], DAYS[0], "--max-age", "26h")[0] == 16
