"""What the index runs on: memory that is committed at first touch, threads, prefetching."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from elastic_embeddings.core import memory
from elastic_embeddings.core import threads as thread_pool
from elastic_embeddings.core.hashing import uniform
from elastic_embeddings.core.memory import LAZY_MEMORY, committed_bytes, release, reserved
from elastic_embeddings.core.native import compiled, prefetch
from elastic_embeddings.core.threads import set_threads, split_rows

on_linux = pytest.mark.skipif(
    not LAZY_MEMORY, reason="memory is committed at the first touch and given back on Linux only"
)


@pytest.fixture
def threads():
    yield set_threads
    thread_pool._threads = None


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@on_linux
def test_a_reservation_costs_nothing_until_it_is_touched_and_can_be_given_back():
    before = resident()
    array = reserved((2**34, 4), np.float32)  # 256 GiB
    assert array.shape == (2**34, 4)
    assert resident() - before < 2**20
    array[: 2**22] = 1  # 64 MiB
    assert resident() - before > 60 * 2**20
    release(array, 5)
    assert resident() - before < 8 * 2**20
    assert array[:5].all()
    assert not array[5:1000].any()


@on_linux
@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no huge pages"
)
def test_a_large_array_asks_for_huge_pages_past_its_first_8_mib():
    array = reserved((64 * 2**20,), np.uint8)
    address = array.ctypes.data
    assert [_asks_for_huge_pages(address + offset * 2**20) for offset in (0, 7, 9, 63)] == [
        False,
        False,
        True,
        True,
    ]


def _asks_for_huge_pages(address):
    here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            low, high = (int(part, 16) for part in words[0].split("-"))
            here = low <= address < high
        if here and words[0] == "VmFlags:":
            return "hg" in words
    raise AssertionError(f"no mapping holds {address:#x}")


@pytest.mark.parametrize("lazy", [True, False])
def test_released_rows_are_zero_and_the_others_as_they_were(lazy, monkeypatch):
    monkeypatch.setattr(memory, "LAZY_MEMORY", lazy and LAZY_MEMORY)
    array = reserved((100_000, 3), np.int32)
    assert not array.any()
    array[:] = 7
    for row in (70_001, 33_333, 100_000, 2, 0):
        release(array, row)
        assert not array[row:].any()
        assert (array[: min(row, 2)] == 7).all()
    array[:] = 5
    assert (array == 5).all(), "it can be written again"


def test_arrays_of_no_rows_are_arrays():
    assert reserved((0, 4), np.float32).shape == (0, 4)


@on_linux
@pytest.mark.parametrize(
    ("rows", "expected"),
    [(0, 0), (1, 4096), (1024, 8192), (2**20, 8 * 2**20), (2**20 + 1, 10 * 2**20)],
)
def test_committed_bytes_are_whole_pages_huge_ones_past_8_mib(rows, expected):
    assert committed_bytes(reserved((2**22,), np.int64), rows) == expected


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_ranges_are_disjoint_and_cover_all_rows(count, threads):
    threads(count)
    touched, lock, ranges = np.zeros(1003, int), threading.Lock(), []

    def kernel(lo, hi):
        touched[lo:hi] += 1
        with lock:
            ranges.append(hi - lo)

    split_rows(kernel, 1003, at_least=100)
    assert (touched == 1).all()
    assert len(ranges) == count


def test_few_rows_stay_on_the_caller_s_thread(threads):
    threads(4)
    names = []
    split_rows(lambda lo, hi: names.append((threading.current_thread(), lo, hi)), 199, at_least=100)
    assert names == [(threading.current_thread(), 0, 199)]


@pytest.mark.parametrize("where", [0, 999], ids=["the caller's range", "another's range"])
def test_an_error_in_any_range_reaches_the_caller(where, threads):
    threads(3)

    def kernel(lo, hi):
        if lo <= where < hi:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        split_rows(kernel, 1000, at_least=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_threads_work_again_after_a_fork(threads):
    threads(2)
    split_rows(lambda lo, hi: None, 100, at_least=1)
    child = os.fork()
    if child == 0:
        done = np.zeros(100, bool)
        split_rows(lambda lo, hi: done.__setitem__(slice(lo, hi), True), 100, at_least=1)
        os._exit(0 if done.all() else 1)
    for _ in range(600):
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            break
        threading.Event().wait(0.05)
    else:
        os.kill(child, 9)
    assert finished
    assert os.waitstatus_to_exitcode(status) == 0


def test_numbers_do_not_depend_on_the_threads(threads):
    keys, numbers = np.random.default_rng(0).integers(-(2**63), 2**63, 20_000), []
    for count in (1, 2, 7):
        threads(count)
        numbers.append(uniform(keys, 5, 3).tobytes())
    assert len(set(numbers)) == 1


def test_a_prefetch_changes_nothing_even_out_of_bounds():
    @compiled
    def total(array):
        found = 0
        for i in range(len(array)):
            prefetch(array, i + 10**6)
            found += array[i]
        return found

    assert total(np.arange(10)) == 45
