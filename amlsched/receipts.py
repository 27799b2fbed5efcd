"""Receipts: when and where a call ran, and which resources it used."""

from __future__ import annotations

import os
import resource
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from amlsched import _proc
from amlsched.errors import WorkerLostError, WorkerOutOfMemoryError
from amlsched.executors.user_function import call_name, drop_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from amlsched.future import Future

__all__ = ["Measured", "Meter", "Outcome", "Usage", "outcome", "settle", "take"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """When and where a call ran, and which resources it used; `None` for what is not known (yet).

    A call that lost its worker or was terminated by a limit could not report its usage; its exception contains what is
    known.

    Attributes:
        submitted: When the call was submitted, as Unix time in seconds, by the clock of the driver's host.
        started: When the function started, in the last attempt, by the clock of the worker's host.
        ended: When it returned or raised, by the same clock; if it could not report that, when the driver noticed.
        host: Name of the worker's host.
        pid: Process id of the worker.
        thread: Name of the thread that ran it.
        attempt: Number of the attempt, from 1.
        cpu_s: CPU time of the worker process and of the child processes that it waited for, from the start of the
            function to its end; of its thread only, if other calls ran in the same process.
        peak_memory_bytes: Peak resident memory of the worker process or of one of those children in that time,
            including what it had before. `None` if other calls ran in the same process. If the task of the call has
            `resources="learn"`, that of all descendants of the worker together, looked at every 50 ms.
    """

    submitted: float
    started: float | None = None
    ended: float | None = None
    host: str | None = None
    pid: int | None = None
    thread: str | None = None
    attempt: int = 1
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None


class Usage(NamedTuple):
    """A worker's measurements of a call; see `Outcome`."""

    started: float
    ended: float
    host: str
    pid: int
    thread: str
    cpu_s: float
    peak_memory_bytes: int | None


# In the worker

_lock = threading.Lock()
_running = 0  # running meters
_begun = 0  # meters started so far


class Meter:
    """Measures from its creation until `stop`.

    Args:
        shared: Whether other calls may run in this process, so that only the thread is measured.
        tree: Whether to measure the memory of all descendants together, by looking at it again and again.
    """

    def __init__(self, shared: bool = False, tree: bool = False) -> None:
        global _running, _begun
        with _lock:
            _running += 1
            _begun += 1
            self._place = _begun
            self._alone = not shared and _running == 1
        self._peak_before = _reset_peak() if self._alone else 0
        self._children_before = _children_peak()
        self._process_s, self._thread_s = _process_s(), time.thread_time()
        self._tree = _TreePeak() if tree and self._alone else None
        self._started = time.time()

    def stop(self) -> Usage:
        """Return what was used since its creation. Call it once, in the same thread."""
        global _running
        ended = time.time()
        thread_s, process_s = time.thread_time() - self._thread_s, _process_s() - self._process_s
        with _lock:
            _running -= 1
            alone = self._alone and self._place == _begun
        peak = self._peak() if alone else None
        if self._tree is not None:
            of_tree = self._tree.stop()
            peak = None if peak is None else max(peak, of_tree)
        thread, cpu_s = threading.current_thread().name, process_s if alone else thread_s
        return Usage(self._started, ended, os.uname().nodename, os.getpid(), thread, cpu_s, peak)

    def _peak(self) -> int:
        own, children = _memory("VmHWM"), _children_peak()
        if own == self._peak_before:  # it could not be reset, and is from before the call
            own = _memory("VmRSS")
        return max(own, children) if children > self._children_before else own


class _TreePeak(threading.Thread):
    """Looks at the memory of this process and its descendants again and again, while there are any."""

    def __init__(self) -> None:
        super().__init__(name="amlsched-memory", daemon=True)
        self._stop_event = threading.Event()
        self._most = 0
        self.start()

    def run(self) -> None:
        """Look until it is stopped."""
        while not self._stop_event.wait(_LOOK_S):
            if _proc.children():
                self._most = max(self._most, _proc.tree_bytes())

    def stop(self) -> int:
        """Stop, and return the most memory that was seen, in bytes; 0 if there were no descendants."""
        self._stop_event.set()
        self.join()
        return self._most


_LOOK_S = 0.05


def _reset_in_child() -> None:
    global _lock, _running
    _lock, _running = threading.Lock(), 0


os.register_at_fork(after_in_child=_reset_in_child)  # another thread may hold it at the fork


def _process_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _children_peak() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _reset_peak() -> int:
    """Reset the peak to the current value and return 0; return the present peak if the system does not allow it."""
    return 0 if _proc.reset_own_peak() else _memory("VmHWM")


def _memory(name: str) -> int:
    found = _proc.own_bytes(name)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if found is None else found


class _Receipt(NamedTuple):
    """What a measured call returns in place of its result or exception.

    Attributes:
        usage: The measurements.
        result: The result of the function.
        error: Its exception, in parts that can be pickled if it goes to another process.
    """

    usage: Usage
    result: Any
    error: Any


class Measured:
    """Wraps a function to measure its calls; sent to a worker in its place.

    Args:
        function: The function.
        shared: Whether other calls may run in the same process.
        travels: Whether exceptions are pickled on their way back.
        tree: Whether to measure the memory of all descendants together.
    """

    def __init__(self, function: Callable[..., Any], shared: bool, travels: bool, tree: bool = False) -> None:
        self.__wrapped__ = function
        self.shared, self.travels, self.tree = shared, travels, tree
        self.__name__ = getattr(function, "__name__", None) or type(function).__name__
        self.__qualname__: str = getattr(function, "__qualname__", self.__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        return Measured, (self.__wrapped__, self.shared, self.travels, self.tree)

    def __call__(self, /, *args: Any, **kwargs: Any) -> _Receipt:
        """Call the function, and return the receipt."""
        meter = Meter(self.shared, self.tree)
        try:
            result, error = self.__wrapped__(*args, **kwargs), None
        except BaseException as raised:  # including SystemExit
            result, error = None, raised
        usage = meter.stop()
        if error is not None:
            if self.travels:
                from amlsched.executors.pickling import exception_parts

                return _Receipt(usage, None, exception_parts(error))  # without this frame
            drop_frame(error)
        return _Receipt(usage, result, error)


# In the driver


def take(future: Future[Any], result: Any, error: BaseException | None) -> tuple[Any, BaseException | None]:
    """Result or exception of a call, unpacked from its receipt, which the future keeps."""
    if error is not None or not isinstance(result, _Receipt):
        settle(future, time.time())
        return result, error
    future.receipt = replace(future.receipt, attempt=future.attempt, **result.usage._asdict())
    failure = result.error
    if failure is not None and not isinstance(failure, BaseException):
        from amlsched.executors.pickling import load_exception

        failure = load_exception(failure, call_name(future.function))
    return result.result, failure


def settle(future: Future[Any], now: float) -> None:
    """Record the end of a call without a receipt: it was lost, terminated by a limit, or cancelled."""
    future.receipt = Outcome(future.receipt.submitted, ended=now, attempt=future.attempt)


def outcome(future: Future[Any]) -> Outcome:
    """The receipt of a call; if its worker was lost, with what its exception contains.

    Raises:
        AttributeError: The call was not measured.
    """
    receipt = future.receipt
    if not future.done() or future.cancelled() or not isinstance(error := future.exception(), WorkerLostError):
        return receipt
    peak = error.peak_bytes if isinstance(error, WorkerOutOfMemoryError) else None
    return replace(receipt, pid=error.pid, host=error.host, peak_memory_bytes=peak)
