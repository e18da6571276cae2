"""A stage's process group: output, exit codes, and that nothing of it survives."""

import os
import signal
import sys
import threading
import time

import psutil
import pytest

from dags.stage_process import StageProcess

pytestmark = pytest.mark.process

STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("grandchild", os.getpid(), flush=True)
time.sleep(60)
"""
GRANDCHILD = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {STUBBORN!r}])
print("child", os.getpid(), flush=True)
"""


def run_python(script: str, on_line=lambda line: None, grace_s: float = 0.5) -> int:
    return StageProcess([sys.executable, "-c", script], os.environ, grace_s).run(on_line)


class Pids:
    """Collects `name pid` lines and says when both are there."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self.complete = threading.Event()

    def __call__(self, line: str) -> None:
        name, _, pid = line.partition(" ")
        self.found[name] = int(pid)
        if len(self.found) == 2:
            self.complete.set()

    def gone(self) -> bool:
        return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in self.found.values())


def eventually(condition, timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_both_streams_arrive_line_by_line_in_order():
    lines: list[str] = []
    script = "import sys; print('one', flush=True); print('two', file=sys.stderr, flush=True); sys.stdout.write('three')"
    assert run_python(script, lines.append) == 0
    assert lines == ["one", "two", "three"]


def test_a_line_arrives_while_the_command_still_runs():
    arrived: list[float] = []
    run_python("import time; print('now', flush=True); time.sleep(1)", lambda _line: arrived.append(time.monotonic()))
    assert time.monotonic() - arrived[0] > 0.7


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 75])
def test_the_exit_code_is_the_commands(code):
    assert run_python(f"raise SystemExit({code})") == code


def test_a_command_killed_by_a_signal_has_that_signals_negative_code():
    assert run_python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL


def test_bytes_that_are_no_utf8_do_not_end_the_stream():
    lines: list[str] = []
    assert run_python(r"import sys; sys.stdout.buffer.write(b'\xff\n'); print('after')", lines.append) == 0
    assert lines == ["\ufffd", "after"]


def test_terminate_ends_the_child_and_a_grandchild_that_ignores_sigterm():
    pids = Pids()
    process = StageProcess([sys.executable, "-c", GRANDCHILD + "time.sleep(60)"], os.environ, grace_s=0.5)
    threading.Thread(target=lambda: (pids.complete.wait(10), process.terminate()), daemon=True).start()
    assert process.run(pids) == -signal.SIGTERM
    assert len(pids.found) == 2
    assert eventually(pids.gone)


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace():
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    process = StageProcess([sys.executable, "-c", script], os.environ, grace_s=0.3)
    assert process.run(lambda _line: process.terminate()) == -signal.SIGKILL


def test_a_grandchild_that_outlives_its_parent_is_ended_too():
    pids = Pids()
    began = time.monotonic()
    assert run_python(GRANDCHILD + "time.sleep(1)", pids) == 0
    assert len(pids.found) == 2
    assert eventually(pids.gone)
    assert time.monotonic() - began < 30


def test_an_exception_in_the_waiting_thread_ends_the_group():
    pids = Pids()

    def raise_timeout(_number, _frame):
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, raise_timeout)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        with pytest.raises(TimeoutError):
            run_python(GRANDCHILD + "time.sleep(60)", pids)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert len(pids.found) == 2
    assert eventually(pids.gone)


def test_the_group_is_not_the_callers():
    lines: list[str] = []
    run_python("import os; print(os.getpgid(0), os.getsid(0))", lines.append)
    assert str(os.getpgid(0)) not in lines[0].split()


def test_arguments_reach_the_command_as_they_are(tmp_path):
    lines: list[str] = []
    hostile = f"; touch {tmp_path}/made $(touch {tmp_path}/made) {{{{ 1 }}}}"
    StageProcess([sys.executable, "-c", "import sys; print(sys.argv[1])", hostile], os.environ).run(lines.append)
    assert lines == [hostile]
    assert not list(tmp_path.iterdir())


def test_only_the_given_environment_is_passed():
    lines: list[str] = []
    StageProcess([sys.executable, "-c", "import os; print('HOME' in os.environ)"], {"PATH": os.environ["PATH"]}).run(lines.append)
    assert lines == ["False"]


def test_terminate_before_and_after_a_run_does_nothing():
    process = StageProcess([sys.executable, "-c", ""], os.environ)
    process.terminate()
    assert process.run(lambda _line: None) == 0
    process.terminate()


def test_a_command_that_does_not_exist_is_an_os_error():
    with pytest.raises(FileNotFoundError):
        StageProcess(["/nowhere/at-all"], os.environ).run(print)
