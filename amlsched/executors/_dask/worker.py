"""The code that runs in the workers of a dask cluster."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import multiprocessing
import os
import random
import signal
import socket
import ssl
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from amlsched.executors.pickled_calls import run_pickled
from amlsched.executors.user_function import call_function
from amlsched.executors.worker_setup import prepare_imports, prepare_worker

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Tries", "describe", "forget_tls_errors", "run_call"]

R = TypeVar("R")

_REPORT_AFTER_S = 0.05
"""Calls that finish sooner are not reported as started."""
_PR_SET_PDEATHSIG = 1


class _StartReporter:
    """Reports to the driver which calls have started, from one thread for all calls of this worker."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._begun: dict[tuple[str, int], float] = {}
        self._thread: threading.Thread | None = None
        self._worker: Any = None

    def begin(self, call: tuple[str, int]) -> None:
        with self._lock:
            if self._worker is None:
                prepare_imports()
                _use_own_generator()
                # Otherwise calls could not use process pools. Processes that they leave behind exit with the worker.
                multiprocessing.current_process().daemon = False
                self._worker = importlib.import_module("distributed").get_worker()
            self._begun[call] = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._report, name="amlsched-started", daemon=True)
                self._thread.start()
            elif len(self._begun) == 1:
                self._lock.notify()

    def end(self, call: tuple[str, int]) -> None:
        with self._lock:
            self._begun.pop(call, None)

    def _report(self) -> None:
        while True:
            with self._lock:
                while not self._begun:
                    self._lock.wait()
            time.sleep(_REPORT_AFTER_S)
            old = time.monotonic() - _REPORT_AFTER_S
            with self._lock:
                started = [call for call, begun in self._begun.items() if begun < old]
                for call in started:
                    del self._begun[call]
            for topic in {topic for topic, _ in started}:
                numbers = [number for each, number in started if each == topic]
                place = {"pid": os.getpid(), "host": socket.gethostname(), "worker": self._worker.address}
                self._worker.log_event(topic, {"calls": numbers, **place})


_reporter = _StartReporter()
_DASK = ("distributed", "tornado", "dask.sizeof")
"""Modules whose code runs in dask's own threads, at any time."""


def _use_own_generator() -> None:
    """Give dask's threads a global random generator of their own.

    They draw random numbers, for pauses and samples. From the generator of `random`, they would take the numbers that a
    call expects to get after it has seeded it.
    """
    spec = importlib.util.find_spec("random")
    if spec is None or spec.loader is None:
        return
    own = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own)
    for name, module in list(sys.modules.items()):
        if not f"{name}.".startswith(tuple(f"{one}." for one in _DASK)):
            continue
        for attribute, value in list(vars(module).items()):
            if value is random:
                setattr(module, attribute, own)
            elif getattr(value, "__self__", None) is _SHARED and hasattr(own, attribute):
                setattr(module, attribute, getattr(own, attribute))  # by from random import randint


_SHARED = getattr(random.random, "__self__", random)


def run_call(topic: str, number: int, call: bytes) -> bytes:
    """Run a call of a `DaskExecutor`, and return its pickled outcome.

    Args:
        topic: The topic of dask's events to which the driver subscribes.
        number: Number of the call in that driver.
        call: The call, from `pickled_call`.
    """
    forget_tls_errors()
    _reporter.begin((topic, number))
    try:
        return run_pickled(call)
    finally:
        _reporter.end((topic, number))


def describe() -> dict[str, Any]:
    """What a driver wants to know of this worker before it has run a call.

    Returns:
        Its `host`, its `age_s` in seconds, the `memory` that it takes by itself, and its `gpus` with their
        `gpu_memory`; both memories in bytes.
    """
    from amlsched._proc import own_bytes, start_ticks
    from amlsched.resources.detect import gpus

    found = gpus().found
    return {
        "host": socket.gethostname(),
        "age_s": time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks(os.getpid()) / os.sysconf("SC_CLK_TCK"),
        "memory": own_bytes("VmRSS") or 0,
        "gpus": [each.name for each in found],
        "gpu_memory": [each.usable_bytes for each in found if each.usable_bytes],
    }


class Tries(Generic[R]):
    """Retries a function that raises, in place of dask's `retries`, which never see an exception of our calls.

    Args:
        function: The function.
        retries: How often to retry it.
    """

    def __init__(self, function: Callable[..., R], retries: int) -> None:
        self.func, self._retries = function, retries  # `func` is its name in errors, as for a partial

    def __call__(self, /, *args: Any, **kwargs: Any) -> R:
        """Call the function and return its result."""
        for _ in range(self._retries):
            try:
                return call_function(self.func, args, kwargs)
            except Exception:
                continue
        return call_function(self.func, args, kwargs)


@functools.cache
def forget_tls_errors() -> None:
    """From now on, a TLS connection that breaks does not break the others of its thread.

    CPython 3.12.9, 3.13.2, 3.14 and later report an error of the system, such as EPIPE when a peer has died, and leave
    it in OpenSSL's queue of the thread, where the next read of any other connection finds it. So the queue is cleared
    when a connection of dask closes.
    """
    stream: Any = importlib.import_module("tornado.iostream").SSLIOStream
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    close = stream.close

    @functools.wraps(close)
    def close_and_clear(self: Any, exc_info: Any = False) -> None:
        try:
            close(self, exc_info)
        finally:
            with contextlib.suppress(ssl.SSLError):
                context.set_ciphers("none that exists")  # the only call of Python's that clears it and does no more

    stream.close = close_and_clear


def dask_setup(_worker: Any) -> None:
    """Called by dask in workers on the driver's machine, which preload this module.

    Makes them ignore Ctrl-C, which a terminal sends to them as well, but which the driver handles; and makes them exit
    with the driver. Does nothing if the workers are threads of the driver.
    """
    if multiprocessing.parent_process() is None:
        return
    prepare_worker()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
