"""`execute`: a stage runs once, and again only when something it depends on has changed."""

import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tiny_days import DAYS, make_context, publish, write_config

from features.errors import InputError, UnsoundError
from pipelines.stages.freshness import changed_inputs
from pipelines.stages.ingest import Ingest
from pipelines.stages.stage import Stage, execute, require
from pipelines.store.source_digest import PACKAGES, ROOT

LIMIT = 100


@dataclass
class Double(Stage):
    """Doubles the day's number; a result over the limit is unsound; text fails after writing."""

    name = "double"
    artifact = "doubled"
    sections = ("compression",)
    source: str = "file of monday"
    runs: int = 0

    def inputs(self, context):
        return {"number": require(context, "number", "count")}

    def run(self, context, inputs, out):
        self.runs += 1
        text = (inputs["number"].path / "n.txt").read_text()
        (out / "seen.txt").write_text(text)
        return {"n": 2 * int(text)}

    def fingerprint(self, context):
        return self.source

    def check_result(self, version):
        if version.metrics["n"] > LIMIT:
            raise UnsoundError(f"{version.metrics['n']} is too much")


@pytest.fixture
def context(tmp_path):
    made = make_context(tmp_path)
    give(made, 3)
    return made


def give(context, number, version=None, day=DAYS[0]):
    return publish(
        context.store, "number", day, version or f"n{number}", files={"n.txt": str(number)}
    )


def configured(context, tmp_path, *overrides):
    return replace(context, config=make_context(tmp_path, overrides=overrides).config)


def test_the_first_time_runs_and_publishes(context):
    stage = Double()
    result = execute(stage, context)
    assert (stage.runs, result.stage, result.reused, result.version.metrics["n"]) == (
        1,
        "double",
        False,
        6,
    )
    assert context.store.current("doubled", DAYS[0]) == result.version
    result.version.verify()


def test_the_commit_says_what_the_result_was_made_of(context):
    commit = execute(Double(), context).version.commit
    assert commit["stage"] == "double"
    assert commit["inputs"] == {"number": {"artifact": "number", "day": "2026-01-01", "hash": "n3"}}
    assert commit["config"] == {"compression": {"zero_tolerance": 0.0}}


@pytest.mark.covers("F3")
def test_the_second_time_does_nothing(context):
    stage = Double()
    first = execute(stage, context).version
    written = first.manifest.stat().st_mtime_ns
    second = execute(stage, context)
    assert (stage.runs, second.reused, second.version) == (1, True, first)
    assert second.version.manifest.stat().st_mtime_ns == written


def test_a_changed_section_makes_a_new_version_and_going_back_restores_the_old_one(
    context, tmp_path
):
    stage = Double()
    old = execute(stage, context).version
    new = execute(stage, configured(context, tmp_path, "compression.zero_tolerance=0.5")).version
    assert new.hash != old.hash
    assert context.store.current("doubled", DAYS[0]) == new
    back = execute(stage, context)
    assert (stage.runs, back.reused, back.version) == (2, True, old)
    assert context.store.current("doubled", DAYS[0]) == old


def test_a_section_that_the_stage_does_not_name_changes_nothing(context, tmp_path):
    execute(Double(), context)
    assert execute(Double(), configured(context, tmp_path, "training.batch_size=77")).reused


def test_a_changed_fingerprint_makes_a_new_version(context):
    first = execute(Double(), context)
    assert not execute(Double(source="file of tuesday"), context).reused
    assert execute(Double(), context).version == first.version


class ReadsFiles(Double):
    """A stage whose configuration and fingerprint name files, as those of `ingest` do."""

    name, sections = "ingest", ("source",)
    fingerprint = Ingest.fingerprint


@pytest.mark.parametrize("changed", [False, True])
def test_a_workspace_that_was_moved_is_not_stale(tmp_path, changed):
    """Versions hashed absolute paths, so that every day was made anew after `mv`."""
    source = {"path": "${WORKSPACE}/logs/{date}.csv", "format": "csv", "partition": "path"}
    (tmp_path / "a" / "workspace" / "logs").mkdir(parents=True)
    (tmp_path / "a" / "workspace" / "logs" / f"{DAYS[0]}.csv").write_text("click\n1\n")
    before = make_context(tmp_path / "a", source=source)
    give(before, 3)
    execute(ReadsFiles(), before)
    (tmp_path / "a").rename(tmp_path / "b")
    after = make_context(tmp_path / "b", source=source)
    version = after.store.current("doubled", DAYS[0])
    if changed:
        (tmp_path / "b" / "workspace" / "logs" / f"{DAYS[0]}.csv").write_text("click\n0\n1\n")
    assert bool(changed_inputs(ReadsFiles(), after, version)) == changed
    assert execute(ReadsFiles(), after).reused != changed


def test_an_input_with_other_content_makes_a_new_version(context):
    execute(Double(), context)
    give(context, 4)
    result = execute(Double(), context)
    assert (result.reused, result.version.metrics["n"]) == (False, 8)


def test_a_new_input_version_with_equal_content_makes_no_new_run(context):
    first = execute(Double(), context).version
    assert (
        give(context, 3, "made-again").hash == context.store.current("number", DAYS[0]).hash != "n3"
    )
    result = execute(Double(), context)
    assert (result.reused, result.version) == (True, first)


def test_days_do_not_share_versions(context):
    first = execute(Double(), context).version
    give(context, 3, day=DAYS[1])
    second = execute(Double(), replace(context, day=DAYS[1]))
    assert not second.reused
    assert second.version.hash != first.hash


def test_the_verdict_comes_after_the_publication_and_every_time(context):
    give(context, LIMIT)
    stage = Double()
    for _ in range(2):
        with pytest.raises(UnsoundError, match="200 is too much"):
            execute(stage, context)
    assert stage.runs == 1
    assert context.store.current("doubled", DAYS[0]).metrics["n"] == 2 * LIMIT


def test_a_run_that_fails_publishes_nothing_and_leaves_the_version_before(context):
    before = execute(Double(), context).version
    give(context, "none")
    with pytest.raises(ValueError, match="none"):
        execute(Double(), context)
    assert context.store.current("doubled", DAYS[0]) == before
    seen = {p.name for p in before.path.parent.iterdir() if not p.name.startswith(".")}
    assert seen == {"CURRENT", before.path.name}
    assert list(before.path.parent.glob(".staging-*")) == []


def test_a_run_that_failed_is_tried_again(context):
    give(context, "none")
    stage = Double()
    for _ in range(2):
        with pytest.raises(ValueError, match="none"):
            execute(stage, context)
    assert stage.runs == 2


def test_a_missing_input_names_the_command_that_makes_it(context):
    with pytest.raises(InputError, match=r"no number of 2026-01-03 .*elastic-ctr count"):
        execute(Double(), replace(context, day=DAYS[2]))


TINY = """
    from pipelines.stages.stage import Stage
    from pipelines.tiny_words import WORD


    class Tiny(Stage):
        name, artifact, sections = "tiny", "tiny", ("features",)

        def run(self, context, inputs, out):
            (out / "word.txt").write_text(WORD)
            return {}
"""

SCRIPT = """
    import sys
    from datetime import date
    from pathlib import Path

    import pipelines.stages.stage as stage
    from pipelines.store.artifacts import Store
    from pipelines.config import load_config
    from pipelines.stages.tiny import Tiny

    here = Path(sys.argv[1])
    assert Path(stage.__file__).is_relative_to(here), stage.__file__
    config = load_config(here / "tiny.yaml", (), here / "w")
    result = stage.execute(Tiny(), stage.Context(config, date(2026, 1, 1), Store(here / "w")))
    print(result.reused, (result.version.path / "word.txt").read_text())
"""


@pytest.fixture
def source_copy(tmp_path):
    """A copy of the project's source with one tiny stage more."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tmp_path / "pipelines" / "stages" / "tiny.py").write_text(textwrap.dedent(TINY))
    (tmp_path / "pipelines" / "tiny_words.py").write_text("WORD = 'one'\n")
    write_config(tmp_path)
    return tmp_path


def executed(folder: Path, hash_seed=1):
    """Execute the tiny stage in a process of its own; returns `<reused> <word>`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder)]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.process
def test_changed_source_makes_a_new_version_and_other_source_does_not(source_copy):
    assert executed(source_copy) == "False one"
    with (source_copy / "pipelines" / "stages" / "train.py").open("a") as other:
        other.write("\n# another stage\n")
    assert executed(source_copy) == "True one"
    (source_copy / "pipelines" / "tiny_words.py").write_text("WORD = 'two'\n")
    assert executed(source_copy) == "False two"


@pytest.mark.process
def test_the_order_of_sets_differs_between_processes_and_does_not_count(source_copy):
    assert executed(source_copy, 1) == "False one"
    assert [executed(source_copy, seed) for seed in (2, 3, 4)] == ["True one"] * 3
