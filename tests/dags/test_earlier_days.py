"""When a day or hour may start: every combination of earlier runs."""

from datetime import date, timedelta

import pytest
from airflow.sdk.exceptions import AirflowFailException

from dags.earlier_days import EarlierRun, RunState, may_start
from dags.request import RunRequest
from features.partition import Hour

TODAY = RunRequest(date(2022, 4, 27), "a.yaml", "ws")


def run(
    days_before: int,
    state: RunState,
    *,
    backfill: bool = True,
    workspace: str = "ws",
    run_id: str = "",
) -> EarlierRun:
    request = RunRequest(TODAY.day - timedelta(days=days_before), "a.yaml", workspace)
    return EarlierRun(run_id or f"{state}-{days_before}", state, request, backfill)


def decide(*runs: EarlierRun, backfill: bool = True) -> bool:
    return may_start(
        TODAY, lambda state: [each for each in runs if each.state is state], backfill=backfill
    )


def test_the_first_day_starts():
    assert decide()


def test_a_day_starts_after_days_that_are_done_or_were_skipped():
    assert decide(run(1, RunState.SUCCESS), run(2, RunState.SUCCESS))


def test_a_day_waits_for_an_earlier_one_that_runs():
    assert not decide(run(1, RunState.RUNNING))


def test_a_day_waits_for_a_backfill_that_is_still_queued_when_it_is_not_of_it():
    assert not decide(run(3, RunState.QUEUED, backfill=True), backfill=False)


def test_a_day_that_an_earlier_one_waits_behind_gives_way():
    with pytest.raises(
        AirflowFailException, match=r"2022-04-24 \(run queued-3\).*queued behind 2022-04-27"
    ):
        decide(run(3, RunState.QUEUED), backfill=True)


def test_a_failed_day_stops_every_later_one_and_says_what_to_do():
    with pytest.raises(
        AirflowFailException, match=r"2022-04-25 \(run failed-2\) failed\. Clear that run"
    ) as error:
        decide(run(2, RunState.FAILED), run(1, RunState.SUCCESS))
    assert "mark it a success" in str(error.value)


def test_a_failed_day_that_another_run_has_done_is_no_hole():
    assert decide(run(2, RunState.FAILED), run(2, RunState.SUCCESS))


def test_a_success_of_another_workspace_does_not_fill_the_hole():
    with pytest.raises(AirflowFailException):
        decide(run(2, RunState.FAILED), run(2, RunState.SUCCESS, workspace="other"))


def test_several_holes_are_listed_in_order():
    with pytest.raises(AirflowFailException, match=r"2022-04-24.*2022-04-26"):
        decide(run(1, RunState.FAILED), run(3, RunState.FAILED))


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.QUEUED, RunState.RUNNING])
def test_later_days_the_same_day_and_other_workspaces_do_not_matter(state):
    assert decide(run(0, state), run(-1, state), run(1, state, workspace="other"))


def test_an_hour_waits_for_the_hour_and_the_day_before_and_lists_what_is_open_in_order():
    def start(*runs: EarlierRun) -> bool:
        return may_start(
            hour, lambda state: [each for each in runs if each.state is state], backfill=False
        )

    def earlier(day: date | Hour, state: RunState) -> EarlierRun:
        return EarlierRun(f"of {day}", state, RunRequest(day, "a.yaml", "ws"), backfill=False)

    hour = RunRequest(Hour(TODAY.day, 1), "a.yaml", "ws")
    before, yesterday = Hour(TODAY.day, 0), TODAY.day - timedelta(days=1)
    assert start(earlier(before, RunState.SUCCESS), earlier(TODAY.day, RunState.RUNNING))
    assert not start(earlier(before, RunState.RUNNING))
    with pytest.raises(
        AirflowFailException, match=r"2022-04-26 \(run of 2022-04-26\), 2022-04-27T00 \(run of"
    ):
        start(earlier(before, RunState.FAILED), earlier(yesterday, RunState.FAILED))
