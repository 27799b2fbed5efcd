"""Memory per call, while it is queued and after it has finished."""

import gc
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.drive import noop
from benchmarks.frame import Bar, Numbers, Workload

CALLS = 100_000


def traced() -> int:
    """Bytes that Python has allocated."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def our_scheduler(executor: Executor) -> Any:
    """Our scheduler over a given executor."""
    from amlsched import Scheduler

    return Scheduler(executor)


def amltk_scheduler(executor: Executor) -> Any:
    """amltk's scheduler over a given executor."""
    from amltk.scheduling import Scheduler

    return Scheduler(executor)


def queued_in_scheduler(make: Callable[[Executor], Any]) -> Numbers:
    """Bytes per call, for calls that wait for a thread."""
    gate = threading.Event()
    scheduler = make(ThreadPoolExecutor(2))
    task, blocker = scheduler.task(noop), scheduler.task(gate.wait)
    numbers = {}

    @scheduler.on_start
    def _() -> None:
        for _ in range(2):
            blocker.submit()
        tracemalloc.start()
        before = traced()
        for _ in range(CALLS):
            task.submit()
        numbers["bytes_a_queued_call_B"] = (traced() - before) / CALLS
        tracemalloc.stop()
        gate.set()

    scheduler.run()
    return numbers


def queued_in_executor() -> Numbers:
    """The same for the executor alone; the futures are kept, as a user has to."""
    gate = threading.Event()
    with ThreadPoolExecutor(2) as executor:
        blockers = [executor.submit(gate.wait) for _ in range(2)]
        tracemalloc.start()
        before = traced()
        futures = [executor.submit(noop) for _ in range(CALLS)]
        numbers = {"bytes_a_queued_call_B": (traced() - before) / CALLS}
        tracemalloc.stop()
        gate.set()
        assert len(blockers) + len(futures) == CALLS + 2
    return numbers


def kept(make: Callable[[Executor], Any]) -> Numbers:
    """Bytes per call that remain after the run, when only the scheduler is referenced."""
    scheduler = make(ThreadPoolExecutor(2))
    task = scheduler.task(noop)

    @scheduler.on_start
    def _() -> None:
        for _ in range(CALLS):
            task.submit()

    tracemalloc.start()
    before = traced()
    scheduler.run()
    return {"bytes_kept_of_a_call_B": (traced() - before) / CALLS}


WORKLOADS = [
    Workload(
        "memory-queued",
        "100,000 calls queued on threads",
        {
            "amlsched": partial(queued_in_scheduler, our_scheduler),
            "amltk": partial(queued_in_scheduler, amltk_scheduler),
            "raw": queued_in_executor,
        },
        (Bar("bytes_a_queued_call_B", "raw", 1.20),),
        rounds=1,
    ),
    Workload(
        "memory-kept",
        "a run of 100,000 calls whose futures nobody holds",
        {"amlsched": partial(kept, our_scheduler), "amltk": partial(kept, amltk_scheduler)},
        (Bar("bytes_kept_of_a_call_B", None, 100),),
        rounds=1,
    ),
]
