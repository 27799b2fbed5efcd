"""Factories of executors on this machine, behind the constructors of `Scheduler`."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from amlsched._checks import check_seconds, whole_number
from amlsched._surroundings import import_extra, open_descriptors
from amlsched.executors.sequential import SequentialExecutor
from amlsched.executors.user_function import call_function, check_initializer

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from multiprocessing.context import BaseContext

    from amlsched.executors.processes import ProcessPool
    from amlsched.executors.simulation import Duration, Failures, Result, SimulatedExecutor
    from amlsched.executors.threads import ThreadPool
    from amlsched.resources.binding import WorkerThreads

__all__ = ["loky", "processes", "sequential", "simulation", "threads"]


def sequential() -> SequentialExecutor:
    """Runs calls one after the other in this thread, for debugging."""
    return SequentialExecutor()


def threads(
    max_workers: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
) -> ThreadPool:
    """Runs calls in threads of this process.

    They share its memory and its interpreter lock: suited to calls that wait, or that compute outside Python.
    A running thread cannot be killed.

    Args:
        max_workers: Number of threads; `None` for four more than the CPUs that this process may use, at most 32.
        initializer: Called once in each thread, before its first call.
        initargs: Arguments of the initializer.

    Raises:
        TypeError: An argument has the wrong type.
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
    """Runs calls in processes of this machine.

    If a worker dies, only its own call is lost, and it is replaced; see `amlsched.executors.processes`.

    Args:
        max_workers: Number of processes; `None` for the number of CPUs that this process may use.
        mp_context: Start method, as from `multiprocessing.get_context`; `None` to fork from a server without threads,
            never from this process.
        initializer: Called once in each worker, before its first call.
        initargs: Arguments of the initializer.
        max_tasks_per_child: After how many calls to replace a worker; `None` for never.
        threads_per_worker: How many threads BLAS and OpenMP start in each worker, set by environment variables such as
            `OMP_NUM_THREADS`; `"auto"` for its share of the CPUs, unless these variables are set; `None` to set none.

    Raises:
        TypeError: An argument has the wrong type.
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


def simulation(
    max_workers: int,
    duration: Duration,
    *,
    result: Result = None,
    failures: Failures = 0.0,
    seed: int = 0,
) -> SimulatedExecutor:
    """Simulates calls on a virtual clock: callbacks run, nothing waits, and an hour of calls takes milliseconds.

    Everything that waits by the run's event loop is on that clock: the calls, `timeout`, `call_later`, the waits of
    `Retry`, `asyncio.sleep` in callbacks, the times of receipts. `Limits` has no effect, and `Comm` raises. The same
    seed and the same program give the same order of events.

    Args:
        max_workers: How many calls run at a time.
        duration: How long each call takes: seconds, a text such as `"10 min"`, or a function of the
            [`VirtualCall`][amlsched.executors.simulation.VirtualCall] that returns seconds.
        result: What calls return: `None`; the value of a function of the `VirtualCall`; or `"call"` for that of their
            own function, which then runs in this thread when the call ends, in no virtual time.
        failures: The probability that the worker of an attempt is killed, at a random time of the call; or a function
            of the `VirtualCall` that returns the exception with which the attempt ends, or `None`.
        seed: Of the random numbers in `VirtualCall.random`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is out of range.
    """
    from amlsched.executors.simulation import SimulatedExecutor

    return SimulatedExecutor(max_workers, duration, result, failures, seed)


def loky(
    max_workers: int | None = None,
    *,
    timeout: float | None = 10,
    threads_per_worker: WorkerThreads = "auto",
    **options: Any,
) -> Executor:
    """Runs calls in loky's pool of processes, the one behind joblib.

    It is a separate pool, not loky's reusable one, which all parts of a program share, so that one part could shut it
    down for the others. On Linux its workers, and the processes they start, are terminated when this process exits, in
    whatever way.

    Args:
        max_workers: Number of processes; `None` for the number of CPUs that this process may use, or loky's limit
            (`LOKY_MAX_CPU_COUNT`) if that is lower.
        timeout: Seconds after which an idle worker exits; `None` for never.
        threads_per_worker: As of `with_processes`; variables in `env=` take precedence.
        **options: Any other argument of `loky.get_reusable_executor`; `reuse` and `kill_workers` are ignored.

    Raises:
        MissingExtraError: loky is not installed.
        TypeError: An argument has the wrong type.
        ValueError: A number is too small.
    """
    open_descriptors()  # before loky opens files: a worker would lack the descriptor, and so a stream
    package: Any = import_extra("loky", "with_loky", "loky", "loky")
    from amlsched.executors._loky import LokyPool
    from amlsched.executors.worker_setup import HASH_SEED_VARIABLE, hash_seed
    from amlsched.resources import cpus
    from amlsched.resources.binding import cpu_share, worker_environment, worker_threads

    for name in ("reuse", "kill_workers"):
        options.pop(name, None)
    check_initializer(options.get("initializer"), options.get("initargs", ()))
    if timeout is not None:
        check_seconds("timeout", timeout, ", or None")
    if options.get("env") is not None and not isinstance(options["env"], Mapping):
        raise TypeError(f"env={options['env']!r}: must be a mapping from names of variables to strings")
    if max_workers is not None:
        max_workers = whole_number("max_workers", max_workers)
    else:
        max_workers = min(len(cpus()), package.cpu_count())
    environment = worker_environment(worker_threads(threads_per_worker), cpu_share(max_workers))
    options["env"] = {HASH_SEED_VARIABLE: hash_seed(), **environment, **(options.get("env") or {})}
    initializer = options.pop("initializer", None)
    options["initializer"] = partial(_begin_worker, initializer)
    return LokyPool(max_workers, timeout=timeout, **options)


def _begin_worker(initializer: Callable[..., object] | None, *args: Any) -> None:
    from amlsched.executors._loky import bound_exit  # here, to keep `import amlsched` light
    from amlsched.executors.worker_setup import prepare_worker

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to workers, too, but the driver handles it
    prepare_worker()
    bound_exit()
    if initializer is not None:
        try:
            call_function(initializer, args, {})
        except BaseException as error:  # even SystemExit: loky would break without reporting why
            from amlsched.executors.pickled_calls import refuse_calls

            refuse_calls(error)
