"""Tasks and their plugins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from amlsched import (
    CallRefusedError,
    Event,
    EventNotKnownError,
    ExitState,
    Plugin,
    Scheduler,
    SchedulerNotRunningError,
    Task,
)
from amlsched.plugins import Limiter


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler.with_sequential()


class Adds(Plugin):
    """Adds to the argument, and keeps what it saw."""

    name = "adds"
    ADDED: Event[..., Any] = Event("added")

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.seen: list[Any] = []
        self.task: Task[..., Any] | None = None
        self.n_resets = 0

    def attach_task(self, task: Task[..., Any]) -> None:
        self.task = task

    def pre_submit(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append((fn, args, kwargs))
        assert self.task is not None
        self.task.emit(self.ADDED, self.amount)
        return fn, (args[0] + self.amount, *args[1:]), kwargs

    def reset(self) -> None:
        self.n_resets += 1


class Refuses(Plugin):
    name = "refuses"

    def pre_submit(self, fn: Any, *args: Any, **kwargs: Any) -> None:
        return None


# Plugins


def test_each_plugin_sees_a_call_as_the_one_before_left_it(scheduler: Scheduler) -> None:
    first, second = Adds(1), Adds(10)
    task = scheduler.task(abs, plugins=[first, second])
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))
    submitted: list[Any] = []
    task.on_submitted(lambda _, *args: submitted.append(args))
    scheduler.on_start(lambda: task.submit(100))
    scheduler.run()
    assert first.seen == [(abs, (100,), {})]
    assert second.seen == [(abs, (101,), {})]
    assert submitted == [(111,)]
    assert results == [111]


def test_a_refused_call_is_none_and_nothing_is_told(scheduler: Scheduler) -> None:
    refuses, never = Refuses(), Adds(1)
    task = scheduler.task(abs, plugins=(refuses, never))
    returned: list[object] = []
    scheduler.on_start(lambda: returned.append(task.submit(1)))
    assert scheduler.run() == ExitState(ExitState.Code.EXHAUSTED)
    assert returned == [None]
    assert never.seen == []
    assert task.event_counts[task.SUBMITTED] == 0


def test_a_refused_call_that_is_to_be_awaited_raises(scheduler: Scheduler) -> None:
    task = scheduler.task(abs, plugins=Refuses())

    @scheduler.on_start
    def call() -> None:
        with pytest.raises(CallRefusedError, match=r"task abs.*refuses"):
            task(1)

    assert scheduler.run() == ExitState(ExitState.Code.EXHAUSTED)


def test_a_plugin_may_swap_the_function(scheduler: Scheduler) -> None:
    class Swaps(Plugin):
        def pre_submit(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            return str, args, kwargs

    task = scheduler.task(abs, plugins=Swaps())
    results: list[object] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(-1))
    scheduler.run()
    assert results == ["-1"]


def test_events_of_a_plugin_are_events_of_its_task(scheduler: Scheduler) -> None:
    task = scheduler.task(abs, plugins=Adds(5))
    told: list[int] = []
    task.on("added", told.append)
    scheduler.on_start(lambda: task.submit(1))
    scheduler.run()
    assert told == [5]
    assert task.event_counts[Adds.ADDED] == task.event_counts["added"] == 1  # type: ignore[index]


def test_a_plugin_is_reset_before_each_run_before_any_event(scheduler: Scheduler) -> None:
    plugin = Adds(1)
    scheduler.task(abs, plugins=plugin)
    seen: list[int] = []
    scheduler.on_start(lambda: seen.append(plugin.n_resets))
    scheduler.run()
    scheduler.run()
    assert seen == [1, 2]


def test_a_plugin_can_be_attached_once(scheduler: Scheduler) -> None:
    plugin = Adds(1)
    first, second = scheduler.task(abs, plugins=plugin), scheduler.task(str)
    for task in (first, second):
        with pytest.raises(ValueError, match=r"'adds' is already attached to task abs"):
            task.attach_plugin(plugin)
    assert first.plugins == [plugin]
    assert second.plugins == []


def test_a_plugin_that_fails_to_attach_is_not_attached(scheduler: Scheduler) -> None:
    class Fails(Plugin):
        def attach_task(self, task: Task[..., Any]) -> None:
            raise ValueError("not to this one")

    plugin, task = Fails(), scheduler.task(abs)
    for _ in range(2):
        with pytest.raises(ValueError, match="not to this one"):
            task.attach_plugin(plugin)
    assert task.plugins == []


def test_what_is_no_plugin_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(TypeError, match=r"task abs: 'limiter' is not a Plugin"):
        scheduler.task(abs, plugins=["limiter"])  # type: ignore[list-item]


def test_a_plugin_of_amltk_raises_with_the_import_to_change(scheduler: Scheduler) -> None:
    theirs: Any = type("Limiter", (), {"__module__": "amltk.scheduling.plugins.limiter"})()
    with pytest.raises(TypeError, match=r"import Limiter from amlsched\.plugins"):
        scheduler.task(abs, plugins=[theirs])


@pytest.mark.parametrize("size", ["2", 0, 1.5, None, True], ids=repr)
def test_a_wrong_batch_size_raises(scheduler: Scheduler, size: Any) -> None:
    with pytest.raises(ValueError, match="batch_size="):
        scheduler.task(abs, batch_size=size)


def test_with_init_plugins_false_attach_task_is_left_to_the_caller(scheduler: Scheduler) -> None:
    plugin = Adds(1)
    task = scheduler.task(abs, plugins=[plugin], init_plugins=False)
    assert plugin.task is None
    assert task.plugins == [plugin]


# The task itself


def test_what_is_no_function_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(TypeError, match="needs a function, not 3"):
        scheduler.task(3)  # type: ignore[arg-type]


async def _async(*_: object) -> int:
    return 1


def _yields(*_: object) -> Iterator[int]:
    yield 1


async def _yields_later(*_: object) -> AsyncIterator[int]:
    yield 1


class _Acts:
    async def __call__(self, *_: object) -> int:
        return 1

    def yields(self) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_async, "_async is async, .* asyncio.run"),
        (_yields, r"_yields is a generator function, .* as a list"),
        (_yields_later, "_yields_later is a generator function"),
        (partial(partial(_async, 1), 2), "_async is async"),
        (partial(_yields, 1), "_yields is a generator function"),
        (_Acts(), "_Acts is async"),
        (_Acts().yields, "_Acts.yields is a generator function"),
    ],
)
def test_a_function_of_which_a_call_runs_nothing_is_refused(scheduler: Scheduler, function: Any, words: str) -> None:
    with pytest.raises(TypeError, match="a task needs .*" + words):
        scheduler.task(function)
    refused: list[str] = []

    @scheduler.on_start
    def start() -> None:
        with pytest.raises(TypeError, match="scheduler.submit needs .*" + words) as caught:
            scheduler.submit(function)
        refused.append(str(caught.value))

    scheduler.run()
    assert len(refused) == 1
    for executor in ("threads", "processes", "loky"):
        with pytest.raises(TypeError, match="initializer needs .*" + words):
            Scheduler.from_name(executor, initializer=function)


def test_a_class_is_a_function_though_its_objects_are_async(scheduler: Scheduler) -> None:
    scheduler.task(_Acts)


def test_its_events_are_those_of_amltk() -> None:
    assert [Task.SUBMITTED, Task.DONE, Task.RESULT, Task.EXCEPTION, Task.CANCELLED] == [
        "on-submitted",
        "on-done",
        "on-result",
        "on-exception",
        "on-cancelled",
    ]


def test_a_callback_is_registered_by_the_name_of_the_event(scheduler: Scheduler) -> None:
    task = scheduler.task(abs)
    told: list[int] = []
    task.on("on-result", lambda _, result: told.append(result))

    @task.on(Task.DONE)
    def done(future: object) -> None:
        told.append(0)

    with pytest.raises(EventNotKnownError, match="on-outcome"):
        task.on("on-outcome", print)
    scheduler.on_start(lambda: task.submit(-4))
    scheduler.run()
    assert told == [0, 4]


def test_it_knows_its_own_calls(scheduler: Scheduler) -> None:
    task, other = scheduler.task(abs), scheduler.task(str)
    seen: list[Any] = []

    @scheduler.on_start
    def start() -> None:
        seen.extend([task.futures() == [], task.running(), task.n_running])
        futures = [task.submit(1), other.submit(1), task.submit(2)]
        seen.extend([task.futures() == task.queue == [futures[0], futures[2]], task.running(), task.n_running])

    task.on_result(lambda *_: seen.append(task.n_running))
    scheduler.run()
    assert seen == [True, False, 0, True, True, 2, 1, 0]
    assert task.futures() == []


def test_state_of_one_run_does_not_reach_the_next(scheduler: Scheduler) -> None:
    task = scheduler.task(abs)
    scheduler.on_start(lambda: [task.submit(number) for number in range(5)])
    task.on_result(scheduler.stop)
    scheduler.run()
    seen: list[int] = []
    fresh = scheduler.task(str)
    scheduler.on_start(lambda: seen.extend([task.n_running, fresh.n_running]))
    scheduler.run(timeout=0)
    assert task.n_running == 0
    assert seen == [5, 0]


def test_a_task_made_in_a_run_takes_part_in_it(scheduler: Scheduler) -> None:
    results: list[int] = []

    @scheduler.on_start
    def start() -> None:
        task = scheduler.task(abs)
        task.on_result(lambda _, result: results.append(result))
        task.submit(-1)

    scheduler.run()
    assert results == [1]


def test_awaiting_outside_of_a_run_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(SchedulerNotRunningError):
        scheduler.task(abs)(1)


def test_it_shows_its_name_and_what_runs(scheduler: Scheduler) -> None:
    task = scheduler.task(abs)
    assert task.name == "task abs"
    assert repr(task) == "<task abs, 0 unfinished calls>"


def test_a_task_that_is_made_by_its_class_is_one_of_the_scheduler() -> None:
    scheduler = Scheduler.with_sequential()
    task = Task(abs, scheduler=scheduler, plugins=[Limiter(max_calls=1)])
    assert scheduler.tasks == (task,)
    scheduler.on_start(lambda: (task.submit(-1), task.submit(-2)))
    for _ in range(2):
        scheduler.run()
        assert (task.on_result.count, task.event_counts[Limiter.CALL_LIMIT_REACHED]) == (1, 1)
