"""The bounds on the calls of a task."""

from __future__ import annotations

from typing import Any

import pytest

from amlsched import Future, Plugin, Scheduler, Task
from amlsched.plugins import Limiter


def twice(x: int) -> int:
    return 2 * x


class RefuseOdd(Plugin):
    name = "refuse-odd"

    def pre_submit(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return None if args[0] % 2 else (fn, args, kwargs)


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler.with_sequential()


def test_max_calls_refuses_what_is_beyond_and_tells_of_it(scheduler: Scheduler) -> None:
    task = scheduler.task(twice, plugins=Limiter(max_calls=2))
    results: list[int] = []
    refused: list[Any] = []
    task.on_result(lambda _, result: results.append(result))
    task.on("call-limit-reached", lambda *args, **kwargs: refused.append((args, kwargs)))

    @scheduler.on_start
    def start() -> None:
        assert task.submit(1) is not None
        assert task.submit(2) is not None
        assert task.submit(3) is None
        assert task.submit(x=4) is None

    scheduler.run()
    assert results == [2, 4]
    assert refused == [((task, 3), {}), ((task,), {"x": 4})]


def test_max_calls_counts_calls_that_callbacks_submit(scheduler: Scheduler) -> None:
    task = scheduler.task(twice, plugins=Limiter(max_calls=5))
    ended: list[int] = []
    answers: list[bool] = []
    scheduler.on_start(lambda: task.submit(0))

    @scheduler.on_future_done
    def more(future: Future[int]) -> None:
        answers.append(task.submit(len(answers)) is not None)

    task.on_done(lambda future: ended.append(future.number))
    scheduler.run()
    assert answers == [True] * 4 + [False]
    assert ended == [1, 2, 3, 4, 5]


def test_a_call_that_another_plugin_refuses_is_not_counted(scheduler: Scheduler) -> None:
    task = scheduler.task(twice, plugins=[Limiter(max_calls=2), RefuseOdd()])
    answers: list[bool] = []

    @scheduler.on_start
    def start() -> None:
        answers.extend(task.submit(x) is not None for x in (1, 3, 2, 5, 4, 6))

    scheduler.run()
    assert answers == [False, False, True, False, True, False]


def test_a_call_that_could_not_be_submitted_is_not_counted() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(twice, plugins=Limiter(max_calls=1))
    with pytest.raises(RuntimeError, match="is not running"):
        task.submit(1)
    scheduler.on_start(lambda: task.submit(1))
    scheduler.run()
    assert task.event_counts[task.RESULT] == 1


def test_max_concurrent_refuses_while_calls_have_not_ended() -> None:
    scheduler = Scheduler.with_threads(2)
    task = scheduler.task(twice, plugins=Limiter(max_concurrent=2))
    refused: list[Any] = []
    task.on("concurrent-limit-reached", lambda *args: refused.append(args))
    last: list[Future[int] | None] = []

    @scheduler.on_start
    def start() -> None:
        assert [task.submit(x) is not None for x in (1, 2, 3)] == [True, True, False]

    @task.on_result(max_calls=1)
    def one_more(future: Future[int], result: int) -> None:
        last.append(task.submit(4))

    scheduler.run()
    assert refused == [(task, 3)]
    assert last[0] is not None
    assert last[0].result() == 8


def test_not_while_running_refuses_while_another_task_runs(scheduler: Scheduler) -> None:
    other = scheduler.task(abs)
    task = scheduler.task(twice, plugins=Limiter(not_while_running=[other]))
    refused: list[Any] = []
    answers: list[bool] = []
    task.on("disabled-due-to-running-task", lambda *args: refused.append(args))

    @scheduler.on_start
    def start() -> None:
        other.submit(-1)
        answers.append(task.submit(1) is not None)

    @other.on_result
    def after(future: Future[int], result: int) -> None:
        answers.append(task.submit(2) is not None)

    scheduler.run()
    assert answers == [False, True]
    assert refused == [(other, task, 1)]


def test_counts_reset_in_child_with_each_run(scheduler: Scheduler) -> None:
    task = scheduler.task(twice, plugins=Limiter(max_calls=1))
    answers: list[bool] = []
    scheduler.on_start(lambda: answers.extend(task.submit(x) is not None for x in (1, 2)))
    scheduler.run()
    scheduler.run()
    assert answers == [True, False, True, False]


def test_an_event_counts_what_it_refused(scheduler: Scheduler) -> None:
    task = scheduler.task(twice, plugins=Limiter(max_calls=1))
    scheduler.on_start(lambda: [task.submit(x) for x in (1, 2, 3)])
    scheduler.run()
    assert task.event_counts[Limiter.CALL_LIMIT_REACHED] == 2


@pytest.mark.parametrize("name", ["max_calls", "max_concurrent"])
@pytest.mark.parametrize("value", [0, -3, 1.5, "2", True])
def test_a_bound_that_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value!r}: must be a whole number of at least 1"):
        Limiter(**{name: value})


@pytest.mark.parametrize("value", [twice, [twice], "task"])
def test_what_is_no_task_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"not_while_running: .* is not a task"):
        Limiter(not_while_running=value)


def test_a_task_cannot_exclude_itself(scheduler: Scheduler) -> None:
    task: Task[[int], int] = scheduler.task(twice)
    with pytest.raises(ValueError, match="cannot wait for itself"):
        task.attach_plugin(Limiter(not_while_running=task))


def test_it_says_where_it_stands(scheduler: Scheduler) -> None:
    other = scheduler.task(abs)
    limiter = Limiter(max_calls=3, max_concurrent=2, not_while_running=other)
    scheduler.task(twice, plugins=limiter)
    assert str(limiter) == "limiter: calls 0/3, at once 0/2, not while task abs runs"
    assert str(Limiter()) == "limiter: no limit"
