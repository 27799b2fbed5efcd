"""Bounds on the threads that native libraries (BLAS, OpenMP) start."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from amlsched._checks import check_whole
from amlsched.executors._user_function import call_function
from amlsched.extras import import_extra
from amlsched.resources.threads import thread_environment
from amlsched.task import Plugin

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["ThreadPoolCTLPlugin", "set_thread_environment", "thread_environment"]


class ThreadPoolCTLPlugin(Plugin):
    """Calls of the task run with a bound on the threads of native libraries, set by threadpoolctl.

    Without it, each worker of a machine starts as many threads as the machine has CPUs, and they slow each other down.
    It reaches the libraries that are loaded when the call begins; `thread_environment` reaches those that a fresh
    worker loads later.

    The bound of OpenBLAS belongs to the whole process. Under `with_threads`, the first of several calls at the same
    time sets it and puts it back, and the others leave it alone (threadpoolctl 3.8).

    Args:
        max_threads: As `limits` of `threadpoolctl.threadpool_limits`: a number of threads, a mapping from an interface
            or a library to a number, or `None` to change nothing.
        user_api: `"blas"`, `"openmp"`, or `None` for both.

    Raises:
        MissingExtraError: threadpoolctl is not installed.
        TypeError: A number of threads is no whole number.
        ValueError: A number of threads below 1, or an interface that threadpoolctl does not know.
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
        """The call, its function under the bound."""
        return _Limited(fn, self.max_threads, self.user_api), args, kwargs

    def __str__(self) -> str:
        return f"{self.name}: at most {self.max_threads} threads of {self.user_api or 'every interface'}"


class _Limited:
    """Travels to the worker in place of the function."""

    def __init__(
        self, function: Callable[..., Any], max_threads: int | dict[str, int] | None, user_api: str | None
    ) -> None:
        self.function, self.max_threads, self.user_api = function, max_threads, user_api
        functools.update_wrapper(self, function, assigned=("__name__", "__qualname__"), updated=())

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        with _threadpoolctl().threadpool_limits(limits=self.max_threads, user_api=self.user_api):
            return call_function(self.function, args, kwargs)


def set_thread_environment(max_threads: int) -> None:
    """Set the variables of `thread_environment` in this process: an initializer for workers.

    A library reads its variable when it is loaded. A worker has loaded none when the initializer runs, but for those
    that the main module imports at its top; one that is forked from the driver (`mp_context=get_context("fork")`) has
    the driver's, and needs `ThreadPoolCTLPlugin`.

        Scheduler.with_processes(4, initializer=set_thread_environment, initargs=(1,))

    Args:
        max_threads: Number of threads for each library, at least 1.
    """
    os.environ.update(thread_environment(max_threads))


def _threadpoolctl() -> ModuleType:
    module: ModuleType = import_extra("threadpoolctl", "ThreadPoolCTLPlugin", "threadpoolctl", "threadpoolctl")
    return module
