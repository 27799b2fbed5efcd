"""Binds workers to slots from their start: they inherit environment variables and CPU affinity.

So the binding applies before a worker imports anything, including the driver's main module. A slot is free again when
the process that was started in it has exited, in whatever way.

Also sets the environment variables that limit the threads of native libraries, which read them when they are loaded.
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
"""How many threads libraries start in each worker; `"auto"` for its share of the CPUs, `None` for their defaults."""
_GENERAL = "OMP_NUM_THREADS"
"""The variable that other libraries read if their own is not set."""
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
    """Environment variables that limit the threads of a process that has not loaded its libraries yet.

    Use them for `with_loky(env=…)`, in the script of a batch job, or in your own program.

    Args:
        max_threads: Number of threads for each library, at least 1.

    Returns:
        The variables of OpenMP, MKL, OpenBLAS, NumExpr, BLIS, Accelerate and Numba.

    Raises:
        TypeError: It is not a whole number.
        ValueError: The number is below 1.
    """
    check_whole("max_threads", max_threads, 1)
    return dict.fromkeys(_VARIABLES, str(max_threads))


def worker_threads(threads_per_worker: Any, name: str = "threads_per_worker") -> WorkerThreads:
    """Return a valid value of `threads_per_worker`.

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
    """Each worker's share of the CPUs of this process; at least 1."""
    return max(1, len(cpus()) // max(1, n_workers))


def worker_environment(threads: WorkerThreads, share: int) -> dict[str, str]:
    """The environment variables of a worker for the threads of libraries.

    Args:
        threads: Number of threads per worker. With `"auto"`, variables that are set in this process are not changed; if
            `OMP_NUM_THREADS` is set, which libraries read if their own is not, none is changed.
        share: Number of threads per worker with `"auto"`.
    """
    if threads is None or (threads == "auto" and os.environ.get(_GENERAL)):
        return {}
    if threads != "auto":
        return thread_environment(threads)
    return {name: value for name, value in thread_environment(share).items() if not os.environ.get(name)}


def shared_threads(n_workers: int) -> WorkerThreads:
    """`threads_per_worker` for one of several pools with one worker each.

    Args:
        n_workers: How many of these pools share the CPUs of this process.
    """
    return None if os.environ.get(_GENERAL) else cpu_share(n_workers)


def exports(threads: WorkerThreads, share: int) -> list[str]:
    """The same variables as shell commands for the script of a batch job."""
    if threads is None:
        return []
    if threads != "auto":
        return [f"export {name}={value}" for name, value in thread_environment(threads).items()]
    return [f"export {name}=${{{name}:-{share if name == _GENERAL else f'${_GENERAL}'}}}" for name in _VARIABLES]


_FREE_WITHIN_S = 10.0


@contextlib.contextmanager
def in_slot(slot: Slot) -> Generator[None]:
    """In this context, this thread and the processes it starts are bound to a slot; variables are set process-wide."""
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
    """Assigns slots to processes."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._holders: dict[Slot, BaseProcess | None] = dict.fromkeys(slots)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def for_start_of(self, process: BaseProcess) -> Generator[None]:
        """In this context, start the process in its own slot."""
        with self._lock:
            slot = self._free_slot()
            with in_slot(slot):
                yield
            self._holders[slot] = process

    def _free_slot(self) -> Slot:
        deadline = time.monotonic() + _FREE_WITHIN_S  # the previous process may have just been killed
        while True:
            for slot, holder in self._holders.items():
                if holder is None or _has_ended(holder):
                    return slot
            if time.monotonic() > deadline:
                problem = f"there are more workers to start than the {len(self._holders)} slots"
                raise ResourcesError("workers", problem, "lower max_workers")
            time.sleep(0.01)


def _has_ended(process: BaseProcess) -> bool:
    try:
        return process.exitcode is not None
    except ValueError:  # it was closed, which is only possible after its exit
        return True


def _bound(process_class: Any, leases: _Leases) -> Any:
    """A function that replaces a process class, and starts each process in a slot."""

    def made(*args: Any, **kwargs: Any) -> Any:
        process = process_class(*args, **kwargs)
        start = process.start

        def start_in_slot() -> None:
            del process.start  # the process is pickled for the child, and this function cannot be
            with leases.for_start_of(process):
                start()

        process.start = start_in_slot
        return process

    return made


def bound_spawn_context(slots: Sequence[Slot]) -> multiprocessing.context.SpawnContext:
    """A multiprocessing context that starts each process in its own slot, for `ProcessPool(mp_context=…)`.

    Args:
        slots: At least as many as there are workers.
    """
    context = multiprocessing.context.SpawnContext()
    context.Process = _bound(multiprocessing.context.SpawnProcess, _Leases(slots))  # type: ignore[misc]
    return context


def bound_loky_context(slots: Sequence[Slot]) -> Any:
    """The same for loky's pool.

    Args:
        slots: At least as many as there are workers.
    """
    module: Any = importlib.import_module("loky.backend.context")
    context = module.LokyContext()
    context.Process = _bound(module.LokyContext.Process, _Leases(slots))
    return context
