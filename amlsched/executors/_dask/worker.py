"""What runs in the workers of a dask cluster, beside the calls themselves."""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from amlsched.executors.pickled_calls import run_pickled
from amlsched.executors.user_function import call_function
from amlsched.executors.worker_setup import prepare_imports, prepare_worker

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Tries", "run_call"]

R = TypeVar("R")

_TOLD_AFTER_S = 0.05
"""Calls that are over sooner are not worth the message that they have started."""
_PR_SET_PDEATHSIG = 1


class _Watch:
    """Tells the driver which calls have started, from one thread for all that run here."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._begun: dict[tuple[str, int], float] = {}
        self._thread: threading.Thread | None = None
        self._worker: Any = None

    def begin(self, call: tuple[str, int]) -> None:
        with self._lock:
            if self._worker is None:
                prepare_imports()
                # Else calls cannot use pools of processes of their own. What they leave behind ends with the worker.
                multiprocessing.current_process().daemon = False
                self._worker = importlib.import_module("distributed").get_worker()
            self._begun[call] = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._tell, name="amlsched-started", daemon=True)
                self._thread.start()
            elif len(self._begun) == 1:
                self._lock.notify()

    def end(self, call: tuple[str, int]) -> None:
        with self._lock:
            self._begun.pop(call, None)

    def _tell(self) -> None:
        while True:
            with self._lock:
                while not self._begun:
                    self._lock.wait()
            time.sleep(_TOLD_AFTER_S)
            old = time.monotonic() - _TOLD_AFTER_S
            with self._lock:
                told = [call for call, begun in self._begun.items() if begun < old]
                for call in told:
                    del self._begun[call]
            for topic in {topic for topic, _ in told}:
                numbers = [number for each, number in told if each == topic]
                place = {"pid": os.getpid(), "host": socket.gethostname(), "worker": self._worker.address}
                self._worker.log_event(topic, {"calls": numbers, **place})


_watch = _Watch()


def run_call(topic: str, number: int, call: bytes) -> bytes:
    """Run a call of a `DaskExecutor`; the outcome is pickled, whatever it is.

    Args:
        topic: Where the driver listens for the start of calls.
        number: Which call of that driver this is.
        call: As `pickled_call` made it.
    """
    _watch.begin((topic, number))
    try:
        return run_pickled(call)
    finally:
        _watch.end((topic, number))


class Tries(Generic[R]):
    """A function that is called again where it raises: dask's `retries`, of which dask itself sees no exception.

    Args:
        function: The function.
        retries: How often it is called again.
    """

    def __init__(self, function: Callable[..., R], retries: int) -> None:
        self.func, self._retries = function, retries  # errors name the call by its `func`, as that of a partial

    def __call__(self, /, *args: Any, **kwargs: Any) -> R:
        """What the function returns."""
        for _ in range(self._retries):
            try:
                return call_function(self.func, args, kwargs)
            except Exception:
                continue
        return call_function(self.func, args, kwargs)


def dask_setup(_worker: Any) -> None:
    """What dask calls where this module is a preload of a worker on the driver's machine.

    Ctrl-C in a terminal goes to the workers too: the driver decides what becomes of them. And none outlives it. Nothing
    is done where the workers are threads of the driver.
    """
    if multiprocessing.parent_process() is None:
        return
    prepare_worker()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
