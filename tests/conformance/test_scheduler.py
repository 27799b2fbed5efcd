"""What a scheduler does over every executor."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from amlsched import (
    CallAbortedError,
    Event,
    ExitState,
    NotPicklableError,
    Scheduler,
    SchedulerNotRunningError,
    WorkerLostError,
)
from amlsched.executors.capabilities import capabilities_of
from amlsched.plugins import Retry
from tests import calls
from tests.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from amlsched import Future, Task
    from tests.backends import Backend, MakesScheduler

Code = ExitState.Code


async def _exists(path: Path) -> None:
    async with asyncio.timeout(45):
        while not path.exists():
            await asyncio.sleep(0.002)


async def _all_started(*paths: Path) -> None:
    for path in paths:
        await _exists(path)


class Gate:
    """Calls that run until the gate is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.release = folder / "release"

    def started(self, number: int) -> Path:
        return self.folder / f"started-{number}"

    def submit(self, task: Task[..., Any], number: int) -> Future[Any]:
        future = task.submit(self.started(number), self.release, number)
        assert future is not None
        return future

    def open(self, *_: object) -> None:
        self.release.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def test_an_executor_declares_what_it_can_do(backend: Backend, shared_scheduler: MakesScheduler) -> None:
    with shared_scheduler(backend) as scheduler:
        declared = capabilities_of(scheduler.executor)
    # How calls are best given to it is its own affair.
    assert declared._replace(queue_depth=None, prepickle=None, posts=False) == backend.capabilities


# Events and their order


def test_a_call_that_returns_is_told_in_this_order(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)
    results: list[tuple[int, int]] = []
    task.on_result(lambda future, result: results.append((future.args[0], result)))
    scheduler.on_start(lambda: task.submit(4))

    assert scheduler.run() == ExitState(Code.EXHAUSTED)

    assert results == [(4, 8)]
    assert journal.lines == [
        "on_start",
        "on_future_submitted 1",
        "task on_submitted 1",
        "on_future_done 1",
        "on_future_result 1",
        "task on_done 1",
        "task on_result 1",
        "on_empty",
        "on_finishing",
        "on_finished",
    ]


def test_a_call_that_raises_is_told_in_this_order(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.fail)
    journal = Journal(scheduler, task)
    errors: list[BaseException] = []
    task.on_exception(lambda _, error: errors.append(error))
    scheduler.on_start(lambda: task.submit("no luck"))

    assert scheduler.run(on_exception="continue") == ExitState(Code.EXHAUSTED)

    assert [(type(error), str(error)) for error in errors] == [(ValueError, "no luck")]
    assert journal.of_call(1) == [
        "on_future_submitted",
        "task on_submitted",
        "on_future_done",
        "on_future_exception",
        "task on_done",
        "task on_exception",
    ]


def test_a_call_that_is_cancelled_is_told_in_this_order(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)
    # Some of these wait while the workers are busy; the last one cannot have started.
    futures: list[Future[int]] = []

    @scheduler.on_start
    def submit_many() -> None:
        futures.extend(future for number in range(50) if (future := task.submit(number)))
        assert futures[-1].cancel()

    assert scheduler.run(on_cancelled="continue") == ExitState(Code.EXHAUSTED)

    assert futures[-1].cancelled()
    assert journal.of_call(50) == [
        "on_future_submitted",
        "task on_submitted",
        "on_future_cancelled",
        "task on_cancelled",
    ]
    assert journal.counts["task on_result"] == 49
    journal.assert_every_call_ended_once()


def test_callbacks_of_one_event_run_in_the_order_of_their_registration(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    told: list[str] = []
    for name in "abc":
        task.on_result(partial(lambda name, *_: told.append(name), name))
    scheduler.on_start(lambda: task.submit(1))
    scheduler.run()
    assert told == ["a", "b", "c"]


def test_every_callback_of_a_call_gets_the_future_that_submit_returned(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    seen: list[object] = []
    for subscriber in (scheduler.on_future_submitted, scheduler.on_future_done, task.on_submitted, task.on_done):
        subscriber(lambda future, *_: seen.append(future))
    for subscriber in (scheduler.on_future_result, task.on_result):
        subscriber(lambda future, _: seen.append(future))
    returned: list[object] = []
    scheduler.on_start(lambda: returned.append(task.submit(1)))
    scheduler.run()
    assert len(seen) == 6
    assert all(future is returned[0] for future in seen)


def test_a_future_has_its_result_when_done_is_told(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    seen: list[tuple[bool, int]] = []
    task.on_done(lambda future: seen.append((future.done(), future.result())))
    scheduler.on_start(lambda: task.submit(21))
    scheduler.run()
    assert seen == [(True, 42)]


def test_callbacks_run_in_the_thread_of_run(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    threads: set[int] = set()
    for subscriber in (scheduler.on_start, scheduler.on_empty, scheduler.on_finishing, scheduler.on_finished):
        subscriber(lambda: threads.add(threading.get_ident()))
    task.on_submitted(lambda *_: threads.add(threading.get_ident()))
    task.on_result(lambda *_: threads.add(threading.get_ident()))
    scheduler.on_start(lambda: [task.submit(number) for number in range(5)])
    scheduler.run()
    assert threads == {threading.get_ident()}


def test_on_submitted_gets_the_arguments_of_the_call(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.give_back)
    seen: list[tuple[Any, ...]] = []
    task.on_submitted(lambda _, *args, **kwargs: seen.append((args, kwargs)))
    scheduler.on_start(lambda: [task.submit(1), task.submit(value=2)])
    scheduler.run()
    assert seen == [((1,), {}), ((), {"value": 2})]


def test_a_function_without_a_task_can_be_submitted(scheduler: Scheduler) -> None:
    journal = Journal(scheduler)
    results: list[int] = []
    scheduler.on_future_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: scheduler.submit(calls.double, 3))
    scheduler.run()
    assert results == [6]
    assert journal.of_call(1) == ["on_future_submitted", "on_future_done", "on_future_result"]


def test_the_queue_holds_the_calls_that_have_not_ended(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    seen: list[Any] = []

    @scheduler.on_start
    def submit_two() -> None:
        futures = [task.submit(1), task.submit(2)]
        seen.append(list(scheduler.queue) == futures == task.futures())
        seen.append(list(scheduler.queue.values()))
        seen.append((task.n_running, task.running(), scheduler.empty(), scheduler.running()))

    scheduler.on_empty(lambda: seen.append((task.n_running, task.running(), scheduler.empty(), scheduler.queue)))
    scheduler.run()
    assert seen == [
        True,
        [(calls.double, (1,), {}), (calls.double, (2,), {})],
        (2, True, False, True),
        (0, False, True, {}),
    ]
    assert not scheduler.running()


def test_event_counts_are_those_of_the_latest_run(backend: Backend, shared_scheduler: MakesScheduler) -> None:
    scheduler = shared_scheduler(backend)
    task = scheduler.task(calls.double)
    amount = iter((3, 2))
    scheduler.on_start(lambda: [task.submit(number) for number in range(next(amount))])
    for expected in (3, 2):
        scheduler.run()
        assert scheduler.event_counts[Scheduler.FUTURE_SUBMITTED] == expected
        assert scheduler.event_counts[Scheduler.FUTURE_RESULT] == expected
        assert scheduler.event_counts[Scheduler.STARTED] == 1
        assert scheduler.event_counts[Scheduler.STOP] == 0
        assert task.event_counts[task.RESULT] == expected
        assert task.event_counts[task.EXCEPTION] == 0


# No callback inside another one


def test_no_callback_runs_inside_another_one_whatever_it_does(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    depth = deepest = told = 0
    enough = 40

    def occupied(act: Callable[[], object]) -> Callable[..., None]:
        def callback(*_: object, **__: object) -> None:
            nonlocal depth, deepest, told
            depth += 1
            told += 1
            deepest = max(deepest, depth)
            act()
            depth -= 1

        return callback

    def submit() -> None:
        if scheduler.running() and scheduler.event_counts[Scheduler.FUTURE_SUBMITTED] < enough:
            task.submit(told)

    def cancel_one() -> None:
        for future in list(scheduler.queue)[1:]:
            future.cancel()
            break

    scheduler.on_start(occupied(submit))
    scheduler.on_empty(occupied(submit), max_calls=2)
    scheduler.on_future_submitted(occupied(submit))
    task.on_submitted(occupied(submit))
    task.on_done(occupied(cancel_one))
    task.on_result(occupied(lambda: task.emit("custom")))
    task.add_event(Event("custom"))
    task.on("custom", occupied(submit))
    task.on_cancelled(occupied(submit))
    scheduler.on_future_result(occupied(lambda: scheduler.stop() if told > 200 else None))
    scheduler.on_stop(occupied(submit))
    scheduler.on_finishing(occupied(scheduler.stop))
    scheduler.on_finished(occupied(scheduler.stop))

    scheduler.run(on_cancelled="continue")

    assert told > enough
    assert deepest == 1


def test_a_submission_in_on_submitted_does_not_recurse(scheduler: Scheduler, backend: Backend) -> None:
    task = scheduler.task(calls.double)
    length = 50 if backend.slow else 300
    depths: set[int] = set()
    numbers = iter(range(length))

    def submit(*_: object) -> None:
        if (number := next(numbers, None)) is not None:
            task.submit(number)

    @task.on_submitted
    def next_one(*_: object) -> None:
        depths.add(_stack_depth())
        submit()

    scheduler.on_start(submit)
    scheduler.run()
    assert task.event_counts[task.RESULT] == length
    assert max(depths) - min(depths) < length  # not several frames more for each


def test_a_chain_of_submissions_does_not_grow_the_stack(scheduler: Scheduler, backend: Backend) -> None:
    task = scheduler.task(calls.double)
    depths: set[int] = set()
    length = 40 if backend.slow else 300 if backend.concurrent else 3000

    @task.on_result
    def next_one(_: object, result: int) -> None:
        depths.add(_stack_depth())
        if result < 2 * length:
            task.submit(result // 2 + 1)

    scheduler.on_start(lambda: task.submit(1))
    scheduler.run()
    assert task.event_counts[task.RESULT] == length
    # One more where another thread woke the loop: what matters is that it does not grow.
    assert max(depths) - min(depths) <= 1


# How a run ends


def test_a_run_without_calls_ends_as_exhausted(scheduler: Scheduler) -> None:
    journal = Journal(scheduler)
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert journal.lines == ["on_start", "on_empty", "on_finishing", "on_finished"]


def test_on_empty_may_submit_more_and_is_told_each_time(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: task.submit(0))
    scheduler.on_empty(lambda: task.submit(1), max_calls=2)
    assert scheduler.run().code is Code.EXHAUSTED
    assert journal.counts["on_empty"] == 3
    assert journal.counts["task on_result"] == 3


def test_with_end_on_empty_false_an_empty_queue_does_not_end_the_run(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: task.submit(0))
    scheduler.on_empty(lambda: scheduler.call_later(0.01, task.submit, 1), max_calls=1)
    task.on_result(lambda _, result: result == 2 and scheduler.stop())
    assert scheduler.run(end_on_empty=False).code is Code.STOPPED
    assert journal.counts["task on_result"] == 2
    assert journal.counts["on_empty"] == 2  # the second time after the result that stops the run


def test_stop_ends_the_run_and_tells_why(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)
    heard: list[tuple[str, BaseException | None]] = []
    scheduler.on_stop(lambda msg, exception: heard.append((msg, exception)))
    scheduler.on_start(lambda: task.submit(1))
    task.on_result(lambda *_: scheduler.stop(stop_msg="enough"))
    assert scheduler.run() == ExitState(Code.STOPPED)
    assert heard == [("enough", None)]
    assert journal.lines[-3:] == ["on_stop", "on_finishing", "on_finished"]


def test_stop_can_be_any_callback(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    scheduler.on_start(lambda: [task.submit(number) for number in range(20)])
    task.on_result(scheduler.stop)
    assert scheduler.run() == ExitState(Code.STOPPED)
    assert scheduler.event_counts[Scheduler.STOP] == 1


def test_stop_outside_a_run_does_nothing(scheduler: Scheduler) -> None:
    scheduler.stop()
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    scheduler.stop()
    assert scheduler.run() == ExitState(Code.EXHAUSTED)


def test_stop_with_an_exception_follows_on_exception(scheduler: Scheduler) -> None:
    error = RuntimeError("the disk is full")
    heard: list[BaseException | None] = []
    scheduler.on_stop(lambda _, exception: heard.append(exception))
    scheduler.on_start(lambda: scheduler.stop(exception=error))
    with pytest.raises(RuntimeError, match="the disk is full"):
        scheduler.run()
    assert scheduler.run(on_exception="end") == ExitState(Code.EXCEPTION, error)
    assert heard == [error, error]


def test_calls_that_have_not_started_are_cancelled_when_the_run_ends(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler, gate: Gate
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(calls.until_released)
    journal = Journal(scheduler, task)
    many = 20

    @scheduler.on_start
    async def stop_while_some_run() -> None:
        for number in range(many):
            gate.submit(task, number)
        await _all_started(*(gate.started(number) for number in range(concurrent_backend.workers)))
        scheduler.stop()

    scheduler.on_finishing(gate.open)
    # The policy is for calls that are cancelled while the run goes on.
    assert scheduler.run(on_cancelled="raise") == ExitState(Code.STOPPED)

    journal.assert_every_call_ended_once()
    assert journal.counts["task on_submitted"] == many
    assert journal.counts["task on_result"] >= concurrent_backend.workers
    assert journal.counts["task on_cancelled"] > 0
    assert sum(gate.started(number).exists() for number in range(many)) == journal.counts["task on_result"]


def test_under_an_inline_executor_stop_acts_between_two_calls(inline_backend: Backend) -> None:
    scheduler = inline_backend.scheduler()
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [task.submit(number) for number in range(20)])
    task.on_result(lambda *_: scheduler.stop(), every=3)
    assert scheduler.run() == ExitState(Code.STOPPED)
    assert journal.counts["task on_result"] == 3
    assert journal.counts["task on_cancelled"] == 17
    journal.assert_every_call_ended_once()


def test_a_timeout_with_wait_lets_running_calls_end(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler, gate: Gate
) -> None:
    with shared_scheduler(concurrent_backend) as scheduler:
        warm_up = scheduler.on_start(lambda: scheduler.submit(calls.double, 1))
        scheduler.run()
        scheduler.on_start.unregister(warm_up)

        task = scheduler.task(calls.until_released)
        journal = Journal(scheduler, task)
        scheduler.on_start(lambda: [gate.submit(task, number) for number in range(2)])
        scheduler.on_timeout(gate.open)
        assert scheduler.run(timeout=0.3) == ExitState(Code.TIMEOUT)
    journal.assert_every_call_ended_once()
    n_started = sum(gate.started(number).exists() for number in range(2))
    assert journal.counts["task on_result"] == n_started >= 1
    assert journal.of_the_run == ["on_start", "on_timeout", "on_finishing", "on_finished"]


def test_a_timeout_without_wait_cancels_running_calls(concurrent_backend: Backend, gate: Gate) -> None:
    scheduler = concurrent_backend.scheduler()
    task = scheduler.task(calls.until_released)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [gate.submit(task, number) for number in range(5)])
    scheduler.on_finished(gate.open)  # threads cannot be killed: let them go, once the run is over
    assert scheduler.run(timeout=0.5, wait=False) == ExitState(Code.TIMEOUT)
    journal.assert_every_call_ended_once()
    assert journal.counts["task on_cancelled"] == 5


def test_a_timeout_acts_within_an_endless_chain(backend: Backend, shared_scheduler: MakesScheduler) -> None:
    with shared_scheduler(backend) as scheduler:
        task = scheduler.task(calls.double)
        journal = Journal(scheduler)
        scheduler.on_start(lambda: task.submit(0))
        assert scheduler.run() == ExitState(Code.EXHAUSTED)  # its workers are up now
        began = time.monotonic()
        assert scheduler.run() == ExitState(Code.EXHAUSTED)
        took_s = time.monotonic() - began

        journal.lines.clear()
        task.on_result(lambda *_: task.submit(0))
        # Some calls have to come back meanwhile, also where each goes through a network and others have the cores.
        timeout_s = max(3.0 if backend.jobs else 0.2, min(20 * took_s, 5.0))
        assert scheduler.run(timeout=timeout_s) == ExitState(Code.TIMEOUT)
    journal.assert_every_call_ended_once()
    assert journal.counts["on_future_result"] > 1


def test_a_timeout_longer_than_the_run_does_nothing(scheduler: Scheduler) -> None:
    assert scheduler.run(timeout=1000) == ExitState(Code.EXHAUSTED)


# What exceptions do


def test_an_exception_of_a_call_is_raised_by_run(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.fail)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [task.submit("no luck") for _ in range(20)])
    with pytest.raises(ValueError, match="no luck"):
        scheduler.run()
    journal.assert_every_call_ended_once()
    assert journal.of_the_run == ["on_start", "on_stop", "on_finishing", "on_finished"]


def test_an_exception_of_a_call_ends_the_run_with_end(scheduler: Scheduler) -> None:
    heard: list[BaseException | None] = []
    scheduler.on_stop(lambda _, exception: heard.append(exception))
    scheduler.on_start(lambda: scheduler.submit(calls.fail, "no luck"))
    state = scheduler.run(on_exception="end")
    assert (state.code, str(state.exception)) == (Code.EXCEPTION, "no luck")
    assert heard == [state.exception]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyError("a"), Code.EXHAUSTED),
        (IndexError("b"), Code.EXCEPTION),
        (ZeroDivisionError("c"), None),
        (OSError(), None),
    ],
    ids=["continue", "end", "raise", "not in the mapping"],
)
def test_the_first_type_of_a_mapping_that_matches_decides(
    scheduler: Scheduler, error: Exception, code: ExitState.Code | None
) -> None:
    modes: Any = {KeyError: "continue", LookupError: "end", ArithmeticError: "raise", ZeroDivisionError: "continue"}
    scheduler.on_start(lambda: scheduler.submit(calls.fail_with, error))
    if code is None:
        with pytest.raises(type(error)):
            scheduler.run(on_exception=modes)
    else:
        assert scheduler.run(on_exception=modes).code is code


_NO_EXCEPTIONS = (
    SystemExit(7),
    KeyboardInterrupt(),
    GeneratorExit("left"),
    asyncio.CancelledError("left"),
    calls.NoException("left"),
    BaseExceptionGroup("left", [calls.NoException("one")]),
)


def test_what_is_no_exception_ends_its_call_and_neither_the_run_nor_the_program(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.fail_with)
    journal = Journal(scheduler, task)
    errors: dict[int, Any] = {}
    task.on_exception(lambda future, error: errors.update({future.number: error}))
    scheduler.on_start(lambda: [task.submit(error) for error in _NO_EXCEPTIONS])
    assert scheduler.run(on_exception="continue").code is Code.EXHAUSTED
    for number, raised in enumerate(_NO_EXCEPTIONS, start=1):
        error = errors[number]
        assert type(error) is CallAbortedError
        assert (error.call, type(error.__cause__)) == ("fail_with", type(raised))
        assert str(raised) in str(error)
        assert f"aborted by {type(raised).__name__}" in str(error)
        assert "fail_with" in "".join(traceback.format_exception(error))
    assert cast("SystemExit", errors[1].__cause__).code == 7
    journal.assert_every_call_ended_once()


def test_what_is_no_exception_is_raised_as_one_where_the_call_is_awaited(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.fail_with)
    caught: list[str] = []

    @scheduler.on_start
    async def wait_for_it() -> None:
        try:
            await task(SystemExit("missing"))
        except Exception as error:
            caught.append(str(error))

    assert scheduler.run().code is Code.EXHAUSTED
    assert caught == ["fail_with was aborted by SystemExit: missing"]


def test_a_call_that_returns_what_has_not_run_fails(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.not_run)
    kinds = ["generator", "coroutine", "async generator"]
    errors: list[BaseException] = []
    task.on_exception(lambda _, error: errors.append(error))
    scheduler.on_start(lambda: [task.submit(kind) for kind in kinds])
    scheduler.run(on_exception="continue", order="submission")
    for kind, error in zip(kinds, errors, strict=True):
        assert isinstance(error, TypeError)
        assert re.search(rf"not_run.* an? {kind}, and nothing of it has run: r", str(error))


def test_a_call_that_raises_the_cancelled_error_of_futures_is_not_cancelled(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.fail_with)
    scheduler.on_start(lambda: task.submit(CancelledError("by the function")))
    assert scheduler.run(on_exception="continue").code is Code.EXHAUSTED
    assert (task.on_exception.count, task.on_cancelled.count) == (1, 0)


def test_a_call_that_raises_stop_iteration_does_not_hang_the_run(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.fail_with)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: task.submit(StopIteration("no more")))
    with pytest.raises((RuntimeError, StopIteration)):
        scheduler.run()
    journal.assert_every_call_ended_once()
    assert journal.counts["task on_exception"] == 1


@pytest.mark.parametrize("mode", ["raise", "end", "continue"])
def test_a_call_cancelled_during_the_run_follows_on_cancelled(scheduler: Scheduler, mode: Any) -> None:
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)

    @scheduler.on_start
    def cancel_the_last() -> None:
        futures = [task.submit(number) for number in range(50)]
        assert futures[-1] is not None
        futures[-1].cancel()

    if mode == "raise":
        with pytest.raises(CancelledError):
            scheduler.run(on_cancelled=mode)
    else:
        state = scheduler.run(on_cancelled=mode)
        assert state.code is (Code.CANCELLED if mode == "end" else Code.EXHAUSTED)
        assert isinstance(state.exception, CancelledError if mode == "end" else type(None))
    assert journal.counts["on_stop"] == (mode != "continue")
    journal.assert_every_call_ended_once()


def test_an_exception_of_a_callback_names_callback_event_and_call(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    told: list[str] = []

    @task.on_result
    def plot_it(future: object, result: object) -> None:
        raise RuntimeError("no display")

    task.on_result(lambda *_: told.append("the other callback"))
    scheduler.on_start(lambda: task.submit(1))
    with pytest.raises(RuntimeError, match="no display") as caught:
        scheduler.run()
    (note,) = caught.value.__notes__
    assert "plot_it" in note
    assert "on_result" in note
    assert "call 1 of double" in note
    assert told == ["the other callback"]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_an_exception_of_a_callback_follows_on_exception(scheduler: Scheduler, is_async: bool) -> None:
    task = scheduler.task(calls.double)

    def fails(*_: object) -> None:
        raise KeyError("lost")

    async def fails_later(*_: object) -> None:
        await asyncio.sleep(0)
        raise KeyError("lost")

    task.on_result(fails_later if is_async else fails)
    scheduler.on_start(lambda: [task.submit(number) for number in range(3)])

    with pytest.raises(KeyError, match="lost") as caught:
        scheduler.run()
    assert "fails" in caught.value.__notes__[0]
    assert scheduler.run(on_exception="end").code is Code.EXCEPTION
    assert scheduler.run(on_exception={KeyError: "continue"}) == ExitState(Code.EXHAUSTED)
    assert task.event_counts[task.RESULT] == 3


def test_a_keyboard_interrupt_in_a_callback_cancels_what_runs(concurrent_backend: Backend, gate: Gate) -> None:
    scheduler = concurrent_backend.scheduler()
    task = scheduler.task(calls.until_released)
    journal = Journal(scheduler, task)

    @scheduler.on_start
    async def interrupt() -> None:
        for number in range(5):
            gate.submit(task, number)
        await _exists(gate.started(0))
        scheduler.call_later(0, _raise, KeyboardInterrupt())

    scheduler.on_finished(gate.open)
    with pytest.raises(KeyboardInterrupt):
        scheduler.run()
    journal.assert_every_call_ended_once()
    assert journal.counts["task on_cancelled"] == 5
    assert journal.of_the_run == ["on_start", "on_stop", "on_finishing", "on_finished"]


# Where submissions are refused


def test_submission_outside_a_run_is_refused(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    for _ in range(2):
        with pytest.raises(SchedulerNotRunningError, match="double"):
            task.submit(1)
        with pytest.raises(SchedulerNotRunningError, match="double"):
            scheduler.submit(calls.double, 1)
        with pytest.raises(SchedulerNotRunningError):
            scheduler.call_later(0, print)
        scheduler.run()


def test_a_late_submission_by_a_callback_is_refused_but_is_no_failure(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    refused: list[bool] = []

    def submit(*_: object) -> None:
        try:
            task.submit(1)
        except SchedulerNotRunningError:
            refused.append(True)
            raise

    scheduler.on_start(lambda: [task.submit(number) for number in range(10)])
    task.on_result(scheduler.stop)
    for subscriber in (scheduler.on_stop, scheduler.on_finishing, scheduler.on_finished, task.on_cancelled):
        subscriber(submit)
    assert scheduler.run() == ExitState(Code.STOPPED)
    assert len(refused) >= 3


def test_a_running_scheduler_cannot_be_run(scheduler: Scheduler) -> None:
    errors: list[str] = []

    @scheduler.on_start
    async def run_again() -> None:
        for run in (scheduler.run, scheduler.async_run):
            try:
                outcome = run()
                if asyncio.iscoroutine(outcome):
                    await outcome
            except RuntimeError as error:
                errors.append(str(error))

    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert len(errors) == 2
    assert all("already running" in error for error in errors)


def test_run_inside_a_loop_says_to_await_async_run(scheduler: Scheduler) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="async_run"):
            scheduler.run()
        assert await scheduler.async_run() == ExitState(Code.EXHAUSTED)

    asyncio.run(main())


# Running again


def test_what_the_caller_keeps_with_a_call_is_there_in_every_callback(
    backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    scheduler = shared_scheduler(backend)
    task = scheduler.task(calls.double_unless_three, plugins=Retry(2, backoff=0))
    seen: dict[int, set[str]] = {}

    def note(future: Future[Any], *_: Any) -> None:
        seen.setdefault(future.context, set()).add(str(future.attempt))

    for event in (task.on_submitted, task.on_done, task.on_result, task.on_exception, task.on_cancelled, task.on_retry):
        event.register(note)

    @scheduler.on_start
    def start() -> None:
        for number in (2, 3, 4):
            future = task.submit(number)
            assert future is not None
            assert future.context is None
            future.context = number
            if number == 4:
                future.cancel()

    scheduler.run(on_exception="continue", on_cancelled="continue")
    assert seen == {2: {"1"}, 3: {"1", "2"}, 4: {"1"}}


def test_a_scheduler_can_be_run_again(backend: Backend, shared_scheduler: MakesScheduler) -> None:
    scheduler = shared_scheduler(backend)
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [task.submit(number) for number in range(3)])
    scheduler.run()
    first, journal.lines = sorted(journal.lines), []
    scheduler.run()
    assert sorted(journal.lines) == first


def test_a_scheduler_can_be_run_again_after_a_run_that_did_not_wait(concurrent_backend: Backend, gate: Gate) -> None:
    scheduler = concurrent_backend.scheduler()
    blocked = scheduler.task(calls.until_released)
    task = scheduler.task(calls.double)
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [gate.submit(blocked, number) for number in range(5)], max_calls=1)
    scheduler.on_finished(gate.open)
    assert scheduler.run(timeout=0.3, wait=False).code is Code.TIMEOUT

    scheduler.on_start(lambda: task.submit(1))
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert results == [2]
    assert blocked.event_counts[blocked.SUBMITTED] == blocked.event_counts[blocked.RESULT] == 0


def test_a_run_leaves_no_handler_and_no_task_behind(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    scheduler.on_start(lambda: task.submit(1))
    emitters = (scheduler, task)

    def handlers() -> int:
        return sum(len(emitter.subscriber(event).handlers) for emitter in emitters for event in emitter.events)

    async def main() -> None:
        former = handlers(), asyncio.get_running_loop().get_task_factory(), signal.getsignal(signal.SIGINT)
        for _ in range(3):
            await scheduler.async_run()
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert (handlers(), asyncio.get_running_loop().get_task_factory(), signal.getsignal(signal.SIGINT)) == former

    asyncio.run(main())


def test_a_with_block_keeps_the_workers_over_runs(fixed_backend: Backend) -> None:
    workers: list[set[tuple[int, int]]] = []
    with fixed_backend.scheduler() as scheduler:
        task = scheduler.task(calls.where)
        task.on_result(lambda _, worker: workers[-1].add(worker))
        scheduler.on_start(lambda: [task.submit() for _ in range(20)])
        for _ in range(2):
            workers.append(set())
            scheduler.run()
        executor = scheduler.executor
    assert 1 <= len(workers[0] | workers[1]) <= fixed_backend.workers
    with pytest.raises(RuntimeError):
        executor.submit(calls.double, 1)


def test_an_executor_of_the_scheduler_is_shut_down_after_the_run(backend: Backend) -> None:
    scheduler = backend.with_one_worker().scheduler()
    executor = scheduler.executor
    scheduler.on_start(lambda: scheduler.submit(calls.double, 1))
    scheduler.run()
    with pytest.raises(RuntimeError):
        executor.submit(calls.double, 1)


def test_an_executor_that_is_given_is_left_open(backend: Backend) -> None:
    with backend.with_one_worker().scheduler().executor as executor:
        for _ in range(2):
            scheduler = Scheduler(executor)
            scheduler.on_start(lambda scheduler=scheduler: scheduler.submit(calls.double, 1))
            scheduler.run()
            assert scheduler.event_counts[Scheduler.FUTURE_RESULT] == 1
        assert executor.submit(calls.double, 4).result(45) == 8


def test_two_schedulers_made_the_same_way_do_not_disturb_each_other(backend: Backend) -> None:
    both = [backend.with_one_worker().scheduler() for _ in range(2)]
    for scheduler in both:
        scheduler.on_start(lambda scheduler=scheduler: scheduler.submit(calls.double, 1))
    assert [scheduler.run() for scheduler in both] == [ExitState(Code.EXHAUSTED)] * 2


def test_a_scheduler_can_run_inside_a_callback_of_another(backend: Backend) -> None:
    outer, inner = (backend.with_one_worker().scheduler() for _ in range(2))
    results: list[int] = []

    @outer.on_future_result
    async def run_the_inner(_: object, result: int) -> None:
        inner.on_start(lambda: inner.submit(calls.double, result))
        inner.on_future_result(lambda _, result: results.append(result))
        await inner.async_run()

    outer.on_start(lambda: outer.submit(calls.double, 1))
    assert outer.run() == ExitState(Code.EXHAUSTED)
    assert results == [4]


# Async callbacks, and awaiting calls


def test_a_run_does_not_end_before_its_async_callbacks(scheduler: Scheduler) -> None:
    told: list[str] = []
    task = scheduler.task(calls.double)

    async def slowly(name: str, *_: object) -> None:
        for _turn in range(5):
            await asyncio.sleep(0.001)
        told.append(name)

    for name in ("on_start", "on_empty", "on_finishing", "on_finished"):
        getattr(scheduler, name)(partial(slowly, name))
    task.on_result(partial(slowly, "on_result"))
    scheduler.on_start(lambda: task.submit(1))
    scheduler.run()
    assert sorted(told) == ["on_empty", "on_finished", "on_finishing", "on_result", "on_start"]
    assert told[-1] == "on_finished"


def test_a_call_can_be_awaited_in_an_async_callback(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    results: list[int] = []

    @scheduler.on_start
    async def search() -> None:
        value = 1
        for _ in range(3):
            value = await task(value)
        results.append(value)

    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert results == [8]


@pytest.mark.parametrize("how", ["await", "gather", "wait_for"])
def test_an_exception_of_a_call_that_is_awaited_goes_to_the_awaiter(scheduler: Scheduler, how: str) -> None:
    task = scheduler.task(calls.fail)
    told: list[str] = []
    task.on_exception(lambda _, error: told.append(f"event: {error}"))

    @scheduler.on_start
    async def try_it() -> None:
        try:
            if how == "await":
                await task("no luck")
            elif how == "gather":
                await asyncio.gather(task("no luck"))
            else:
                await asyncio.wait_for(task("no luck"), 45)
        except ValueError as error:
            told.append(f"awaiter: {error}")

    assert scheduler.run(on_exception="raise") == ExitState(Code.EXHAUSTED)
    assert told == ["event: no luck", "awaiter: no luck"]


def test_a_call_can_be_awaited_beside_async_run(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)

    async def main() -> list[int]:
        running = asyncio.create_task(scheduler.async_run(end_on_empty=False))
        while not scheduler.running():
            await asyncio.sleep(0)
        results = await asyncio.gather(*(task(number) for number in range(5)))
        scheduler.stop()
        assert await running == ExitState(Code.STOPPED)
        return results

    assert asyncio.run(main()) == [0, 2, 4, 6, 8]


def test_cancelling_async_run_leaves_nothing_behind(concurrent_backend: Backend, gate: Gate) -> None:
    scheduler = concurrent_backend.scheduler()
    task = scheduler.task(calls.until_released)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [gate.submit(task, number) for number in range(5)])
    scheduler.on_finished(gate.open)

    async def main() -> None:
        running = asyncio.create_task(scheduler.async_run())
        await _exists(gate.started(0))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    journal.assert_every_call_ended_once()
    assert journal.counts["task on_cancelled"] == 5
    assert not scheduler.running()


# Cancelling calls that run


def test_cancelling_a_running_call_ends_it_and_the_others_go_on(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler, gate: Gate
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(calls.until_released)
    journal = Journal(scheduler, task)

    @scheduler.on_start
    async def cancel_one() -> None:
        first, _second = gate.submit(task, 1), gate.submit(task, 2)
        await _all_started(gate.started(1), gate.started(2))
        assert first.running()
        assert first.cancel()
        assert not first.cancel()
        assert first.cancelled()

    task.on_cancelled(gate.open)
    assert scheduler.run(on_cancelled="continue") == ExitState(Code.EXHAUSTED)
    journal.assert_every_call_ended_once()
    assert journal.of_call(1)[-1] == "task on_cancelled"
    assert journal.of_call(2)[-1] == "task on_result"


def test_cancelling_a_call_that_has_ended_changes_nothing(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)
    answers: list[bool] = []
    task.on_result(lambda future, _: answers.append(future.cancel()))
    scheduler.on_start(lambda: task.submit(1))
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert answers == [False]
    assert journal.counts["task on_cancelled"] == 0


# order="submission"


def test_in_order_of_submission_results_wait_for_those_before(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler, tmp_path: Path
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(calls.until_released)
    journal = Journal(scheduler, task)

    @scheduler.on_start
    async def release_the_second_first() -> None:
        task.submit(tmp_path / "started-1", tmp_path / "release-1")
        task.submit(tmp_path / "started-2", tmp_path / "release-2", ended=tmp_path / "ended-2")
        await _all_started(tmp_path / "started-1", tmp_path / "started-2")
        (tmp_path / "release-2").touch()
        await _exists(tmp_path / "ended-2")
        (tmp_path / "release-1").touch()

    scheduler.run(order="submission")
    assert [line for line in journal.lines if line.startswith("task on_result")] == [
        "task on_result 1",
        "task on_result 2",
    ]


def _decisions(scheduler: Scheduler, in_flight: int) -> list[int]:
    """A seeded search: what it submits depends on the results so far, in the order in which they are told."""
    rng = random.Random(0)
    task = scheduler.task(calls.double_after_jitter)
    decisions: list[int] = []
    state = 0

    def submit() -> None:
        if len(decisions) < 60:
            decisions.append(rng.randrange(100) + state)
            task.submit(decisions[-1])

    @task.on_result
    def decide(_: object, result: int) -> None:
        nonlocal state
        state = (state * 31 + result) % 1009
        submit()

    scheduler.on_start(lambda: [submit() for _ in range(in_flight)])
    scheduler.run(order="submission")
    return decisions


def test_in_order_of_submission_a_seeded_search_decides_the_same_everywhere(scheduler: Scheduler) -> None:
    assert _decisions(scheduler, 4) == _decisions(Scheduler.with_sequential(), 4)


@pytest.mark.parametrize("ending", ["stop", "timeout", "timeout without wait", "exception", "cancel"])
def test_in_order_of_submission_every_call_ends_once_however_the_run_ends(scheduler: Scheduler, ending: str) -> None:
    task = scheduler.task(calls.double_after_jitter)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [task.submit(number) for number in range(30)])
    task.on_result(lambda *_: task.submit(0))

    @task.on_result(every=10)
    def end(future: Future[int], _: object) -> None:
        if ending == "stop":
            scheduler.stop()
        elif ending == "exception":
            raise ValueError
        elif ending == "cancel":
            for future in scheduler.queue:
                future.cancel()

    options: dict[str, Any] = {"timeout": 0.1, "wait": ending != "timeout without wait"} if "timeout" in ending else {}
    scheduler.run(order="submission", on_exception="end", on_cancelled="end", **options)
    journal.assert_every_call_ended_once()
    ended = [line for line in journal.lines if line.startswith(("task on_result", "task on_cancelled"))]
    numbers = [int(line.rpartition(" ")[2]) for line in ended]
    assert numbers == sorted(numbers)


# What crosses between processes


def test_arguments_are_neither_compared_nor_shown_nor_taken_as_a_truth_value(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.give_back)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [task.submit(calls.Awkward()), task.submit(value=calls.Awkward())])
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert journal.counts["task on_result"] == 2


def test_an_argument_that_cannot_be_sent_is_named_where_it_is_submitted(
    pickling_backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    scheduler = shared_scheduler(pickling_backend)
    task = scheduler.task(calls.give_back)
    journal = Journal(scheduler, task)
    messages: list[str] = []

    @scheduler.on_start
    def submit() -> None:
        with pytest.raises(NotPicklableError) as caught:
            task.submit(value=threading.Lock())
        messages.append(str(caught.value))
        task.submit(1)

    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert "give_back" in messages[0]
    assert "'value'" in messages[0]
    assert journal.counts["task on_result"] == journal.counts["task on_submitted"] == 1
    journal.assert_every_call_ended_once()


def test_a_function_may_run_a_loop_of_its_own(scheduler: Scheduler) -> None:
    results: list[int] = []
    scheduler.on_future_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: scheduler.submit(calls.use_asyncio, 1))
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert results == [2]


def test_an_exception_of_an_awkward_class_is_one_of_its_call_alone(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.fail_awkwardly)
    journal = Journal(scheduler, task)
    errors: list[str] = []
    task.on_exception(lambda _, error: errors.append(str(error)))
    scheduler.on_start(lambda: [task.submit(), *(scheduler.submit(calls.double, number) for number in range(5))])
    assert scheduler.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    assert len(errors) == 1
    assert "left and right" in errors[0]
    assert journal.counts["on_future_result"] == 5
    journal.assert_every_call_ended_once()


def test_a_result_that_cannot_be_sent_is_an_exception_of_its_call(
    pickling_backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    scheduler = shared_scheduler(pickling_backend)
    task = scheduler.task(calls.unsendable)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [task.submit(), scheduler.submit(calls.double, 1)])
    assert scheduler.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    assert journal.of_call(1)[-1] == "task on_exception"
    assert journal.of_call(2)[-1] == "on_future_result"


def test_a_worker_that_dies_hangs_nothing_and_the_scheduler_can_be_run_again(pickling_backend: Backend) -> None:
    scheduler = pickling_backend.scheduler()
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [task.submit(1), scheduler.submit(calls.end_by_signal, signal.SIGKILL)], max_calls=1)
    assert scheduler.run(on_exception="continue").code is Code.EXHAUSTED
    assert journal.of_call(2)[-1] == "on_future_exception"
    journal.assert_every_call_ended_once()

    scheduler.on_start(lambda: task.submit(2))
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert task.event_counts[task.RESULT] == 1


def test_a_worker_that_dies_takes_only_its_own_call_with_it(robust_backend: Backend, gate: Gate) -> None:
    scheduler = robust_backend.scheduler()
    assert robust_backend.workers > 1
    innocent, victim = scheduler.task(calls.until_released), scheduler.task(calls.end_by_signal, retries_on_loss=0)
    journal = Journal(scheduler, innocent, victim)
    errors: list[BaseException] = []
    victim.on_exception(lambda _, error: errors.append(error))
    victim.on_done(gate.open)

    @scheduler.on_start
    async def kill_one_worker() -> None:
        for number in range(6):
            gate.submit(innocent, number)
            await _exists(gate.started(0))
            if number == 0:
                victim.submit(signal.SIGKILL)

    assert scheduler.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    journal.assert_every_call_ended_once()
    assert journal.counts["task on_result"] == 6
    assert isinstance(errors[0], WorkerLostError)
    assert ("SIGKILL" in str(errors[0])) == robust_backend.names_signals


def _raise(error: BaseException) -> None:
    raise error


def _stack_depth() -> int:
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth
