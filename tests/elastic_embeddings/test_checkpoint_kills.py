"""Replacing a table on disk: failures, kills at any moment, and the memory it takes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from saved_tables import WIDTHS, digests, materialised, some_table

from elastic_embeddings.storage.checkpoint import (
    read_array,
    read_header,
    read_vectors,
    verify,
    write_table,
)
from elastic_embeddings.storage.files import ArrayStream

HERE = Path(__file__).parent


@pytest.fixture
def model():
    return some_table()


@pytest.fixture
def saved(model, tmp_path):
    write_table(tmp_path / "table", model.header(), model.arrays())
    return tmp_path / "table"


def test_a_save_replaces_the_old_table_and_leaves_nothing_beside_it(saved):
    newer = some_table(seed=2)
    write_table(saved, newer.header(), newer.arrays())
    assert read_vectors(saved).keys.tolist() == [
        k for k, e in newer.entries.items() if e.row is not None
    ]
    assert [path.name for path in saved.parent.iterdir()] == ["table"]


def failing_save(model, folder):
    def failing():
        raise OSError("no space left on device")
        yield

    arrays = model.arrays()
    with pytest.raises(OSError, match="no space"):
        write_table(
            folder,
            model.header(),
            arrays | {"keys": ArrayStream(arrays["keys"].shape, np.int64, failing())},
        )


def test_a_save_that_fails_leaves_the_old_table_and_nothing_beside_it(model, saved):
    before = digests(saved.parent)
    failing_save(model, saved)
    assert digests(saved.parent) == before


PRELUDE = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from saved_tables import some_table
from elastic_embeddings.storage.files import ArrayStream
from elastic_embeddings.storage.checkpoint import write_table
folder, model = Path(sys.argv[2]), some_table(seed=2)
arrays = model.arrays()
"""

HANGS_IN_AN_ARRAY = """
def hanging(stream):
    yield from stream.chunks
    print("half way", flush=True)
    time.sleep(600)
stream = arrays["last_seen"]
arrays["last_seen"] = ArrayStream(stream.shape, stream.dtype, hanging(stream))
write_table(folder, model.header(), arrays)
"""

DIES_AT_RENAME = """
renames, rename = [], Path.rename
def fatal(self, target):
    if len(renames) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    renames.append(target)
    return rename(self, target)
Path.rename = fatal
write_table(folder, model.header(), arrays)
"""


def run(code, folder, *arguments):
    command = [sys.executable, "-c", PRELUDE + code, str(HERE), str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def readable_content(folder):
    described = read_header(folder)
    verify(folder, described)
    return {name: read_array(folder, described, name).tobytes() for name in described.arrays}


def assert_next_save_works(folder):
    newest = some_table(seed=3)
    write_table(folder, newest.header(), newest.arrays())
    assert read_array(folder, read_header(folder), "keys").tolist() == list(newest.entries)
    assert [path.name for path in folder.parent.iterdir()] == ["table"]


@pytest.mark.process
def test_a_save_killed_half_way_leaves_the_old_table_readable(saved):
    before = readable_content(saved)
    process = run(HANGS_IN_AN_ARRAY, saved)
    assert process.stdout.readline() == "half way\n"
    assert (saved.parent / ".table.saving" / "keys.npy").is_file()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert readable_content(saved) == before
    assert_next_save_works(saved)


@pytest.mark.process
@pytest.mark.parametrize("rename", [0, 1])
def test_a_save_killed_at_either_rename_leaves_the_old_table_readable(saved, rename):
    before = readable_content(saved)
    assert run(DIES_AT_RENAME, saved, str(rename)).wait() == -signal.SIGKILL
    assert saved.exists() == (rename == 0)
    assert readable_content(saved) == before
    assert len(read_vectors(saved).keys) > 0
    failing_save(some_table(seed=4), saved)
    assert readable_content(saved) == before
    assert_next_save_works(saved)


@pytest.mark.process
@pytest.mark.slow
def test_saves_killed_at_any_time_leave_one_whole_table(saved):
    old, new = readable_content(saved), materialised(some_table(seed=2).arrays())
    for delay in np.linspace(0, 0.03, 12):
        process = run(
            "print('go', flush=True)\n"
            "while True: write_table(folder, model.header(), model.arrays())",
            saved,
        )
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.wait()
        found = readable_content(saved)
        assert found == old or found == {name: array.tobytes() for name, array in new.items()}


# Memory

MEASURE = """
import json, sys, resource
import numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from saved_tables import header, streams_of
from elastic_embeddings.storage.checkpoint import COUNTERS, read_chunks, read_header
from elastic_embeddings.storage.checkpoint import verify, write_table
def peak():
    status = open("/proc/self/status")
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
n = 5_000_000
meta = np.ones((n, 4), np.int32)
widths = json.loads(sys.argv[3])
rows = {name: np.ones((n, width), np.float32) for name, width in widths.items()}
arrays = {"keys": np.arange(n), "counts": meta[:, 1], "last_seen": meta[:, 2],
          "admitted": np.ones(n, bool), "fields": np.zeros(n, np.int16),
          "tombstones": np.zeros(0, np.int64), "tombstone_steps": np.zeros(0, np.int32)}
arrays |= rows | {f"counters.{name}": np.zeros(2, np.int64) for name in COUNTERS}
size = sum(array.nbytes for array in arrays.values())
before = peak()
write_table(Path(sys.argv[2]), header(), streams_of(arrays))
saving = peak() - before
described = read_header(Path(sys.argv[2]))
verify(Path(sys.argv[2]), described)
for name in described.arrays:
    for chunk in read_chunks(Path(sys.argv[2]), described, name, 65536):
        pass
print(json.dumps({"size": size, "saving": saving, "reading": peak() - before}))
"""


@pytest.mark.process
def test_saving_and_reading_need_little_memory_beside_the_table(tmp_path):
    command = [sys.executable, "-c", MEASURE, str(HERE), str(tmp_path / "t"), json.dumps(WIDTHS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["size"] > 250_000_000
    assert found["saving"] <= 0.1 * found["size"]
    assert found["reading"] <= 0.1 * found["size"]
