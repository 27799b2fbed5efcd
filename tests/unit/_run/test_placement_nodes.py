"""Calls on an executor whose nodes come and go: where they are sent, and that a lost node takes its pool along."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import ResourcesError, Scheduler, WorkerLostError
from amlsched.executors.capabilities import Capabilities, NodeNow
from amlsched.executors.user_function import call_function
from amlsched.resources import Pool, Resources, current_allocation
from amlsched.resources.request import WHOLE
from tests.calls import double

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class FakeCluster(Executor):
    """Nodes of which the test decides when calls end on them, and when they come and go, on the loop of the run.

    It keeps its own books of what each node runs, and checks them at each call.
    """

    capabilities = Capabilities(remote=True, survives_lost_workers=True, places=True)

    def __init__(self, *pools: Pool, to_come: Sequence[NodeNow] | None = None) -> None:
        self.nodes: dict[str, NodeNow] = {}
        self.running: dict[Future[Any], tuple[str, Resources, Callable[[], Any]]] = {}
        self.sent: list[str] = []
        self._to_come = to_come
        self._changed: Callable[[], object] = bool
        self._step: Callable[[], bool] | None = None
        for pool in pools:
            self.add(pool)

    def watch_nodes(self, changed: Callable[[], object]) -> None:
        self._changed = changed

    def nodes_now(self) -> Mapping[str, NodeNow]:
        return dict(self.nodes)

    def nodes_to_come(self) -> Sequence[NodeNow] | None:
        return self._to_come

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        raise AssertionError("a call was sent to no node")

    def submit_to(
        self, node: str, request: Resources, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], /
    ) -> Future[Any]:
        work: Future[Any] = Future()
        work.set_running_or_notify_cancel()
        self.sent.append(node)
        if node not in self.nodes:
            work.set_exception(WorkerLostError("a call", "was gone"))
            return work
        self.running[work] = node, request, lambda: call_function(function, args, kwargs)
        there = [each for where, each, _ in self.running.values() if where == node]
        pool = self.nodes[node].pool
        assert sum(each.cpu_parts for each in there) <= pool.cpus * WHOLE
        assert pool.memory is None or sum(each.memory for each in there) <= pool.memory
        return work

    def add(self, pool: Pool, ends: float | None = None) -> str:
        key = f"{pool.name}#{len(self.nodes)}-{time.monotonic_ns()}"
        self.nodes[key] = NodeNow(pool, binding="nothing", ends=ends, lasts_s=None if ends is None else 1000.0)
        self._changed()
        return key

    def lose(self, key: str) -> None:
        del self.nodes[key]
        self._changed()
        for work in [work for work, (node, *_) in self.running.items() if node == key]:
            del self.running[work]
            work.set_exception(WorkerLostError("a call", "died"))

    def finish(self, work: Future[Any]) -> None:
        *_, call = self.running.pop(work)
        work.set_result(call())

    def drive(self, step: Callable[[], bool]) -> None:
        """Call a function between any two turns of the run, until it returns false."""
        self._step = step

    def attach(self, loop: asyncio.AbstractEventLoop, around: Any = None) -> None:
        def act() -> None:
            if self._step is not None and self._step():
                loop.call_soon(act)

        loop.call_soon(act)

    def detach(self) -> None:
        self._step = None

    def finish_all(self) -> bool:
        for work in list(self.running):
            self.finish(work)
        return True


def allocation(given: object) -> tuple[Any, str]:
    """The argument, and the node on which the call runs."""
    got = current_allocation()
    assert got is not None
    return given, got.node


def run_random_schedule(seed: int) -> None:
    draw = random.Random(seed)
    cluster = FakeCluster(Pool(2, "4 GiB", name="small"), Pool(4, "8 GiB", name="large"))
    scheduler = Scheduler(cluster, retries_on_loss=100)
    requests = [Resources(draw.choice([0.5, 1, 2]), draw.choice([None, "3 GiB"])) for _ in range(20)]
    task = scheduler.task(double, resources=lambda number: requests[number])
    results: list[int] = []
    nodes: set[Any] = set()
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [task.submit(number) for number in range(20)])

    def act() -> bool:
        nodes.update(scheduler._run._admission.nodes)  # type: ignore[union-attr]
        chance = draw.random()
        if chance < 0.1 and cluster.nodes:
            cluster.lose(draw.choice(list(cluster.nodes)))
        elif chance < 0.2 or not cluster.nodes:
            cluster.add(Pool(draw.choice([2, 3]), "6 GiB", name="new"))
        elif cluster.running:
            cluster.finish(draw.choice(list(cluster.running)))
        return True

    cluster.drive(act)
    scheduler.run()
    assert sorted(results) == [2 * number for number in range(20)]
    for node in nodes:
        assert not node.leases
        assert (node.free.cpus, node.free.memory) == (node.pool.cpus * WHOLE, node.pool.memory)


@pytest.mark.parametrize("first", range(0, 100, 50))
def test_random_schedules_in_which_nodes_die_and_come(first: int) -> None:
    for seed in range(first, first + 50):
        run_random_schedule(seed)


def test_a_call_goes_to_the_node_where_it_fits_and_knows_its_name() -> None:
    cluster = FakeCluster(Pool(1, name="small"), Pool(4, name="large"))
    scheduler = Scheduler(cluster)
    task = scheduler.task(allocation, resources=lambda cpus: Resources(cpus))
    seen: list[Any] = []
    task.on_result(lambda _, result: seen.append(result))
    scheduler.on_start(lambda: [task.submit(cpus) for cpus in (3, 4, 1, 2)])
    cluster.drive(cluster.finish_all)
    scheduler.run()
    assert {cpus: node for cpus, node in seen if cpus > 1} == {2: "large", 3: "large", 4: "large"}


def test_a_request_that_no_node_can_hold_raises_at_submission() -> None:
    scheduler = Scheduler(FakeCluster(Pool(1, name="small"), Pool(4, name="large")))
    task = scheduler.task(double, resources=Resources(5))
    scheduler.on_start(lambda: task.submit(1))
    with pytest.raises(ResourcesError, match="no node can hold: the largest is large with 4 CPUs, .* 5 requested"):
        scheduler.run()


def test_a_request_waits_while_nothing_is_known_and_fails_once_the_nodes_are_too_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("amlsched._run.placement._SETTLED_S", 0.0)
    cluster = FakeCluster()
    scheduler = Scheduler(cluster)
    task = scheduler.task(double, resources=lambda cpus: Resources(cpus))
    ends: list[object] = []
    task.on_result(lambda _, result: ends.append(result))
    task.on_exception(lambda _, error: ends.append(str(error)))
    scheduler.on_start(lambda: [task.submit(cpus) for cpus in (1, 3)])
    come: list[object] = []

    def act() -> bool:
        if not come:
            come.append(cluster.add(Pool(2, name="late")))
        return cluster.finish_all()

    cluster.drive(act)
    scheduler.run(on_exception="continue")
    assert 2 in ends
    assert any("the largest is late with 2 CPUs, which is short of CPUs: 3 requested" in str(end) for end in ends)


def test_what_jobs_will_bring_counts_at_submission() -> None:
    job = NodeNow(Pool(2, "4 GiB", name="a worker of Slurm"), lasts_s=600.0)
    for request, words in (
        (Resources(3), "a worker of Slurm with 2 CPUs, .* short of CPUs"),
        (Resources(time="20 min"), "is expected to take 1200 s, but a worker of Slurm lasts 600 s"),
    ):
        scheduler = Scheduler(FakeCluster(to_come=[job]))
        task = scheduler.task(double, resources=request)
        scheduler.on_start(lambda task=task: task.submit(1))  # type: ignore[misc]
        with pytest.raises(ResourcesError, match=words):
            scheduler.run()


def test_a_call_does_not_start_on_a_node_that_exits_before_it_is_expected_to_end() -> None:
    cluster = FakeCluster()
    cluster.add(Pool(4, name="short"), ends=time.monotonic() + 100)
    cluster.add(Pool(1, name="long"), ends=time.monotonic() + 1000)
    scheduler = Scheduler(cluster)
    task = scheduler.task(allocation, resources=lambda seconds: Resources(time=seconds))
    seen: list[tuple[str, str]] = []
    task.on_result(lambda _, result: seen.append(result))
    scheduler.on_start(lambda: [task.submit(seconds) for seconds in ("500 s", "400 s", "20 s", "30 s")])
    cluster.drive(cluster.finish_all)
    scheduler.run()
    assert {node for seconds, node in seen if seconds in ("500 s", "400 s")} == {"long"}
    assert {node for seconds, node in seen if seconds in ("20 s", "30 s")} == {"short"}


def test_calls_of_a_lost_node_run_again_elsewhere() -> None:
    cluster = FakeCluster(Pool(1, name="first"))
    scheduler = Scheduler(cluster, retries_on_loss=1)
    task = scheduler.task(double, resources=Resources(1))
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(4))
    lost: list[str] = []

    def act() -> bool:
        if cluster.running and not lost:
            lost.extend(cluster.nodes)
            cluster.lose(lost[0])
            cluster.add(Pool(1, name="second"))
            return True
        return cluster.finish_all()

    cluster.drive(act)
    scheduler.run()
    assert results == [8]
    assert len(cluster.sent) == 2
    assert cluster.sent[0] == lost[0] != cluster.sent[1]


def test_given_pools_say_what_nodes_of_their_name_have() -> None:
    cluster = FakeCluster(Pool(8, name="w0 on host1"), Pool(8, name="w1 on host2"))
    scheduler = Scheduler(cluster, pool=[Pool(6, name="host2"), Pool(2)])
    task = scheduler.task(double, resources=Resources(5))
    scheduler.on_start(lambda: task.submit(1))
    cluster.drive(cluster.finish_all)
    scheduler.run()
    assert [cluster.nodes[key].pool.name for key in cluster.sent] == ["w1 on host2"]
