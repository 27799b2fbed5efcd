"""Workers that are bound to a slot from their first instruction on: variables and affinity are inherited at the start.

So they hold before a worker imports anything, the main module of the driver included. A slot is free again when the
process that was started in it has ended, in whatever way.

The environment variables that native libraries read when they are loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing.context
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from amlsched._checks import check_whole, whole_number
from amlsched.errors import ResourcesError
from amlsched.resources.detect import cpus

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from multiprocessing.process import BaseProcess

    from amlsched.resources.slots import Slot

__all__ = [
    "WorkerThreads",
    "bound_loky_context",
    "bound_spawn_context",
    "cpu_share",
    "exports",
    "in_slot",
    "shared_threads",
    "thread_environment",
    "worker_environment",
    "worker_threads",
]

WorkerThreads: TypeAlias = int | Literal["auto"] | None
"""How many threads the libraries of a worker start; `"auto"` for its share of the CPUs, `None` for what they choose."""
_GENERAL = "OMP_NUM_THREADS"
"""The variable that the other libraries read where their own is not set."""
_VARIABLES = (
    _GENERAL,
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def thread_environment(max_threads: int) -> dict[str, str]:
    """The environment variables that bound the threads of a process which has not loaded its libraries yet.

    For `with_loky(env=…)`, for the script of a batch job, or for a program of your own.

    Args:
        max_threads: Number of threads for each library, at least 1.

    Returns:
        The variables of OpenMP, MKL, OpenBLAS, NumExpr, BLIS, Accelerate and Numba.

    Raises:
        TypeError: It is no whole number.
        ValueError: The number is below 1.
    """
    check_whole("max_threads", max_threads, 1)
    return dict.fromkeys(_VARIABLES, str(max_threads))


def worker_threads(threads_per_worker: Any, name: str = "threads_per_worker") -> WorkerThreads:
    """The value of `threads_per_worker`.

    Raises:
        TypeError: It is neither a number, `"auto"` nor `None`.
        ValueError: The number is below 1.
    """
    if threads_per_worker is None:
        return None
    if isinstance(threads_per_worker, str) and threads_per_worker == "auto":
        return "auto"
    return whole_number(name, threads_per_worker, also=", 'auto' or None")


def cpu_share(n_workers: int) -> int:
    """How many CPUs of this process each of its workers has; at least 1."""
    return max(1, len(cpus()) // max(1, n_workers))


def worker_environment(threads: WorkerThreads, share: int) -> dict[str, str]:
    """The variables for the threads of libraries with which a worker starts.

    Args:
        threads: For each worker. With `"auto"`, variables that are set in this process stay as they are, and where
            `OMP_NUM_THREADS` is set, which is read in the place of the others, all of them do.
        share: The threads of a worker under `"auto"`.
    """
    if threads is None or (threads == "auto" and os.environ.get(_GENERAL)):
        return {}
    if threads != "auto":
        return thread_environment(threads)
    return {name: value for name, value in thread_environment(share).items() if not os.environ.get(name)}


def shared_threads(n_workers: int) -> WorkerThreads:
    """`threads_per_worker` of a pool with one worker beside others of its kind.

    Args:
        n_workers: How many of them share the CPUs of this process.
    """
    return None if os.environ.get(_GENERAL) else cpu_share(n_workers)


def exports(threads: WorkerThreads, share: int) -> list[str]:
    """The same as lines for the shell of a batch job."""
    if threads is None:
        return []
    if threads != "auto":
        return [f"export {name}={value}" for name, value in thread_environment(threads).items()]
    return [f"export {name}=${{{name}:-{share if name == _GENERAL else f'${_GENERAL}'}}}" for name in _VARIABLES]


_FREE_WITHIN_S = 10.0


@contextlib.contextmanager
def in_slot(slot: Slot) -> Generator[None]:
    """While in here, this thread is bound to a slot, and so is what it starts; the variables hold for the process."""
    variables = slot.environment
    before = {name: os.environ.get(name) for name in variables}
    affinity = os.sched_getaffinity(0)
    os.environ.update(variables)
    try:
        if slot.cpus is not None:
            os.sched_setaffinity(0, slot.cpus)
        yield
    finally:
        os.sched_setaffinity(0, affinity)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Leases:
    """Which process has which slot."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._holders: dict[Slot, BaseProcess | None] = dict.fromkeys(slots)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def for_start_of(self, process: BaseProcess) -> Generator[None]:
        """While in here, the process is started in a slot of its own."""
        with self._lock:
            slot = self._free_slot()
            with in_slot(slot):
                yield
            self._holders[slot] = process

    def _free_slot(self) -> Slot:
        deadline = time.monotonic() + _FREE_WITHIN_S  # the one before may have been killed a moment ago
        while True:
            for slot, holder in self._holders.items():
                if holder is None or _has_ended(holder):
                    return slot
            if time.monotonic() > deadline:
                problem = f"more workers than the {len(self._holders)} slots are to be started"
                raise ResourcesError("workers", problem, "lower max_workers")
            time.sleep(0.01)


def _has_ended(process: BaseProcess) -> bool:
    try:
        return process.exitcode is not None
    except ValueError:  # it was closed, which can be done only afterwards
        return True


def _bound(process_class: Any, leases: _Leases) -> Any:
    """A function in place of a class of processes, that starts each in a slot."""

    def made(*args: Any, **kwargs: Any) -> Any:
        process = process_class(*args, **kwargs)
        start = process.start

        def start_in_slot() -> None:
            del process.start  # it is pickled for the child, and this function cannot be
            with leases.for_start_of(process):
                start()

        process.start = start_in_slot
        return process

    return made


def bound_spawn_context(slots: Sequence[Slot]) -> multiprocessing.context.SpawnContext:
    """A context of multiprocessing whose processes start each in a slot of its own, for `ProcessPool(mp_context=…)`.

    Args:
        slots: As many as there are workers at most.
    """
    context = multiprocessing.context.SpawnContext()
    context.Process = _bound(multiprocessing.context.SpawnProcess, _Leases(slots))  # type: ignore[misc]
    return context


def bound_loky_context(slots: Sequence[Slot]) -> Any:
    """The same for loky's pool.

    Args:
        slots: As many as there are workers at most.
    """
    module: Any = importlib.import_module("loky.backend.context")
    context = module.LokyContext()
    context.Process = _bound(module.LokyContext.Process, _Leases(slots))
    return context
