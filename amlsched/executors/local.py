"""Executors on this machine: each function returns one, ready for a `Scheduler`."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from amlsched._checks import check_seconds, whole_number
from amlsched.executors._user_function import call_function, check_initializer
from amlsched.executors.sequential import SequentialExecutor
from amlsched.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from multiprocessing.context import BaseContext

    from amlsched.executors.processes import ProcessPool
    from amlsched.executors.threads import ThreadPool
    from amlsched.resources.threads import WorkerThreads

__all__ = ["loky", "processes", "sequential", "threads"]


def sequential() -> SequentialExecutor:
    """Calls run one after the other in this thread: for debugging."""
    return SequentialExecutor()


def threads(
    max_workers: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
) -> ThreadPool:
    """Calls run in threads of this process.

    They share its memory and its interpreter lock: for calls that wait, or that compute outside Python.
    A running thread cannot be ended from outside.

    Args:
        max_workers: Number of threads; `None` for four more than there are CPUs for this process, at most 32.
        initializer: Called once in each thread, before its first call.
        initargs: Arguments of the initializer.

    Raises:
        TypeError: An argument has a type that it cannot have.
        ValueError: `max_workers` is below 1.
    """
    from amlsched.executors.threads import ThreadPool

    return ThreadPool(max_workers, initializer, initargs)


def processes(
    max_workers: int | None = None,
    mp_context: BaseContext | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    *,
    max_tasks_per_child: int | None = None,
    threads_per_worker: WorkerThreads = "auto",
) -> ProcessPool:
    """Calls run in processes of this machine.

    A worker that dies takes only its own call with it, and is replaced; see `amlsched.executors.processes`.

    Args:
        max_workers: Number of processes; `None` for the number of CPUs that this process may use.
        mp_context: Start method, as from `multiprocessing.get_context`; `None` for forks of a server that has no
            threads, never of this process.
        initializer: Called once in each worker, before its first call.
        initargs: Arguments of the initializer.
        max_tasks_per_child: Calls after which a worker is replaced; `None` for never.
        threads_per_worker: How many threads BLAS and OpenMP start in each worker, by variables such as
            `OMP_NUM_THREADS` with which it starts; `"auto"` for its share of the CPUs, unless these variables are set;
            `None` to set none.

    Raises:
        TypeError: An argument has a type that it cannot have.
        ValueError: A number is below 1.
    """
    from amlsched.executors.processes import ProcessPool

    return ProcessPool(
        max_workers,
        mp_context,
        initializer,
        initargs,
        max_tasks_per_child=max_tasks_per_child,
        threads_per_worker=threads_per_worker,
    )


def loky(
    max_workers: int | None = None,
    *,
    timeout: float | None = 10,
    threads_per_worker: WorkerThreads = "auto",
    **options: Any,
) -> Executor:
    """Calls run in loky's pool of processes, the one behind joblib.

    It is a pool of its own, not loky's reusable one, which all parts of a program share: one part that shuts it down
    would take it from the others. On Linux its workers, and what they start, end with this process, however it ends.

    Args:
        max_workers: Number of processes; `None` for the number of CPUs that this process may use, or fewer where loky
            has been told so (`LOKY_MAX_CPU_COUNT`).
        timeout: Seconds after which a worker without a call ends; `None` for never.
        threads_per_worker: As of `with_processes`; what `env=` sets wins.
        **options: Any other argument of `loky.get_reusable_executor`; `reuse` and `kill_workers` change nothing.

    Raises:
        MissingExtraError: loky is not installed.
        TypeError: An argument has a type that it cannot have.
        ValueError: A number is below what it can be.
    """
    pool: Any = import_extra("loky", "with_loky", "loky", "loky")
    from amlsched.executors._hash_seed import VARIABLE, hash_seed
    from amlsched.executors._loky import LokyPool
    from amlsched.resources import cpus
    from amlsched.resources.threads import cpu_share, worker_environment, worker_threads

    for name in ("reuse", "kill_workers"):
        options.pop(name, None)
    check_initializer(options.get("initializer"), options.get("initargs", ()))
    if timeout is not None:
        check_seconds("timeout", timeout, ", or None")
    if options.get("env") is not None and not isinstance(options["env"], Mapping):
        raise TypeError(f"env={options['env']!r}: must be a mapping from names of variables to texts")
    if max_workers is not None:
        max_workers = whole_number("max_workers", max_workers)
    else:
        max_workers = min(len(cpus()), pool.cpu_count())
    environment = worker_environment(worker_threads(threads_per_worker), cpu_share(max_workers))
    options["env"] = {VARIABLE: hash_seed(), **environment, **(options.get("env") or {})}
    initializer = options.pop("initializer", None)
    options["initializer"] = partial(_begin_worker, initializer)
    return LokyPool(max_workers, timeout=timeout, **options)


def _begin_worker(initializer: Callable[..., object] | None, *args: Any) -> None:
    from amlsched.executors._loky import bound_exit  # here: not for `import amlsched`
    from amlsched.executors._worker_setup import prepare_worker

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to the workers too: the driver handles it
    prepare_worker()
    bound_exit()
    if initializer is not None:
        try:
            call_function(initializer, args, {})
        except BaseException as error:  # it may exit, too: loky would break, and tell nobody why
            from amlsched.executors.pickled import refuse_calls

            refuse_calls(error)
