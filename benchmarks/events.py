"""The cost of an event, and of a submission with a large argument."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.frame import Bar, Numbers, Workload

EMITS = 100_000
SUBMISSIONS = 300


def amltk_events() -> tuple[Any, Any]:
    """amltk's classes of events and emitters."""
    from amltk.scheduling.events import Emitter, Event

    return Emitter, Event


def our_events() -> tuple[Any, Any]:
    """Our classes of events and emitters."""
    from amlsched.events import Emitter, Event

    return Emitter, Event


def handler(_: object) -> None:
    """A callback that does nothing."""


def emit(classes: Callable[[], tuple[Any, Any]]) -> Numbers:
    """One event with one argument, without and with a callback."""
    emitter_class, event_class = classes()
    numbers = {}
    for handlers in (0, 1):
        emitter, event = emitter_class("benchmark"), event_class("something")
        subscriber = emitter.subscriber(event)
        for _ in range(handlers):
            subscriber(handler)
        times = []
        for _ in range(5):
            begin = time.process_time()
            for _ in range(EMITS):
                emitter.emit(event, 1)
            times.append(time.process_time() - begin)
        numbers[f"emit,_{handlers}_handlers_us"] = 1e6 * statistics.median(times) / EMITS
    return numbers


def ignore(_: object) -> None:
    """A function with an argument."""


def submit(argument: Callable[[], Any]) -> Numbers:
    """`task.submit` on threads, while nothing else runs."""
    from amlsched import Scheduler

    value = argument()
    scheduler = Scheduler.with_threads(2)
    task = scheduler.task(ignore)
    times = []

    @scheduler.on_start
    def _() -> None:
        for _ in range(SUBMISSIONS):
            begin = time.perf_counter()
            task.submit(value)
            times.append(time.perf_counter() - begin)

    scheduler.run()
    return {"submit_us": 1e6 * statistics.median(times)}


def data_frame() -> Any:
    """10,000 rows of 20 columns."""
    import numpy
    import pandas

    return pandas.DataFrame(numpy.zeros((10_000, 20)))


def integer() -> int:
    """A small argument."""
    return 1


WORKLOADS = [
    Workload(
        "emit",
        "`emit`",
        {"amlsched": partial(emit, our_events), "amltk": partial(emit, amltk_events)},
        (Bar("emit,_0_handlers_us", "amltk", 0.15), Bar("emit,_1_handlers_us", "amltk", 0.20)),
    ),
    Workload(
        "submit-data-frame",
        "`task.submit` with a 10,000 × 20 DataFrame, on threads",
        {"amlsched": partial(submit, data_frame), "an integer": partial(submit, integer)},
        (Bar("submit_us", "an integer", 1.10),),
    ),
]
