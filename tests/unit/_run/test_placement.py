"""Calls that request resources: what runs at the same time, and that every way a call ends gives back what it held."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import ResourcesError, Scheduler, WorkerKilledError
from amlsched.plugins import Limits, Retry
from amlsched.policies import ArrivalOrder, LongestFirst
from amlsched.resources import Pool, Resources, current_allocation
from amlsched.resources.request import WHOLE
from tests.backends import needs
from tests.calls import double, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amlsched.executors.simulation import VirtualCall
    from amlsched.resources.pool import Node

HERE: dict[str, Callable[..., Scheduler]] = {
    "processes": Scheduler.with_processes,
    "threads": Scheduler.with_threads,
    "sequential": Scheduler.with_sequential,
}


@pytest.fixture(params=HERE)
def make(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Callable[..., Scheduler]:
    """Makes a scheduler."""
    made: Callable[..., Scheduler] = HERE[request.param]
    return made


def nodes_of(scheduler: Scheduler) -> tuple[Node, ...]:
    """The nodes of the present run."""
    nodes: tuple[Node, ...] = scheduler._run._admission.nodes  # type: ignore[union-attr]
    return nodes


def watch(scheduler: Scheduler) -> list[Node]:
    """The nodes of the next run, to look at after it."""
    seen: list[Node] = []
    scheduler.on_start(lambda: seen.extend(nodes_of(scheduler)))
    return seen


def assert_all_free(nodes: Sequence[Node]) -> None:
    assert nodes
    for node in nodes:
        assert not node.leases
        assert node.free.cpus == node.pool.cpus * WHOLE
        assert node.pool.memory is None or node.free.memory == node.pool.memory
        assert node.free.shares == [WHOLE] * len(node.pool.gpus)


def spent(cpus: float) -> tuple[float, float, float]:
    """The CPUs of a call, and when it began and ended; says it of itself."""
    began = time.monotonic()
    time.sleep(0.005)
    return cpus, began, time.monotonic()


def allocation() -> tuple[Any, str | None, str | None]:
    return current_allocation(), os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")


def die_once(path: str) -> int:
    """Kills its worker in the first attempt."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return 1
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# What runs at the same time


def test_calls_that_run_at_the_same_time_never_have_more_than_the_pool(make: Callable[..., Scheduler]) -> None:
    scheduler = make(pool=Pool(2))
    task = scheduler.task(spent, resources=lambda cpus: Resources(cpus))
    nodes = watch(scheduler)
    spans: list[tuple[float, float, float]] = []
    task.on_result(lambda _, span: spans.append(span))
    scheduler.on_start(lambda: [task.submit(cpus) for cpus in (0.5, 1, 2, 1.5) * 5])
    scheduler.run()
    assert len(spans) == 20
    for _, instant, _ in spans:
        assert sum(cpus for cpus, began, ended in spans if began <= instant < ended) <= 2
    assert_all_free(nodes)


def test_the_longest_starts_first_of_those_submitted_together(make: Callable[..., Scheduler]) -> None:
    scheduler = make(pool=Pool(1))
    task = scheduler.task(double, resources=lambda number: Resources(time=f"{number} s"))
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [task.submit(number) for number in (2, 5, 1, 4)])
    scheduler.run()
    assert results == [10, 8, 4, 2]


@pytest.mark.parametrize("priority", [lambda number: number, None])
def test_a_priority_goes_before_the_time(priority: Callable[[int], float] | None) -> None:
    scheduler = Scheduler.with_sequential(pool=Pool(1), policy=ArrivalOrder)
    low = scheduler.task(double, priority=priority or 0)
    high = scheduler.task(double, priority=100)
    results: list[int] = []
    for task in (low, high):
        task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [low.submit(1), low.submit(2), high.submit(3)])
    scheduler.run()
    assert results == ([6, 4, 2] if priority else [6, 2, 4])


def test_a_task_without_resources_has_one_cpu_and_so_has_a_function_that_is_no_task() -> None:
    scheduler = Scheduler.with_sequential(pool=Pool(3))
    task = scheduler.task(allocation)
    found: list[Any] = []
    scheduler.on_future_result(lambda _, result: found.append(result[0].cpus))
    scheduler.on_start(lambda: [task.submit(), scheduler.submit(allocation)])
    scheduler.run()
    assert found == [1, 1]


def test_without_a_pool_calls_share_what_this_process_may_use() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(double, resources=Resources(1, "1 MiB"))
    nodes = watch(scheduler)
    scheduler.on_start(lambda: task.submit(1))
    scheduler.run()
    here = Pool.here()
    assert nodes[0].pool.cpus == here.cpus
    assert nodes[0].pool.gpus == here.gpus
    assert_all_free(nodes)


def test_a_scheduler_without_requests_places_nothing() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(allocation)
    found: list[Any] = []
    task.on_result(lambda _, result: found.append(result[0]))
    scheduler.on_start(task.submit)
    scheduler.on_start(lambda: found.append(scheduler._run.places_calls))  # type: ignore[union-attr]
    scheduler.run()
    assert found == [False, None]


# What a call sees


@pytest.mark.parametrize("name", ["processes", "sequential"])
def test_a_call_sees_only_what_it_got(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "of the program")
    scheduler = HERE[name](pool=Pool(4, "4 GiB", ["GPU-a", "MIG-b"], "8 GiB", {"licence": 1}))
    requests = Resources(2, "1 GiB", 2, "3 GiB", custom={"licence": 1}), Resources(1), Resources(gpus=0.5)
    tasks = [scheduler.task(allocation, resources=each) for each in requests]
    found: dict[int, Any] = {}
    for index, task in enumerate(tasks):
        task.on_result(lambda _, result, index=index: found.update({index: result}))
    scheduler.on_start(lambda: [task.submit() for task in tasks])
    scheduler.run()
    of_first, *_ = found[0]
    assert (of_first.cpus, of_first.memory, of_first.gpus) == (2, 1024**3, ("GPU-a", "MIG-b"))
    assert (of_first.gpu_share, of_first.gpu_memory, of_first.custom) == (1, 3 * 1024**3, {"licence": 1})
    assert [found[index][1:] for index in range(3)] == [("GPU-a,MIG-b", "2"), ("", "1"), (found[2][0].gpus[0], "1")]
    assert found[2][0].gpu_share == 0.5
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "of the program"
    assert current_allocation() is None


def test_the_traceback_of_a_call_is_that_of_one_without_resources(make: Callable[..., Scheduler]) -> None:
    shown: list[list[str]] = []
    for options in ({}, {"pool": Pool(1)}):
        scheduler = make(**options)
        task = scheduler.task(fail)
        task.on_exception(lambda _, error: shown.append([frame.name for frame in extract_tb(error.__traceback__)]))
        scheduler.on_start(lambda task=task: task.submit("why"))
        scheduler.run(on_exception="end")
    plain, placed = shown
    assert "__call__" not in "".join(placed)
    assert [name for name in placed if name not in ("_allocated", "execute")] == [
        name for name in plain if name != "execute"
    ]


def test_receipts_and_allocations_go_together(make: Callable[..., Scheduler]) -> None:
    scheduler = make(pool=Pool(1), receipts=True)
    task = scheduler.task(allocation, resources=Resources())
    cpus: list[float] = []
    task.on_result(lambda _, result: cpus.append(result[0].cpus))
    futures: list[Any] = []
    scheduler.on_start(lambda: futures.extend(task.submit() for _ in range(3)))
    scheduler.run()
    assert cpus == [1, 1, 1]
    for future in futures:
        receipt = scheduler.outcome(future)
        assert receipt.started is not None
        assert receipt.submitted <= receipt.started


# Every way a call ends


def test_a_call_that_raises_or_runs_again_gives_back_what_it_held(make: Callable[..., Scheduler]) -> None:
    scheduler = make(pool=Pool(2))
    task = scheduler.task(fail, resources=Resources(2), plugins=Retry(attempts=2))
    nodes = watch(scheduler)
    scheduler.on_start(lambda: [task.submit("why") for _ in range(3)])
    scheduler.run(on_exception="continue")
    assert_all_free(nodes)


def test_a_killed_worker_gives_back_what_its_call_held_and_the_call_gets_it_again(tmp_path: Any) -> None:
    scheduler = Scheduler.with_processes(2, pool=Pool(2, "1 GiB"))
    task = scheduler.task(die_once, resources=Resources(2, "1 GiB"))
    nodes = watch(scheduler)
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [task.submit(str(tmp_path / name)) for name in "abc"])
    scheduler.run()
    assert results == [1, 1, 1]
    assert_all_free(nodes)


def test_a_call_that_is_killed_by_a_limit_gives_back_what_it_held(make: Callable[..., Scheduler]) -> None:
    scheduler = make(pool=Pool(2))
    slow = scheduler.task(time.sleep, resources=Resources(2), plugins=Limits(walltime_s=0.3))
    quick = scheduler.task(allocation, resources=Resources(2, time="0 s"), plugins=Limits(walltime_s=60))
    nodes = watch(scheduler)
    cpus: list[float] = []
    quick.on_result(lambda _, result: cpus.append(result[0].cpus))
    scheduler.on_start(lambda: [slow.submit(60), quick.submit()])
    scheduler.run(on_exception="continue")
    assert cpus == [2]
    assert_all_free(nodes)


def test_a_cancelled_call_gives_back_what_it_held_waiting_or_running() -> None:
    scheduler = Scheduler.with_processes(2, pool=Pool(2))
    task = scheduler.task(time.sleep, resources=Resources(2))
    other = scheduler.task(double, resources=Resources(2))
    nodes = watch(scheduler)
    results: list[int] = []
    other.on_result(lambda _, result: results.append(result))

    @scheduler.on_start
    def start() -> None:
        running, waiting = task.submit(60), task.submit(60)
        other.submit(4)
        assert running is not None
        assert waiting is not None
        waiting.cancel()
        scheduler.call_later(0.2, running.cancel)

    scheduler.run(on_cancelled="continue")
    assert results == [8]
    assert_all_free(nodes)


def test_a_thread_holds_what_it_got_until_its_function_returns_even_if_its_call_was_cancelled() -> None:
    scheduler = Scheduler.with_threads(2, pool=Pool(1))
    task = scheduler.task(spent, resources=Resources(1))
    nodes = watch(scheduler)
    held: list[int] = []

    @scheduler.on_start
    def start() -> None:
        future = task.submit(1)

        def cancel() -> None:
            assert future is not None
            future.cancel()
            held.append(len(nodes[0].leases))

        scheduler.call_later(0, cancel)

    scheduler.run(on_cancelled="continue")
    assert len(held) == 1
    assert_all_free(nodes)


@needs("loky")
def test_a_pool_that_breaks_gives_back_what_all_its_calls_held(tmp_path: Any) -> None:
    scheduler = Scheduler.with_loky(2, pool=Pool(4))
    culprit = scheduler.task(die, resources=Resources(2), retries_on_loss=1)
    others = scheduler.task(double, resources=Resources(1))
    nodes = watch(scheduler)
    results: list[int] = []
    others.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [culprit.submit(), *(others.submit(number) for number in range(20))])
    scheduler.run(on_exception="continue")
    assert sorted(results) == [2 * number for number in range(20)]
    assert_all_free(nodes)


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_a_given_executor(kind: type[Any]) -> None:
    with kind(2) as executor:
        scheduler = Scheduler(executor, pool=Pool(3))
        task = scheduler.task(double, resources=Resources(2))
        nodes = watch(scheduler)
        results: list[int] = []
        task.on_result(lambda _, result: results.append(result))
        scheduler.on_start(lambda: [task.submit(number) for number in range(5)])
        scheduler.run()
        assert sorted(results) == [0, 2, 4, 6, 8]
        assert_all_free(nodes)


def test_what_cannot_be_pickled_fails_and_gives_back_what_it_held() -> None:
    scheduler = Scheduler.with_processes(1, pool=Pool(1))
    task = scheduler.task(repr, resources=Resources(1))
    nodes = watch(scheduler)
    errors: list[BaseException] = []
    task.on_exception(lambda _, error: errors.append(error))
    scheduler.on_start(lambda: [task.submit(threading.Lock()), task.submit(1)])
    scheduler.run(on_exception="continue")
    assert [type(error).__name__ for error in errors] == ["NotPicklableError"]
    assert_all_free(nodes)


def test_a_batch_of_a_task_without_resources() -> None:
    scheduler = Scheduler.with_processes(2, pool=Pool(2))
    task = scheduler.task(double, batch_size=5)
    nodes = watch(scheduler)
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [task.submit(number) for number in range(23)])
    scheduler.run()
    assert sorted(results) == [2 * number for number in range(23)]
    assert_all_free(nodes)


def test_a_run_that_stops_leaves_nothing_and_the_next_one_begins_with_all(make: Callable[..., Scheduler]) -> None:
    scheduler = make(pool=Pool(2))
    task = scheduler.task(spent, resources=Resources(1))
    task.on_result(scheduler.stop)
    scheduler.on_start(lambda: [task.submit(1) for _ in range(20)])
    for _ in range(2):
        nodes = watch(scheduler)
        scheduler.run()
        assert_all_free(nodes)


# Random schedules, on a virtual clock


@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_leases_are_right_in_a_thousand_random_schedules_with_kills_retries_and_cancellations(first: int) -> None:
    for seed in range(first, first + 100):
        run_random_schedule(seed)


def ends_badly(call: VirtualCall) -> BaseException | None:
    if call.random.random() < 0.3:
        return WorkerKilledError("call", signal.SIGKILL) if call.random.random() < 0.5 else ValueError()
    return None


def run_random_schedule(seed: int) -> None:
    draw = random.Random(seed)
    n_nodes, n_gpus = draw.choice([1, 3]), draw.choice([0, 2])
    pools = [Pool(draw.choice([2, 4]), "8 GiB", n_gpus, name=f"node{number}") for number in range(n_nodes)]
    scheduler = Scheduler.with_simulation(
        duration=lambda call: call.random.expovariate(1.0),
        failures=ends_badly,
        seed=seed,
        pool=pools,
        policy=draw.choice([LongestFirst, ArrivalOrder]),
        retries_on_loss=1,
    )
    requests = [Resources(draw.choice([0.5, 1, 2]), draw.choice([None, "3 GiB"])) for _ in range(12)]
    if n_gpus:
        requests += [Resources(1, gpus=0.5), Resources(1, gpus=2)]
    retry = Retry(attempts=2, backoff=draw.choice([0.0, 2.0]))
    task = scheduler.task(double, resources=lambda index: requests[index], plugins=retry)
    nodes = watch(scheduler)
    futures: list[Any] = []

    @scheduler.on_start
    def start() -> None:
        futures.extend(task.submit(index) for index in range(len(requests)))
        for index in draw.sample(range(12), 3):
            scheduler.call_later(draw.uniform(0, 5), futures[index].cancel)

    @scheduler.on_future_done
    def check(_: Any) -> None:
        for node in nodes:
            held = [lease.request for lease in node.leases]
            assert sum(request.cpu_parts for request in held) == node.pool.cpus * WHOLE - node.free.cpus
            assert sum(request.memory for request in held) == 8 * 1024**3 - node.free.memory
            assert min(node.free.cpus, node.free.memory, *node.free.shares) >= 0

    scheduler.run(on_exception={ValueError: "continue", WorkerKilledError: "continue"}, on_cancelled="continue")
    assert len(futures) == len(requests)
    assert all(future.done() for future in futures)
    assert_all_free(nodes)


# Errors


def test_a_request_that_no_node_can_hold_raises_at_submission() -> None:
    scheduler = Scheduler.with_sequential(pool=Pool(2, "4 GiB", name="node1"))
    task = scheduler.task(double, resources=Resources(1, "5 GiB"))
    scheduler.on_start(lambda: task.submit(1))
    with pytest.raises(ResourcesError, match="node1 with 2 CPUs, 4 GiB of memory, .* short of memory: 5 GiB requested"):
        scheduler.run()


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (
            [Resources(gpus=1), Resources(16)],
            r"short of GPUs: 1 requested, 0 there, or of CPUs: 16 requested, 2 there .*; on this machine: ",
        ),
        (Resources(custom={"licnce": 1}), r"'licnce': 1 requested, 0 there \(did you mean licence\? a pool has such"),
        (Resources(custom={"licence": 3}), r"'licence': 3 requested, 2 there \(request less"),
    ],
)
def test_what_is_short_of_each_alternative_and_what_to_do(resources: Any, words: str) -> None:
    scheduler = Scheduler.with_sequential(pool=Pool(2, custom={"licence": 2}))
    task = scheduler.task(double, resources=resources)
    scheduler.on_start(lambda: task.submit(1))
    with pytest.raises(ResourcesError, match=words):
        scheduler.run()


def test_a_function_of_the_group_that_fails_raises_at_submission_with_the_arguments() -> None:
    scheduler = Scheduler.with_sequential()  # without a pool
    task = scheduler.task(double, group=lambda number: number)
    scheduler.on_start(lambda: task.submit(7))
    words = r"the function given as group failed .*\(7\): TypeError: the function returned: group=7: must be a string"
    with pytest.raises(ResourcesError, match=words):
        scheduler.run()


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (lambda number: 1 / 0, "ZeroDivisionError"),
        (lambda number: number, r"resources=7: must be a Resources"),
        (lambda: Resources(), "TypeError"),
    ],
)
def test_a_function_that_fails_raises_at_submission_with_the_arguments(resources: Any, words: str) -> None:
    scheduler = Scheduler.with_sequential(pool=Pool(2))
    task = scheduler.task(double, resources=resources)
    scheduler.on_start(lambda: task.submit(7))
    with pytest.raises(ResourcesError, match=rf"task double: the function given as resources failed .*\(7\).*{words}"):
        scheduler.run()


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"resources": 2}, TypeError, "task double: resources=2: must be a Resources"),
        ({"resources": []}, TypeError, r"resources=\[\]"),
        ({"priority": "high"}, TypeError, "priority='high': must be a number"),
        ({"priority": float("nan")}, TypeError, "priority=nan"),
        ({"group": 3}, TypeError, "task double: group=3: must be a string, or a function"),
        ({"group": ""}, ValueError, "task double: group is empty"),
        ({"resources": Resources(), "batch_size": 3}, ValueError, "batch_size=3, but its calls request resources"),
    ],
)
def test_wrong_options_of_a_task(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Scheduler.with_sequential().task(double, **options)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"pool": 4}, TypeError, r"pool=4: must be a Pool, such as amlsched.resources.Pool\(cpus=8"),
        ({"pool": []}, ValueError, "must be one Pool"),
        ({"pool": [Pool(1), Pool(2)]}, ValueError, "several, one for each node, are for clusters"),
        ({"pool": Pool(1), "policy": "longest"}, TypeError, "policy='longest': must be a class"),
    ],
)
def test_wrong_options_of_a_scheduler(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Scheduler.with_sequential(**options)


def test_a_task_with_resources_that_is_registered_during_a_run_without_a_pool() -> None:
    scheduler = Scheduler.with_sequential()
    scheduler.on_start(lambda: scheduler.task(double, resources=Resources()))
    with pytest.raises(RuntimeError, match="the run has begun without a pool"):
        scheduler.run()


def test_a_policy_that_starts_nothing_fails_the_calls_instead_of_waiting_for_ever() -> None:
    class Idle(LongestFirst):
        def choose(self, nodes: Any, now: float, freed: Any = None) -> list[Any]:
            return []

    scheduler = Scheduler.with_sequential(pool=Pool(1), policy=Idle)
    task = scheduler.task(double, resources=Resources())
    scheduler.on_start(lambda: task.submit(1))
    with pytest.raises(ResourcesError, match="Idle starts no call although no call holds anything"):
        scheduler.run()


def test_a_pool_larger_than_the_machine_is_a_warning_that_names_both(caplog: pytest.LogCaptureFixture) -> None:
    Scheduler.with_sequential(pool=Pool(100_000, "900 TB"))
    assert "the pool has 100000 CPUs, but this process may use" in caplog.text
    assert "the pool has 818.5 TiB of memory, but this process may use" in caplog.text


def test_there_is_a_worker_for_each_cpu_of_the_pool_unless_another_number_is_given() -> None:
    assert Scheduler.with_processes(pool=Pool(2.5)).executor.max_workers == 3  # type: ignore[attr-defined]
    assert Scheduler.with_processes(7, pool=Pool(2)).executor.max_workers == 7  # type: ignore[attr-defined]
