"""Executors on this machine: each function returns one, ready for a `Scheduler`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from amlsched.errors import MissingExtraError
from amlsched.executors.sequential import SequentialExecutor

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from multiprocessing.context import BaseContext

__all__ = ["loky", "processes", "sequential", "threads"]


def sequential() -> SequentialExecutor:
    """Calls run one after the other in this thread: for debugging."""
    return SequentialExecutor()


def threads(max_workers: int | None = None) -> Executor:
    """Calls run in threads of this process.

    They share its memory and its interpreter lock: for calls that wait, or that compute outside Python.
    A running thread cannot be ended from outside.

    Args:
        max_workers: Number of threads; `None` as in `concurrent.futures.ThreadPoolExecutor`.
    """
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max_workers, thread_name_prefix="amlsched")


def processes(
    max_workers: int | None = None,
    mp_context: BaseContext | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Executor:
    """Calls run in processes of this machine.

    Args:
        max_workers: Number of processes; `None` for the number of CPUs.
        mp_context: Start method, as from `multiprocessing.get_context`; `None` for Python's default.
        initializer: Called once in each worker, before its first call.
        initargs: Arguments of the initializer.
    """
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(max_workers, mp_context, initializer, initargs)


def loky(max_workers: int | None = None, **options: Any) -> Executor:
    """Calls run in loky's reusable pool of processes, the one behind joblib.

    Args:
        max_workers: Number of processes; `None` for the number of CPUs.
        **options: Any other argument of `loky.get_reusable_executor`.

    Raises:
        MissingExtraError: loky is not installed.
    """
    try:
        reusable: Callable[..., Executor] = importlib.import_module("loky").get_reusable_executor  # loky has no types
    except ModuleNotFoundError as error:
        raise MissingExtraError("with_loky", "loky", "loky") from error
    return reusable(max_workers, **options)
