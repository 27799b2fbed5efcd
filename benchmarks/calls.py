"""The cost of a call, on every executor of this machine."""

import itertools
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.clock import Clock
from benchmarks.drive import (
    WARM_UP,
    DoneByHand,
    Submit,
    Way,
    noop,
    through_executor,
    through_scheduler,
    through_wrapper,
)
from benchmarks.frame import Bar, Measurement, Numbers, Workload

# ------------------------------------------------------------------------------------------------- what is submitted


def ours(method: str, *args: Any) -> Way:
    """Our scheduler, created by one of its constructors."""
    from amlsched import Scheduler

    return through_scheduler(getattr(Scheduler, method)(*args))


def ours_in_batches(size: int) -> Way:
    """Our scheduler over two processes, with this batch size."""
    from amlsched import Scheduler

    return through_scheduler(Scheduler.with_processes(2), {"batch_size": size})


def limited(method: str, *args: Any, **limits: str) -> Way:
    """Our scheduler with limits that the calls do not reach."""
    from amlsched import Scheduler
    from amlsched.plugins import Limits

    return through_scheduler(getattr(Scheduler, method)(*args), {"plugins": Limits(**limits)})


def ours_over(executor: Executor) -> Way:
    """Our scheduler over a given executor."""
    from amlsched import Scheduler

    return through_scheduler(Scheduler(executor))


def amltk_over(executor: Executor) -> Way:
    """amltk's scheduler over a given executor."""
    from amltk.scheduling import Scheduler

    return through_scheduler(Scheduler(executor))


def amltk_sequential() -> Way:
    """amltk's own sequential executor."""
    from amltk.scheduling import Scheduler

    return through_scheduler(Scheduler.with_sequential())


def loky() -> Executor:
    """Two workers of loky."""
    from loky import ProcessPoolExecutor as Loky

    return Loky(2)


def busy_for_a_millisecond() -> None:
    """Compute for 1 ms of CPU time."""
    end = time.thread_time() + 0.001
    while time.thread_time() < end:
        pass


def give_back(array: Any) -> Any:
    """Return the argument."""
    return array


# ------------------------------------------------------------------------------------------------------ the workloads


def closed_loop(
    way: Callable[[], Way],
    calls: int,
    in_flight: int,
    function: Callable[..., Any] = noop,
    argument: Callable[[], Any] | None = None,
) -> Numbers:
    """Each result submits the next call, so that `in_flight` calls are unfinished at any time."""
    clock = Clock(calls)
    # Counters of itertools are atomic: the raw executor's callbacks come from several threads.
    submitted, ended = itertools.count(in_flight), itertools.count(1)
    args = () if argument is None else (argument(),)

    def start(submit: Submit) -> None:
        clock.start()
        for _ in range(in_flight):
            submit(*args)

    def on_result(submit: Submit) -> bool:
        if next(submitted) < calls:
            submit(*args)
        if next(ended) == calls:
            clock.stop()
            return True
        return False

    way()(function, start, on_result)
    return clock.numbers


def up_front(way: Callable[[], Way], calls: int, function: Callable[..., Any] = noop) -> Numbers:
    """All calls are submitted before the first result is processed."""
    clock = Clock(calls)
    ended = itertools.count(1)

    def start(submit: Submit) -> None:
        clock.start()
        for _ in range(calls):
            submit()

    def on_result(submit: Submit) -> bool:
        if next(ended) == calls:
            clock.stop()
            return True
        return False

    way()(function, start, on_result)
    return clock.numbers


def growth(way: Callable[[], Way]) -> Numbers:
    """CPU time per call, if 1,000 and if 100,000 are submitted at once."""
    few = [up_front(way, 1_000)["CPU_us"] for _ in range(5)]
    return {**up_front(way, 100_000), "CPU_with_1,000_us": sorted(few)[2]}


def simulated() -> Numbers:
    """CPU time per call and peak of memory of a simulation of 100,000 calls, and of 1,000, on 1,000 workers."""
    from benchmarks.clock import peak_mib

    def run() -> Way:
        return ours("with_simulation", 1_000, lambda call: call.random.lognormvariate(3, 1))

    return {**growth(run), "memory_MiB": peak_mib()}


def searched(executor: str, n_trials: int, **options: Any) -> Numbers:
    """The trials of a search whose searcher proposes random numbers."""
    from amlsched import Scheduler
    from amlsched.search import Float, Search, random

    scheduler = Scheduler.from_name(executor, max_workers=2)
    with scheduler:
        clock = Clock(n_trials)
        search = Search(
            random({"x": Float(0, 1)}),
            one,
            scheduler=scheduler,
            n_trials=WARM_UP,
            n_workers=4,
            keep_trials=False,
            **options,
        )
        search.run()
        search.n_trials = n_trials
        clock.start()
        search.run()
        clock.stop()
    return clock.numbers


def one(_: object) -> float:
    """The value of a trial."""
    return 1.0


def held() -> None:
    """A call that the benchmark finishes itself."""


def random_order(over: Callable[[Executor], Way], calls: int) -> Numbers:
    """All calls are queued, and then finish in random order."""
    executor, clock, ended = DoneByHand(), Clock(calls), itertools.count(1)
    order = random.Random(1).sample(range(calls), calls)

    def start(submit: Submit) -> None:
        clock.start()
        for _ in range(calls):
            submit()
        executor.finish(order)

    def on_result(submit: Submit) -> bool:
        if next(ended) == calls:
            clock.stop()
            return True
        return False

    over(executor)(held, start, on_result)
    return clock.numbers


def two_cores_used(way: Callable[[], Way], calls: int) -> Numbers:
    """Utilization of two cores by calls of 1 ms."""
    numbers = closed_loop(way, calls, 8, busy_for_a_millisecond)
    return {"use_of_two_cores_percent": 100 * 1000 / (2 * numbers["wall_us"])}


def two_cores_used_up_front(way: Callable[[], Way], calls: int) -> Numbers:
    """The same, if all calls are submitted before the first result is processed."""
    numbers = up_front(way, calls, busy_for_a_millisecond)
    return {"use_of_two_cores_percent": 100 * 1000 / (2 * numbers["wall_us"])}


def megabyte() -> Any:
    """An array of 1 MB."""
    import numpy

    return numpy.zeros(1_000_000, dtype="uint8")


# ----------------------------------------------------------------------------------------------------------- the peers


def threads() -> Executor:
    """Two threads of the standard library."""
    return ThreadPoolExecutor(2)


def processes() -> Executor:
    """Two processes of the standard library."""
    return ProcessPoolExecutor(2)


def peers(own: Callable[[], Way], executor: Callable[[], Executor]) -> dict[str, Callable[[], Way]]:
    """Our scheduler, and the three ways to use an executor without it."""
    return {
        "amlsched": own,
        "amltk": lambda: amltk_over(executor()),
        "wrapper": lambda: through_wrapper(executor()),
        "raw": lambda: through_executor(executor()),
    }


def measured(
    ways: Mapping[str, Callable[[], Way]], workload: Callable[..., Numbers], *args: Any, leave_out: tuple[str, ...] = ()
) -> dict[str, Measurement]:
    """The same workload for every peer."""
    return {peer: partial(workload, way, *args) for peer, way in ways.items() if peer not in leave_out}


def on_dask() -> Way:
    """Our scheduler over two processes of dask."""
    from amlsched import Scheduler

    return through_scheduler(Scheduler.with_dask(n_workers=2))


def raw_dask() -> Way:
    """dask's own executor over two processes, with a plain callback."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    return through_executor(Client(cluster).get_executor(pure=False))


ON_DASK = {"amlsched": on_dask, "raw": raw_dask}
ON_THREADS = peers(lambda: ours("with_threads", 2), threads)
ON_PROCESSES = peers(lambda: ours("with_processes", 2), processes)
ON_GIVEN_PROCESSES = peers(lambda: ours_over(processes()), processes)
ON_GIVEN_LOKY = peers(lambda: ours_over(loky()), loky)
SEQUENTIAL = {"amlsched": lambda: ours("with_sequential"), "amltk": amltk_sequential}

ALL_LIMITS = {"walltime": "1 h", "memory": "64 GiB", "cputime": "1 h"}


def with_limits(method: str, *args: Any) -> dict[str, Callable[[], Way]]:
    """Calls with all limits, with one, and without."""
    return {
        "amlsched": partial(limited, method, *args, **ALL_LIMITS),
        "a walltime alone": partial(limited, method, *args, walltime="1 h"),
        "no limits": partial(ours, method, *args),
    }


ALL_CPU = "CPU_of_all_processes_us"
LOOP_CPU = "CPU_of_the_loop's_thread_us"

WORKLOADS = [
    Workload(
        "threads-closed-loop",
        "threads(2), closed loop of 5,000 with 4 in flight",
        measured(ON_THREADS, closed_loop, 5_000, 4),
        (Bar("CPU_us", "amltk", 0.35), Bar("CPU_us", "wrapper", 0.65), Bar(LOOP_CPU, "amltk", 0.25)),
    ),
    Workload(
        "threads-up-front",
        "threads(2), 100,000 submitted up front",
        measured(ON_THREADS, growth, leave_out=("raw",)),
        (
            Bar("CPU_us", "amltk", 0.22),
            Bar("CPU_us", "wrapper", 0.45),
            Bar("CPU_us", "amlsched", 1.5, other="CPU_with_1,000_us"),
        ),
    ),
    Workload(
        "search",
        "a random search on processes(2), 20,000 trials with 4 in flight",
        {
            "amlsched": partial(searched, "processes", 20_000),
            "in batches": partial(searched, "processes", 20_000, batch_size="auto"),
            "bare closed loop": partial(closed_loop, ON_PROCESSES["amlsched"], 20_000, 4, one, lambda: {"x": 0.5}),
        },
        (Bar("CPU_us", "bare closed loop", 1.5),),
    ),
    Workload(
        "random-order",
        "50,000 queued calls that finish in random order",
        {"amlsched": partial(random_order, ours_over, 50_000), "amltk": partial(random_order, amltk_over, 50_000)},
        (Bar("CPU_us", "amltk", 0.08),),
    ),
    Workload(
        "sequential-closed-loop",
        "sequential, closed loop of 100,000",
        measured(SEQUENTIAL, closed_loop, 100_000, 4),
        (Bar("CPU_us", "amltk", 0.18),),
    ),
    Workload(
        "simulation",
        "`with_simulation(1000)`, 100,000 submitted up front",
        {"amlsched": simulated},
        (
            Bar("CPU_us", None, 300),
            Bar("CPU_us", "amlsched", 1.5, other="CPU_with_1,000_us"),
            Bar("memory_MiB", None, 1024),
        ),
    ),
    Workload(
        "given-processes",
        "a given `ProcessPoolExecutor(2)`, closed loop of 5,000 with 4 in flight",
        measured(ON_GIVEN_PROCESSES, closed_loop, 5_000, 4),
        (Bar(ALL_CPU, "raw", 1.40),),
    ),
    Workload(
        "given-loky",
        "a given loky executor, closed loop of 5,000 with 4 in flight",
        measured(ON_GIVEN_LOKY, closed_loop, 5_000, 4),
        (Bar(ALL_CPU, "raw", 1.25),),
    ),
    Workload(
        "processes-closed-loop",
        "`with_processes(2)`, closed loop of 5,000 with 4 in flight",
        measured(ON_PROCESSES, closed_loop, 5_000, 4),
        (Bar("wall_us", "raw", 0.40), Bar(ALL_CPU, "amltk", 0.18)),
    ),
    Workload(
        "dask",
        "`with_dask(n_workers=2)`, closed loop of 2,000 with 4 in flight",
        measured(ON_DASK, closed_loop, 2_000, 4),
        (Bar("wall_us", "raw", 1.15),),
    ),
    Workload(
        "processes-chain",
        "`with_processes(2)`, a chain of 1,000",
        measured(ON_PROCESSES, closed_loop, 1_000, 1, leave_out=("wrapper",)),
        (Bar("wall_us", "raw", 0.50),),
    ),
    Workload(
        "processes-up-front",
        "`with_processes(2)`, 100,000 submitted up front",
        measured(ON_PROCESSES, up_front, 100_000, leave_out=("wrapper", "amltk")),
        (Bar(ALL_CPU, "raw", 0.20),),
    ),
    Workload(
        "processes-1ms",
        "`with_processes(2)`, 2,000 calls of 1 ms, 8 in flight",
        measured(ON_PROCESSES, two_cores_used, 2_000, leave_out=("wrapper",)),
        (Bar("use_of_two_cores_percent", None, 86, at_least=True),),
    ),
    Workload(
        "batches-1ms",
        "`with_processes(2)`, 2,000 calls of 1 ms, up front, `batch_size=10`",
        measured({"amlsched": lambda: ours_in_batches(10), "raw": ON_PROCESSES["raw"]}, two_cores_used_up_front, 2_000),
        (Bar("use_of_two_cores_percent", None, 85, at_least=True),),
    ),
    Workload(
        "limits-processes",
        "`with_processes(2)`, walltime, memory and CPU time limited, closed loop of 2,000 with 4 in flight",
        measured(with_limits("with_processes", 2), closed_loop, 2_000, 4),
        (
            Bar(ALL_CPU, "no limits", 1.0, plus=200),
            Bar(ALL_CPU, "a walltime alone", 1.0, plus=200),
        ),
    ),
    Workload(
        "limits-threads",
        "`with_threads(2)`, the same",
        measured(with_limits("with_threads", 2), closed_loop, 2_000, 4),
        (
            Bar(ALL_CPU, "no limits", 1.0, plus=500),
            Bar(ALL_CPU, "a walltime alone", 1.0, plus=500),
        ),
    ),
    Workload(
        "processes-1MB",
        "`with_processes(2)`, an array of 1 MB in and out, 500 calls, 4 in flight",
        measured(ON_PROCESSES, closed_loop, 500, 4, give_back, megabyte, leave_out=("wrapper", "amltk")),
        (Bar("wall_us", "raw", 0.70),),
    ),
]
