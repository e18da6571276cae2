"""A stage's process group: output, exit codes, and that nothing of it survives.

Every test runs twice: the command is a new process, and a fork of the stage server.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path

import psutil
import pytest

from dags.stage_process import StageProcess
from pipelines.services import stage_server

REPOSITORY = Path(__file__).resolve().parents[2]
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


class Commands:
    """Runs scripts as `python -m`, from modules that it writes; a `server` forks them."""

    def __init__(self, folder: Path, server: subprocess.Popen[str] | None) -> None:
        self.folder = folder
        self.server = server
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(folder), str(REPOSITORY)))
        }
        if server:
            self.environment |= {stage_server.SOCKET_VARIABLE: str(folder / "socket")}
        self._numbers = count()

    def process(
        self, script: str, *arguments: str, grace_s: float = 0.5, **environment: str
    ) -> StageProcess:
        name = f"script_{next(self._numbers)}"
        (self.folder / f"{name}.py").write_text(script)
        return StageProcess(
            [sys.executable, "-m", name, *arguments], self.environment | environment, grace_s
        )

    def run(
        self, script: str, on_line=lambda line: None, grace_s: float = 0.5, **environment: str
    ) -> int:
        return self.process(script, grace_s=grace_s, **environment).run(on_line)


@pytest.fixture(params=["new process", "fork of the server"])
def commands(request, tmp_path):
    if request.param == "new process":
        yield Commands(tmp_path, None)
        return
    environment = Commands(tmp_path, None).environment
    argv = [
        sys.executable,
        "-m",
        "pipelines.services.stage_server",
        str(tmp_path / "socket"),
        "json",
    ]
    with subprocess.Popen(
        argv, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        assert eventually((tmp_path / "socket").exists)
        yield Commands(tmp_path, server)
        server.kill()


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

    def ended(self) -> bool:
        return not any(
            psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"
            for pid in self.found.values()
        )


def eventually(condition, timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_both_streams_arrive_line_by_line_in_order(commands):
    lines: list[str] = []
    script = (
        "import sys; print('one', flush=True); print('two', file=sys.stderr, flush=True); "
        "sys.stdout.write('three')"
    )
    assert commands.run(script, lines.append) == 0
    assert lines == ["one", "two", "three"]


def test_a_line_arrives_while_the_command_still_runs(commands):
    arrived: list[float] = []
    commands.run(
        "import time; print('now', flush=True); time.sleep(1)",
        lambda _line: arrived.append(time.monotonic()),
    )
    assert time.monotonic() - arrived[0] > 0.7


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 75])
def test_the_exit_code_is_the_commands(commands, code):
    assert commands.run(f"raise SystemExit({code})") == code


def test_a_command_killed_by_a_signal_has_that_signals_negative_code(commands):
    assert (
        commands.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL
    )


def test_bytes_that_are_no_utf8_do_not_end_the_stream(commands):
    lines: list[str] = []
    assert (
        commands.run(
            r"import sys; sys.stdout.buffer.write(b'\xff\n'); print('after')", lines.append
        )
        == 0
    )
    assert lines == ["\ufffd", "after"]


@pytest.mark.covers("F22")
def test_terminate_ends_the_child_and_a_grandchild_that_ignores_sigterm(commands):
    pids = Pids()
    process = commands.process(GRANDCHILD + "time.sleep(60)")
    threading.Thread(
        target=lambda: (pids.complete.wait(10), process.terminate()), daemon=True
    ).start()
    assert process.run(pids) == -signal.SIGTERM
    assert len(pids.found) == 2
    assert eventually(pids.ended)


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(commands):
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('ready', flush=True); time.sleep(60)"
    )
    process = commands.process(script, grace_s=0.3)
    assert process.run(lambda _line: process.terminate()) == -signal.SIGKILL


def test_a_grandchild_that_outlives_its_parent_is_ended_too(commands):
    pids = Pids()
    began = time.monotonic()
    assert commands.run(GRANDCHILD + "time.sleep(1)", pids) == 0
    assert len(pids.found) == 2
    assert eventually(pids.ended)
    assert time.monotonic() - began < 30


def test_an_exception_in_the_waiting_thread_ends_the_group(commands):
    pids = Pids()

    def raise_timeout(_number, _frame):
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, raise_timeout)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        with pytest.raises(TimeoutError):
            commands.run(GRANDCHILD + "time.sleep(60)", pids)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert len(pids.found) == 2
    assert eventually(pids.ended)


def test_the_group_is_not_the_callers(commands):
    lines: list[str] = []
    commands.run("import os; print(os.getpgid(0), os.getsid(0))", lines.append)
    assert str(os.getpgid(0)) not in lines[0].split()


def test_arguments_reach_the_command_as_they_are(commands, tmp_path):
    lines: list[str] = []
    hostile = f"; touch {tmp_path}/made $(touch {tmp_path}/made) {{{{ 1 }}}}"
    assert commands.process("import sys; print(sys.argv[1])", hostile).run(lines.append) == 0
    assert lines == [hostile]
    assert not (tmp_path / "made").exists()


def test_only_the_given_environment_is_passed(commands):
    lines: list[str] = []
    process = commands.process(
        "import os; print('HOME' in os.environ, os.environ['OWN'])", OWN="value"
    )
    del process._environment["HOME"]
    process.run(lines.append)
    assert lines == ["False value"]


def test_terminate_before_and_after_a_run_does_nothing(commands):
    process = commands.process("")
    process.terminate()
    assert process.run(lambda _line: None) == 0
    process.terminate()


def test_a_command_that_does_not_exist_is_an_os_error(commands):
    with pytest.raises(FileNotFoundError):
        StageProcess(["/nowhere/at-all"], os.environ).run(print)


def server_commands(commands: Commands) -> subprocess.Popen[str]:
    if commands.server is None:
        pytest.skip("is about the server")
    return commands.server


def test_the_server_forks_what_it_is_asked_for(commands):
    """Else all of these tests would pass with new processes."""
    server, lines = server_commands(commands), []
    commands.run("import os; print(os.getppid())", lines.append)
    forker = psutil.Process(int(lines[0]))
    assert forker.parent().pid == server.pid


def test_a_change_of_source_is_picked_up(commands, tmp_path):
    lines: list[str] = []
    for text in ("before", "after, which is longer"):
        (tmp_path / "own_module.py").write_text(f"TEXT = {text!r}")
        commands.run("from own_module import TEXT; print(TEXT)", lines.append)
    assert lines == ["before", "after, which is longer"]


def test_several_commands_run_at_a_time_and_each_gets_its_own_exit_code(commands):
    script = "import sys, time; time.sleep(0.3); sys.exit(int(sys.argv[1]))"
    codes: dict[int, int] = {}

    def run(code: int) -> None:
        codes[code] = commands.process(script, str(code)).run(lambda _line: None)

    threads = [threading.Thread(target=run, args=(code,)) for code in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == {code: code for code in range(8)}


def test_a_variable_that_the_server_read_at_its_start_makes_a_new_process(commands):
    server_commands(commands)
    lines: list[str] = []
    commands.run(
        "import os; print(os.getppid(), os.environ['OMP_NUM_THREADS'])",
        lines.append,
        OMP_NUM_THREADS="3",
    )
    assert lines == [f"{os.getpid()} 3"]


def test_without_its_server_a_command_is_a_new_process(commands):
    server = server_commands(commands)
    server.kill()
    server.wait()
    lines: list[str] = []
    assert commands.run("import os; print(os.getppid())", lines.append) == 0
    assert lines == [str(os.getpid())]


def test_a_command_ends_with_its_server(commands):
    server = server_commands(commands)
    pids = Pids()
    code = commands.run(
        GRANDCHILD + "time.sleep(60)",
        lambda line: (pids(line), pids.complete.is_set() and server.kill()),
    )
    assert code == -signal.SIGKILL
    assert eventually(pids.ended)


def test_a_command_ends_with_the_process_that_asked_for_it(commands, tmp_path):
    server_commands(commands)
    (tmp_path / "sleeper.py").write_text(
        "import os, time; print('child', os.getpid(), flush=True); time.sleep(60)"
    )
    client = """
import os, sys
from pipelines.services.stage_server import connect
process = connect([sys.executable, "-m", "sleeper"], os.environ)
print(process.stdout.readline().decode(), end="", flush=True)
os.kill(os.getpid(), 9)
"""
    asked = subprocess.run(
        [sys.executable, "-c", client],
        env=commands.environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert asked.returncode == -signal.SIGKILL
    pid = int(asked.stdout.split()[1])
    assert eventually(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"
    )
