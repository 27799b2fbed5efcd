"""The environment variables that native libraries read when they are loaded."""

from __future__ import annotations

import os
from typing import Any, Literal, TypeAlias

from amlsched._checks import check_whole, whole_number
from amlsched.resources.detect import cpus

__all__ = [
    "WorkerThreads",
    "cpu_share",
    "exports",
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
