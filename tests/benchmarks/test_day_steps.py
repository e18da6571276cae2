"""The measurement of training steps: a short run, and what it makes of its answers."""

import pytest
from day_steps import OTHER, THIS, Plan, _checked_out, _figures, measure_steps, start_worker
from harness.processes import ProcessFailed

from features.errors import InputError

TINY = Plan(batches=(512,), block=1024, rounds=1, days=1, rows=2048, busy=1)
KEYS = {
    "cpu_ms_per_step", "examples_per_cpu_s", "examples_per_s", "busy_examples_per_s", "busy_cpu_ms_per_step", "import_cpu_s",
    "first_cpu_s",
}  # fmt: skip


@pytest.mark.benchmark
def test_a_short_run_measures_this_tree():
    found = measure_steps(TINY, report=lambda _: None)
    assert found.keys() == KEYS
    milliseconds = found["cpu_ms_per_step"]["512"]
    assert 0.5 < milliseconds < 100
    assert found["examples_per_cpu_s"]["512"] == pytest.approx(512e3 / milliseconds)
    assert all(found[name] > 0 for name in ("busy_examples_per_s", "import_cpu_s", "first_cpu_s"))


def test_figures_by_hand():
    """Medians of three blocks of 1,000 impressions in batches of 512; beside busy processes one
    block.
    """
    quiet = [
        {"cpu_s": cpu, "wall_s": wall, "examples": 1000}
        for cpu, wall in ((0.5, 1.0), (0.1, 0.2), (0.2, 0.4))
    ]
    busy = [{"cpu_s": 0.25, "wall_s": 2.0, "examples": 1000}]
    start = {"import_cpu_s": 3.0, "first_cpu_s": 1.0}
    found = _figures(THIS, TINY, {(THIS, 512): start}, {(THIS, 512): quiet}, {(THIS, 512): busy})
    assert found["cpu_ms_per_step"]["512"] == pytest.approx(0.2 / 1000 * 512 * 1000)
    assert (found["examples_per_cpu_s"]["512"], found["examples_per_s"]["512"]) == (5000, 2500)
    assert (found["busy_examples_per_s"], found["busy_cpu_ms_per_step"]) == (
        500,
        pytest.approx(128.0),
    )
    assert (found["import_cpu_s"], found["first_cpu_s"]) == (3, 1)


@pytest.mark.process
def test_a_worker_that_dies_says_why(tmp_path):
    """A folder without inputs."""
    with (
        start_worker(tmp_path, tmp_path, 512, tmp_path / "log") as worker,
        pytest.raises(ProcessFailed, match="exit code 1"),
    ):
        worker.answer()


def test_an_unknown_revision_is_refused(tmp_path):
    with (
        pytest.raises(InputError, match="--against no-such-revision"),
        _checked_out("no-such-revision", tmp_path / OTHER),
    ):
        pass
