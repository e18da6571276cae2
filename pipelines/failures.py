"""What an unforeseen error means for the operator: whether trying again helps, and what to do.

Errors of libraries are known by the names of their classes, so that none is imported. Errors
that are not known end in a log file, which holds the traceback.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from features.errors import ElasticCtrError, InputError, RetryableError
from features.redaction import redact

TRACEBACK_VARIABLE = "ELASTIC_CTR_TRACEBACK"
"""Set to print the traceback of an unforeseen error too."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_MEMORY = ("MemoryError", "ResourceExhaustedError", "ArrowMemoryError", "_ArrayMemoryError")
_JVM_ENDED = ("Py4JNetworkError", "ConnectionRefusedError", "ConnectionResetError")
_SPARK = ("Py4JError", "Py4JJavaError", "SparkConnectGrpcException", "_InactiveRpcError")

_OUT_OF_MEMORY = (
    "out of memory ({said}). Nothing was published; try again with more memory, or lower "
    "`training.batch_size`; for Spark raise `spark.driver_memory`"
)


def explain(error: BaseException) -> ElasticCtrError | None:
    """Return the error that stands for one of a library or of the system, None for unknown ones.

    The causes of an error are looked at too: libraries wrap what the system says.
    """
    if isinstance(error, ElasticCtrError):
        return error
    for each in _chain(error):
        if found := _of_system(each) or _of_library(each):
            return found
    return None


def _of_system(error: BaseException) -> ElasticCtrError | None:
    if not isinstance(error, OSError):
        return None
    where = error.filename2 or error.filename or "the workspace"
    if error.errno in _FULL:
        return RetryableError(
            f"no space left for {where} ({error.strerror}). Nothing was published; free space "
            "(`elastic-ctr clean --keep DAYS`) and try again"
        )
    if error.errno == errno.EIO:
        return RetryableError(
            f"{where}: {error.strerror}. The disk or the network behind it failed; nothing was "
            "published. Try again, and look at the system's log if it happens again"
        )
    if error.errno in _READ_ONLY:
        return InputError(
            f"{where}: {error.strerror}. This user must be allowed to use it; a workspace must be "
            "writable: mount it so, or name another one (`--workspace`)"
        )
    return None


def _of_library(error: BaseException) -> ElasticCtrError | None:
    names, said = {each.__name__ for each in type(error).__mro__}, str(error)
    first = " ".join(said.split())[:200] or type(error).__name__
    if names & set(_MEMORY) or "OutOfMemoryError" in said:
        return RetryableError(_OUT_OF_MEMORY.format(said=first))
    if "No space left on device" in said or "disk is full" in said or "disk I/O error" in said:
        return RetryableError(
            f"no space left on a disk ({first}). Free space in the workspace and in the folder of "
            "temporary files, and try again"
        )
    if names & {"OperationalError"} and "locked" in said:
        return RetryableError(
            f"the database is locked by another process ({first}): try again when it has ended"
        )
    ended = "UNAVAILABLE" in said or "Answer from Java side is empty" in said
    if names & set(_JVM_ENDED) or (names & set(_SPARK) and ended):
        return RetryableError(
            f"Spark's JVM, or a server, ended while it was used ({first}). Often memory ran out "
            "and the system killed it: try again, or set another `spark.driver_memory`"
        )
    return None


def log_failure(error: BaseException, workspace: Path) -> Path:
    """Write the traceback to a file below the workspace's `errors`; return the file's path.

    A workspace that cannot be written to is replaced by the folder of temporary files.
    """
    text = "".join(traceback.format_exception(error))
    name = f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{os.getpid()}.log"
    try:
        path = workspace / "errors" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(redact(text), encoding="utf-8")
    except OSError:
        path = Path(tempfile.gettempdir()) / f"elastic-ctr-{name}"
        path.write_text(redact(text), encoding="utf-8")
    return path


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, or while."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        implicit = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or implicit
