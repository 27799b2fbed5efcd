"""Limits the threads of native libraries (BLAS, OpenMP)."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from amlsched._checks import check_whole
from amlsched._context import contextmanager
from amlsched._surroundings import import_extra
from amlsched.executors.user_function import call_function
from amlsched.resources import cpus
from amlsched.resources.binding import thread_environment
from amlsched.task import Plugin

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import ModuleType

__all__ = ["ThreadPoolCTLPlugin", "set_thread_environment", "thread_environment"]


class ThreadPoolCTLPlugin(Plugin):
    """Limits the threads of native libraries during calls of the task, by threadpoolctl.

    The limit applies to libraries that are loaded when the call starts, and to those that the function loads itself:
    these read environment variables (such as `OMP_NUM_THREADS`), which are set during the call. After the call, all of
    them have as many threads as without the plugin.

    The limit of OpenBLAS, like environment variables, applies to the whole process. With `with_threads`, the first of
    several concurrent calls sets them, and the others do not change them (threadpoolctl 3.8).

    Args:
        max_threads: As `limits` of `threadpoolctl.threadpool_limits`: a number of threads, a mapping from an interface
            or a library to a number, or `None` for no change.
        user_api: `"blas"`, `"openmp"`, or `None` for both.

    Raises:
        MissingExtraError: threadpoolctl is not installed.
        TypeError: A number of threads is not a whole number.
        ValueError: A number of threads is below 1, or threadpoolctl does not know the interface.
    """

    name: ClassVar[str] = "threadpoolctl-plugin"

    def __init__(self, max_threads: int | Mapping[str, int] | None = None, user_api: str | None = None) -> None:
        if isinstance(max_threads, Mapping):
            for key, number in max_threads.items():
                check_whole(f"max_threads[{key!r}]", number, 1)
        elif max_threads is not None:
            check_whole("max_threads", max_threads, 1)
        if user_api not in (None, "blas", "openmp"):
            raise ValueError(f"user_api={user_api!r}: must be 'blas', 'openmp' or None for both")
        _threadpoolctl()
        self.max_threads = dict(max_threads) if isinstance(max_threads, Mapping) else max_threads
        self.user_api = user_api

    def pre_submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Wrap the function to run with the limit."""
        return _Limited(fn, self.max_threads, self.user_api), args, kwargs

    def __str__(self) -> str:
        return f"{self.name}: at most {self.max_threads} threads of {self.user_api or 'every interface'}"


class _Limited:
    """Sent to the worker in place of the function."""

    def __init__(
        self, function: Callable[..., Any], max_threads: int | dict[str, int] | None, user_api: str | None
    ) -> None:
        self.function, self.max_threads, self.user_api = function, max_threads, user_api
        functools.update_wrapper(self, function, assigned=("__name__", "__qualname__"), updated=())

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        controller = _threadpoolctl().ThreadpoolController()
        with (
            _later.bounded(_variables(self.max_threads, self.user_api), controller),
            controller.limit(limits=self.max_threads, user_api=self.user_api),
        ):
            return call_function(self.function, args, kwargs)


_OPENMP = "OMP_NUM_THREADS"
_BLAS = {
    "openblas": "OPENBLAS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
    "blis": "BLIS_NUM_THREADS",
    "accelerate": "VECLIB_MAXIMUM_THREADS",
}
"""Variables of the libraries, by threadpoolctl's names. Most libraries read OpenMP's variable if theirs is not set."""


def _variables(max_threads: int | Mapping[str, int] | None, user_api: str | None) -> dict[str, str]:
    """The variables that limit libraries loaded by a call."""
    if max_threads is None:
        return {}
    if not isinstance(max_threads, Mapping):
        if user_api is None:
            return thread_environment(max_threads)
        max_threads = {user_api: max_threads}
    found: dict[str, str] = {}
    if "openmp" in max_threads:
        found = {name: os.environ.get(name) or str(_unbounded(name)) for name in _BLAS.values()}
        found[_OPENMP] = str(max_threads["openmp"])
    if "blas" in max_threads:
        found |= dict.fromkeys(_BLAS.values(), str(max_threads["blas"]))
    return found | {name: str(max_threads[library]) for library, name in _BLAS.items() if library in max_threads}


def _unbounded(variable: str) -> int:
    """The number of threads of a library without a limit."""
    for text in (os.environ.get(variable), os.environ.get(_OPENMP)):
        if text is not None and text.isdigit() and int(text):
            return int(text)
    return len(cpus())


class _LaterLibraries:
    """Limits libraries that are loaded while limited calls run in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_calls = 0
        self._before: dict[str, str | None] = {}
        self._known: set[str] = set()
        self._n_modules = 0

    @contextmanager
    def bounded(self, variables: dict[str, str], controller: Any) -> Generator[None]:
        """Limit them in this context; afterwards they have as many threads as without a limit."""
        with self._lock:
            self._n_calls += 1
            if self._n_calls == 1:
                self._known = {library.filepath for library in controller.lib_controllers}
                self._n_modules = len(sys.modules)
                self._before = {name: os.environ.get(name) for name in variables}
                os.environ.update(variables)
        try:
            yield
        finally:
            with self._lock:
                self._n_calls -= 1
                if not self._n_calls:
                    self._release()

    def _release(self) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if not self._before or len(sys.modules) == self._n_modules:  # nothing was loaded
            return
        for library in _threadpoolctl().ThreadpoolController().lib_controllers:
            if library.filepath not in self._known:
                library.set_num_threads(_unbounded(_BLAS.get(library.internal_api, _OPENMP)))


_later = _LaterLibraries()


def set_thread_environment(max_threads: int) -> None:
    """Set the variables of `thread_environment` in this process; for use as an initializer of workers.

    A library reads its variable when it is loaded. A worker has loaded no libraries when the initializer runs, except
    those that the main module imports at its top; a worker forked from the driver (`mp_context=get_context("fork")`)
    has the driver's, and needs `ThreadPoolCTLPlugin`.

        Scheduler.with_processes(4, initializer=set_thread_environment, initargs=(1,))

    Args:
        max_threads: Number of threads for each library, at least 1.
    """
    os.environ.update(thread_environment(max_threads))


def _threadpoolctl() -> ModuleType:
    module: ModuleType = import_extra("threadpoolctl", "ThreadPoolCTLPlugin", "threadpoolctl", "threadpoolctl")
    return module
