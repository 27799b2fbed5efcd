"""Determines why a worker process exited, and cancels futures that were running, which `Future.cancel` cannot do."""

from __future__ import annotations

import sys
import time
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from amlsched.errors import (
    WorkerExitedError,
    WorkerKilledError,
    WorkerLostError,
    WorkerOutOfMemoryError,
    WorkerStartError,
)
from amlsched.executors.user_function import cause_of, describe, traceback_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["WorkerExit", "OutOfMemoryKills", "exited_workers", "end_cancelled", "is_loss", "start_error"]

_NO_MORE_PROCESSES = (
    "this user or this container has as many processes and threads as it may have: use fewer workers, or raise the "
    "limit, see ulimit -u and pids.max of the cgroup"
)
_SIGKILL = 9
_REAPED_S = 0.2  # the pipe that signals a process's exit closes slightly before its exit code is available


def is_loss(error: BaseException | None) -> bool:
    """Whether an executor created this error because it lost the call, rather than the function raised it.

    A function may raise the same types of errors, such as the `BrokenProcessPool` of its own pool. Such an error has a
    traceback, here or from the worker.
    """
    if not isinstance(error, BrokenExecutor):
        return False
    if isinstance(error, WorkerStartError) or (isinstance(error, WorkerLostError) and error.in_limits):
        return True
    if traceback_of(error) is not None:
        return False
    # Not imported here, as the program may be exiting: an import would then hide from Python that Ctrl-C ended it.
    pickling = sys.modules.get("amlsched.executors.pickling")
    return pickling is None or not isinstance(cause_of(error), pickling.RemoteTraceback)


def start_error(call: str, reason: BaseException, remedy: str = "") -> WorkerStartError:
    """The exception of a call for which no worker could be started.

    Args:
        call: Name of the call.
        reason: Why, such as the error of the system.
        remedy: What to do about it, unless the system has just no more processes or threads.
    """
    if isinstance(reason, WorkerLostError):
        return WorkerStartError(call, f"{reason.cause} before it was ready", reason.pid)
    if isinstance(reason, BlockingIOError) or (isinstance(reason, RuntimeError) and "new thread" in str(reason)):
        remedy = _NO_MORE_PROCESSES
    error = WorkerStartError(call, f"could not start: {describe(reason)}{remedy and f' ({remedy})'}")
    error.__cause__ = reason
    return error


class WorkerExit(NamedTuple):
    """The exit of a process.

    Attributes:
        exitcode: As of `multiprocessing`: negative for a signal.
        pid: Process id.
        peak_bytes: Peak resident memory, if known.
    """

    exitcode: int
    pid: int | None = None
    peak_bytes: int | None = None

    def error(self, call: str, kills: OutOfMemoryKills | None = None) -> WorkerLostError:
        """The exception of the call that this process was running.

        Args:
            call: Name of the call.
            kills: Used to check whether a SIGKILL came from the kernel because the process ran out of memory.
        """
        if self.exitcode == -_SIGKILL and kills is not None and (evidence := kills.evidence()):
            return WorkerOutOfMemoryError(call, evidence, self.peak_bytes, kills.limit_bytes, self.pid)
        if self.exitcode < 0:
            return WorkerKilledError(call, -self.exitcode, self.pid)
        return WorkerExitedError(call, self.exitcode, self.pid)


def exited_workers(executor: Executor) -> list[WorkerExit]:
    """The workers of a broken pool of the standard library or of loky that exited by themselves.

    Call it when the first call of the pool fails: after that, the pool terminates its other workers.
    """
    workers: dict[int, Any] = getattr(executor, "_processes", None) or {}
    processes = list(workers.values())
    deadline = time.monotonic() + _REAPED_S
    while processes:
        found = [WorkerExit(process.exitcode, process.pid) for process in processes if process.exitcode is not None]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.002)
    return []


class OutOfMemoryKills:
    """The kernel's count of out-of-memory kills: in this cgroup, or if that has none, on the host.

    Sources:
        Linux, Documentation/admin-guide/cgroup-v2.rst (`memory.events`) and cgroup-v1/memory.rst
        (`memory.oom_control`); `oom_kill` of proc(5), `/proc/vmstat`.
    """

    def __init__(self) -> None:
        from amlsched.resources.detect import cgroups  # here, to keep `import amlsched` light

        self.limit_bytes: int | None = None
        self._file, self._whose = Path("/proc/vmstat"), "this host"
        for folder in reversed([*cgroups("memory")]):
            if self._counts_in(folder):
                break
        self._count = self._counted()

    def evidence(self) -> str | None:
        """A description of the kills since the last call; `None` if there were none."""
        former, self._count = self._count, self._counted()
        return f"oom_kill of {self._whose} rose by {self._count - former}" if self._count > former else None

    def _counts_in(self, folder: Path) -> bool:
        for events, limit in (("memory.events", "memory.max"), ("memory.oom_control", "memory.limit_in_bytes")):
            if "oom_kill " in _read(folder / events):
                self._file, self._whose = folder / events, f"the cgroup {folder}"
                text = _read(folder / limit).strip()
                # Without a limit: "max", or the largest number of pages.
                self.limit_bytes = int(text) if text.isdecimal() and int(text) < 1 << 60 else None
                return True
        return False

    def _counted(self) -> int:
        for line in _read(self._file).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
        return 0


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def end_cancelled(work: Future[Any]) -> None:
    """Cancel a future, even if it is running: its worker is gone, or never received the call."""
    with work._condition:  # pyright: ignore[reportPrivateUsage]
        work._state = "PENDING"  # `Future` cancels no other state
    # Not `work.cancel`, which subclasses override.
    Future.cancel(work)  # pyright: ignore[reportUnknownMemberType]
    work.set_running_or_notify_cancel()
