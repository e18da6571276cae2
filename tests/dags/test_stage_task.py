"""Exit codes as Airflow's outcomes, the manifest as the only XCom, and the end of a killed task."""

import json
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)

from dags.stage_task import (
    MAX_XCOM_CHARACTERS,
    RUN_URL_VARIABLE,
    StageTask,
    is_new,
    stage_environment,
)

pytestmark = pytest.mark.airflow


def run_script(script: str) -> str:
    return task().run_command([sys.executable, "-c", script], os.environ)


def task() -> StageTask:
    return StageTask(task_id="train", stage="train")


@pytest.mark.process
def test_the_manifest_is_what_comes_back():
    assert (
        run_script("print('working'); print('manifest=/ws/checkpoint/_COMMIT.json')")
        == "/ws/checkpoint/_COMMIT.json"
    )


@pytest.mark.process
def test_the_last_manifest_counts_and_later_chatter_does_not_hide_it():
    assert (
        run_script(
            "import sys; print('manifest=/a'); print('manifest=/b'); print('bye', file=sys.stderr)"
        )
        == "/b"
    )


@pytest.mark.process
@pytest.mark.parametrize(
    "line",
    ["print('done')", "print('manifest=')", f"print('manifest=/' + 'x' * {MAX_XCOM_CHARACTERS})"],
)
def test_a_stage_without_a_usable_manifest_fails_for_good(line):
    with pytest.raises(AirflowFailException, match="manifest="):
        run_script(line)


@pytest.mark.process
def test_the_longest_manifest_passes():
    path = "/" + "x" * (MAX_XCOM_CHARACTERS - 1)
    assert run_script(f"print('manifest={path}')") == path


@pytest.mark.process
@pytest.mark.covers("H4", "F11")
def test_no_data_fails_the_task_unless_the_stage_says_skip():
    # Faults H4, F11: a day that did not happen is red.
    with pytest.raises(AirflowFailException, match="no data"):
        run_script("raise SystemExit(4)")
    with pytest.raises(AirflowSkipException, match="no data"):
        run_script("print('missing_input=skip'); raise SystemExit(4)")


@pytest.mark.process
@pytest.mark.covers("H4", "F11")
def test_before_the_deadline_the_task_starts_again_later_without_using_a_retry():
    now = datetime.now(UTC)
    with pytest.raises(AirflowRescheduleException) as error:
        run_script("print('missing_input=wait'); raise SystemExit(75)")
    assert timedelta(0) < error.value.reschedule_date - now < timedelta(minutes=11)


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "meaning"), [(2, "bad input"), (3, "unsound"), (1, "unexpected"), (120, "unexpected")]
)
def test_what_a_retry_cannot_cure_fails_for_good(code, meaning):
    with pytest.raises(AirflowFailException, match=meaning):
        run_script(f"raise SystemExit({code})")


@pytest.mark.process
@pytest.mark.parametrize("code", [75, 137, 143])
def test_trouble_of_the_surroundings_is_worth_a_retry(code):
    with pytest.raises(AirflowException) as error:
        run_script(f"raise SystemExit({code})")
    assert not isinstance(error.value, AirflowFailException | AirflowSkipException)


@pytest.mark.process
def test_a_killed_stage_is_worth_a_retry():
    with pytest.raises(AirflowException, match="killed") as error:
        run_script("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert not isinstance(error.value, AirflowFailException)


@pytest.mark.process
@pytest.mark.parametrize("code", [1, 2, 3, 4, 75, 137])
def test_a_failed_tasks_log_ends_with_the_cause_and_what_to_do(code):
    script = f"print('working'); print('error: no rows\\n  in a.csv'); raise SystemExit({code})"
    with pytest.raises(AirflowException) as error:
        run_script(script)
    first, *cause, remedy = str(error.value).splitlines()
    assert first.startswith("train: ")
    assert cause == ["Cause: no rows", "  in a.csv"]
    assert remedy.startswith("What to do: ")
    assert "clear" in remedy


@pytest.mark.process
def test_a_task_over_its_time_limit_ends_its_stage_and_says_what_to_do():
    from airflow.sdk.execution_time.timeout import timeout

    running = StageTask(task_id="train", stage="train", execution_timeout=timedelta(seconds=1))
    began = time.monotonic()
    with (
        pytest.raises(AirflowException, match=r"longer than 0:00:01.*\n.*\nWhat to do"),
        timeout(1),
    ):
        running.run_command([sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
    assert time.monotonic() - began < 20


def test_an_asset_is_updated_by_a_new_version_only(tmp_path):
    def manifest(committed_at: datetime, **metrics: object) -> str:
        path = tmp_path / "_COMMIT.json"
        commit = {"committed_at_s": int(committed_at.timestamp()), "metrics": metrics}
        path.write_text(json.dumps(commit))
        return str(path)

    start = datetime(2026, 1, 2, tzinfo=UTC)
    later, before = start + timedelta(minutes=3), start - timedelta(days=1)
    assert is_new(manifest(later), start)
    assert not is_new(manifest(before), start), "still valid encodings of an earlier run"
    assert is_new(manifest(later, promoted=True), start)
    assert not is_new(manifest(later, promoted=False), start), "a refused candidate"


@pytest.mark.process
def test_the_addresses_that_a_stage_prints_become_links_also_when_it_fails():
    running = StageTask(task_id="validate_data", stage="validate-data")
    script = "print('link=Data Docs http://m/#/docs'); raise SystemExit(3)"
    with pytest.raises(AirflowFailException):
        running.run_command([sys.executable, "-c", script], os.environ)
    found = {
        link.name: link.get_link(running, ti_key=None) for link in running.operator_extra_links
    }
    assert found == {"MLflow run": "", "Report": "", "Data Docs": "http://m/#/docs"}


@pytest.mark.process
def test_a_manifest_does_not_hide_a_bad_exit_code():
    with pytest.raises(AirflowFailException):
        run_script("print('manifest=/a'); raise SystemExit(3)")


@pytest.mark.process
def test_on_kill_ends_the_stage():
    running = task()
    began = time.monotonic()
    threading.Timer(0.7, running.on_kill).start()
    with pytest.raises(AirflowException, match="killed"):
        running.run_command([sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
    assert time.monotonic() - began < 20


@pytest.mark.process
def test_on_kill_from_a_signal_handler_while_waiting_ends_the_stage():
    running = task()
    previous = signal.signal(signal.SIGTERM, lambda _number, _frame: running.on_kill())
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM)).start()
    try:
        with pytest.raises(AirflowException, match="killed"):
            running.run_command([sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_on_kill_before_the_stage_has_started_does_nothing():
    task().on_kill()


def test_a_stage_does_not_see_airflows_secrets():
    given = {
        "AIRFLOW__API_AUTH__JWT_SECRET": "s",
        "_AIRFLOW_X": "s",
        "MLFLOW_TRACKING_URI": "http://m",
        "PATH": "/bin",
    }
    ti = SimpleNamespace(log_url="http://log")
    assert stage_environment(given, {"ti": ti}) == {
        "MLFLOW_TRACKING_URI": "http://m",
        "PATH": "/bin",
        "PYTHONUNBUFFERED": "1",
        RUN_URL_VARIABLE: "http://log",
    }


def test_nothing_of_a_stage_task_is_a_template():
    assert tuple(StageTask.template_fields) == ()
