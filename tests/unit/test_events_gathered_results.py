"""`on_results`: callbacks that get all results since they were called last; and the time that callbacks take."""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import Scheduler
from amlsched.events import Stopwatch
from amlsched.experiments import ExperimentRun
from amlsched.experiments._running import experiment_run
from tests.backends import ByHand

if TYPE_CHECKING:
    from pathlib import Path

    from amlsched import Task

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def task(scheduler: Scheduler, executor: ByHand) -> Task[[int], int]:
    task = scheduler.task(abs)
    scheduler.on_start(lambda: [task.submit(number) for number in range(6)])
    return task


def numbers(results: list[Any]) -> list[int]:
    return [result for _, result in results]


def test_results_that_came_while_it_thought_are_given_together(scheduler, executor, task) -> None:
    batches: list[list[int]] = []
    single: list[int] = []
    task.on_result(lambda _, result: single.append(result))

    @task.on_results
    def think(results: list[Any]) -> None:
        assert [future.result() for future, _ in results] == numbers(results)
        batches.append(numbers(results))
        for index in {1: (1, 2, 3), 2: (5, 4)}.get(len(batches), ()):
            executor.finish(index, index)

    scheduler.on_start(lambda: executor.finish(0, 0))
    scheduler.run()
    assert batches == [[0], [1, 2, 3], [5, 4]]
    assert single == [0, 1, 2, 3, 5, 4]


def test_an_async_callback_is_called_again_when_it_has_thought(scheduler, executor, task) -> None:
    batches: list[list[int]] = []
    thinking = 0

    @task.on_results
    async def think(results: list[Any]) -> None:
        nonlocal thinking
        batches.append(numbers(results))
        thinking += 1
        assert thinking == 1
        if len(batches) == 1:
            for index in range(1, 6):
                executor.finish(index, index)
                await asyncio.sleep(0.001)
        thinking -= 1

    empty: list[int] = []
    scheduler.on_empty(lambda: empty.append(len(batches)))
    scheduler.on_start(lambda: executor.finish(0, 0))
    scheduler.run()
    assert batches == [[0], [1, 2, 3, 4, 5]]
    assert empty == [2]  # the queue is not empty for those who still think


def test_it_may_submit_and_each_result_is_given_once() -> None:
    scheduler = Scheduler.with_threads(3)
    task = scheduler.task(abs)
    seen: list[int] = []
    scheduler.on_start(lambda: [task.submit(number) for number in range(3)])

    @task.on_results
    def think(results: list[Any]) -> None:
        seen.extend(numbers(results))
        for number in numbers(results):
            if number < 60:
                task.submit(number + 3)

    scheduler.run()
    assert sorted(seen) == list(range(63))


def test_an_inline_executor_gives_each_before_the_next_call() -> None:
    scheduler = Scheduler.with_sequential()
    order: list[Any] = []
    task = scheduler.task(lambda number: order.append(number) or number)
    scheduler.on_start(lambda: [task.submit(number) for number in range(3)])
    task.on_results(lambda results: order.append(numbers(results)))
    scheduler.run()
    assert order == [0, [0], 1, [1], 2, [2]]


def test_results_before_the_end_of_a_run_are_given_too(scheduler, executor, task) -> None:
    batches: list[list[int]] = []
    task.on_results(lambda results: batches.append(numbers(results)))

    @scheduler.on_start
    def stop() -> None:
        executor.finish(0, 0)
        executor.start(1)
        scheduler.stop()

    scheduler.on_finishing(lambda: executor.finish(1, 1))
    scheduler.run()
    assert [*itertools.chain(*batches)] == [0, 1]


def test_in_the_order_of_submission_they_are_in_that_order(scheduler, executor, task) -> None:
    batches: list[list[int]] = []
    task.on_results(lambda results: batches.append(numbers(results)))
    scheduler.on_start(lambda: [executor.finish(index, index) for index in reversed(range(6))])
    scheduler.run(order="submission")
    assert [*itertools.chain(*batches)] == [0, 1, 2, 3, 4, 5]


def test_what_a_gate_keeps_away_is_given_later() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(abs)
    scheduler.on_start(lambda: [task.submit(number) for number in range(7)])
    third: list[list[int]] = []
    from_four: list[list[int]] = []
    once: list[list[int]] = []
    task.on_results(lambda results: third.append(numbers(results)), every=3)
    task.on_results(lambda results: from_four.append(numbers(results)), when=lambda: len(third) > 0)
    task.on_results(lambda results: once.append(numbers(results)), max_calls=1)
    scheduler.run()
    assert third == [[0, 1, 2], [3, 4, 5]]
    assert from_four == [[0, 1, 2], [3], [4], [5], [6]]
    assert once == [[0]]


def test_an_exception_in_it_is_that_of_a_callback(scheduler, executor, task) -> None:
    @task.on_results
    def fails(results: list[Any]) -> None:
        raise ValueError("cannot think")

    scheduler.on_start(lambda: [executor.finish(index, index) for index in range(6)])
    with pytest.raises(ValueError, match="cannot think") as caught:
        scheduler.run()
    assert "in the callback" in caught.value.__notes__[0]
    assert "of event on_results of" in caught.value.__notes__[0]


def test_the_time_of_callbacks_is_measured_where_somebody_looks(scheduler, executor, task, monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr("amlsched.events.time.perf_counter", lambda: now)

    def slow(*_: object) -> None:
        nonlocal now
        now += 2.0

    watch = Stopwatch()

    @scheduler.on_start
    def begin() -> None:
        scheduler.dispatcher.stopwatch = watch
        scheduler.call_later(0, slow)
        for index in range(6):
            executor.finish(index, index)

    task.on_result(slow)
    task.on_results(slow, max_calls=1)
    scheduler.on_finished(slow)
    waited: list[str] = []

    @scheduler.on_empty
    async def computes_and_waits() -> None:
        nonlocal now
        slow()
        await asyncio.sleep(0.001)
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(30)
        except TimeoutError:
            slow()
            waited.append("and was cancelled")

    scheduler.run()
    assert waited == ["and was cancelled"]
    assert watch.seconds == 2.0 * 11


# Experiments


def number(params: dict[str, Any], rep: int, log: Any) -> int:
    return params.get("x", 0) + rep


def test_a_run_of_experiments_gives_what_is_done_and_resumes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    made: list[object] = []
    session = experiment_run.SchedulerSession
    init = session.__init__
    monkeypatch.setattr(session, "__init__", lambda *args: made.append(args) or init(*args))

    def search() -> tuple[list[list[tuple[int, bool]]], int]:
        run = ExperimentRun(number, {"name": "e", "path": "out", "repetitions": 2}, executor="sequential")
        batches: list[list[tuple[int, bool]]] = []

        @run.on_results
        def think(results: list[Any]) -> None:
            batches.append([(ended.last["value"], ended.left) for _, ended in results])
            if sum(map(len, batches)) in (2, 4):
                run.submit({"x": 10 * sum(map(len, batches))})

        return batches, run.run().ran

    assert search() == ([[(0, False)], [(1, False)], [(20, False)], [(21, False)], [(40, False)], [(41, False)]], 6)
    assert len(made) == 1  # the workers stay while it thinks
    assert search() == ([[(0, True), (1, True)], [(20, True), (21, True)], [(40, True), (41, True)]], 0)


def test_a_callback_of_results_that_fails_ends_the_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = ExperimentRun(number, {"name": "e", "path": "out", "repetitions": 5}, executor="sequential")

    @run.on_results
    def fails(results: list[Any]) -> None:
        raise ValueError("cannot think")

    with pytest.raises(ValueError, match="cannot think"):
        run.run()
    assert 0 < run.summary.done < 5
    html = run._repr_html_()
    assert html.startswith("<pre>5 repetitions: ")
    assert re.search(r"\ne +5 +[1-4]", html)
    assert run.summary._repr_html_() == html
