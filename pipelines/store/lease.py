"""Leases: one process at a time writes to a folder, also across containers and hosts.

`flock` is used where the file system supports it; the kernel frees it when its holder ends, however
it ends. Elsewhere a file with a heartbeat stands in: a holder that died loses it after
`STALE_S`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from features.errors import RetryableError

LEASE, IN_USE = ".lease", ".in-use"
"""The lock file of those who write to a folder, and that of those who read from it."""

WAIT_S = 6 * 3600.0
"""How long a stage waits for another process that makes the same artifact."""

STALE_S = 120.0
_BEAT_S = 20.0
_POLL_S = 0.2
_NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def lease(
    folder: Path, wait_s: float = WAIT_S, report: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold a folder for writing during a block.

    Args:
        folder: is made if it is missing.
        wait_s: how long to wait for another holder, seconds.
        report: gets one line when another process is waited for.

    Raises:
        RetryableError: the other process still holds it after `wait_s`.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LEASE).open("a+") as stream:
            try:
                free = _flock(stream.fileno(), fcntl.LOCK_EX, 0)
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise
                with _heartbeat(folder / f"{LEASE}.alive", wait_s, report):
                    yield
                return
            if not free:
                if report:
                    report(f"waiting for the process that writes to {folder}")
                if not _flock(stream.fileno(), fcntl.LOCK_EX, wait_s):
                    raise RetryableError(_busy(folder))
            # `clean` may have removed the empty folder, and the lock file with it, meanwhile.
            if _same_file(stream.fileno(), folder / LEASE):
                yield
                return


@contextmanager
def in_use(folders: list[Path]) -> Iterator[None]:
    """Mark folders as read from during a block, so that `clean` leaves them alone."""
    streams = []
    try:
        for folder in folders:
            # A workspace that may only be read has no lock files, and nobody cleans it.
            with suppress(PermissionError, FileNotFoundError):
                streams.append((folder / IN_USE).open("a+"))
                with suppress(OSError):
                    fcntl.flock(streams[-1].fileno(), fcntl.LOCK_SH)
        yield
    finally:
        for stream in streams:
            stream.close()


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Yield whether nobody writes to or reads from a folder; nobody begins during the block."""
    with (folder / LEASE).open("a+") as writers, (folder / IN_USE).open("a+") as readers:
        try:
            yield all(_flock(each.fileno(), fcntl.LOCK_EX, 0) for each in (writers, readers))
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            alive = folder / f"{LEASE}.alive"
            yield not alive.exists() or _age_s(alive) > STALE_S


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _flock(descriptor: int, kind: int, wait_s: float) -> bool:
    """Return whether the lock was got within `wait_s` seconds."""
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_S)


@contextmanager
def _heartbeat(path: Path, wait_s: float, report: Callable[[str], None] | None) -> Iterator[None]:
    """Hold a file that is touched while the holder lives."""
    mine = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4()}"
    until = time.monotonic() + wait_s
    while not _create(path, mine):
        # Removed by rename: of two processes that see a dead holder, one succeeds.
        with suppress(FileNotFoundError):
            if _age_s(path) > STALE_S:
                path.rename(path.with_name(f"{path.name}.{uuid.uuid4()}"))
                continue
        if report:
            report(f"waiting for {path.read_text(encoding='utf-8')}, which writes to {path.parent}")
            report = None
        if time.monotonic() >= until:
            raise RetryableError(_busy(path.parent))
        time.sleep(_POLL_S)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT_S):
            os.utime(path)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with suppress(FileNotFoundError):
            if path.read_text(encoding="utf-8") == mine:
                path.unlink()


def _create(path: Path, text: str) -> bool:
    # Exclusive creation is atomic on every shared file system in use, NFS included.
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    return True


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _busy(folder: Path) -> str:
    return f"another process writes to {folder}: try again when it has ended"
