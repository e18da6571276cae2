"""A disk that is really full, and a workspace on a file system that is really read-only.

Both are made by mounts in a name space of their own, which only the commands of the test see.
"""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from worlds import LAST, REPOSITORY, copy_world

pytestmark = pytest.mark.slow
PATIENCE_S = 400
NAMESPACE = ["unshare", "--map-root-user", "--mount", "bash", "-c"]

FULL = """
workspace=$1 source=$2 day=$3; shift 3
mount -t tmpfs -o size=300m none "$workspace"
cp -a "$source/." "$workspace"
rm -r "$workspace/checkpoint/$day"
"$@" & stage=$!
while kill -0 $stage && ! ls -d "$workspace/checkpoint/$day"/.staging-* ; do sleep 0.01; done >&2
cat /dev/zero > "$workspace/filler"
wait $stage; echo "first $?"
rm "$workspace/filler"
ls -A "$workspace/checkpoint/$day" | grep -c staging
"$@" >&2; echo "second $?"
cat "$workspace/checkpoint/$day"/v-*/_COMMIT.json
"""

READ_ONLY = """
workspace=$1; shift
mount --bind "$workspace" "$workspace"
mount -o remount,bind,ro "$workspace"
"$@"
"""


def has_name_spaces():
    try:
        command = [*NAMESPACE, "mount -t tmpfs none /mnt"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_mounts = pytest.mark.skipif(not has_name_spaces(), reason="no mounts in a name space here")


@pytest.fixture
def cold(world):
    """The world with a new interpreter for each command: a warm one is outside the name space."""
    return replace(world, python=Path(sys.executable))


def inside(world, script, *arguments):
    return subprocess.run(
        [*NAMESPACE, script, "test", *map(str, arguments)],
        env=world.environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@needs_mounts
@pytest.mark.covers("F16", "H13")
def test_a_training_on_a_disk_that_fills_up_ends_with_75_and_then_in_the_same_content(
    cold, tmp_path
):
    copy = copy_world(cold, tmp_path, {})
    source = tmp_path / "source"
    copy.workspace.rename(source)
    copy.workspace.mkdir()
    day = f"dt={LAST}"
    stage = copy.command("train", "--config", str(copy.config), "--date", LAST)
    done = inside(copy, FULL, copy.workspace, source, day, *stage)

    first, staged, second, *commit = done.stdout[done.stdout.index("first") :].splitlines()
    assert (first, staged, second) == ("first 75", "0", "second 0"), done.stderr[-3000:]
    assert "no space left" in done.stderr.lower()
    assert "elastic-ctr clean" in done.stderr
    assert "Traceback" not in done.stderr
    undisturbed = cold.store.current("checkpoint", date.fromisoformat(LAST)).digest
    assert json.loads("\n".join(commit))["content_digest"] == undisturbed


@needs_mounts
@pytest.mark.covers("F17")
def test_a_read_only_workspace_is_read_and_a_stage_names_it(cold, tmp_path):
    copy = copy_world(cold, tmp_path, {})
    options = ("--config", str(copy.config))
    for command in (("status",), ("report", "--date", LAST), ("check", *options)):
        outside = subprocess.run(
            copy.command(*command), env=copy.environment(), capture_output=True, text=True
        )
        done = inside(copy, READ_ONLY, copy.workspace, *copy.command(*command))
        assert (done.returncode, done.stdout) == (outside.returncode, outside.stdout), done.stderr
    # Another seed is another version, which must be written.
    stage = copy.command("train", *options, "--date", LAST, "--set", "training.seed=3")
    done = inside(copy, READ_ONLY, copy.workspace, *stage)
    assert done.returncode == 2, done.stderr
    assert "Read-only file system" in done.stderr
    assert str(copy.workspace) in done.stderr
    assert "Traceback" not in done.stderr
