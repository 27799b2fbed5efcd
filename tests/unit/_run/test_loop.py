"""The run loop, over an executor whose calls the test ends by hand."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import traceback
import weakref
from concurrent.futures import CancelledError, Executor, Future
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import CallAbortedError, Event, ExitState, Scheduler
from tests.backends import ByHand
from tests.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from amlsched import Task

Code = ExitState.Code


class Immediate(Executor):
    """Its futures are done when `submit` returns them, though it declares nothing."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        work: Future[Any] = Future()
        work.set_result(fn(*args, **kwargs))
        return work


@pytest.fixture
def task(scheduler: Scheduler) -> Task[[int], int]:
    return scheduler.task(abs)


# Completions


def test_submitted_is_told_before_a_result_that_was_there_at_once() -> None:
    scheduler = Scheduler(Immediate())
    task = scheduler.task(abs)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [task.submit(-1), task.submit(-2)])
    scheduler.run()
    for number in (1, 2):
        told = journal.of_call(number)
        assert told.index("task on_submitted") < told.index("on_future_done")
    journal.assert_every_call_ended_once()


def test_results_are_told_in_the_order_in_which_they_came(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int]
) -> None:
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))

    @scheduler.on_start
    async def finish_backwards() -> None:
        for number in range(5):
            task.submit(number)
        for index in reversed(range(5)):
            executor.finish(index, index)

    scheduler.run()
    assert results == [4, 3, 2, 1, 0]


def test_many_completions_of_another_thread_wake_the_loop_once(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wakes = 0
    write = os.eventfd_write

    def counted(descriptor: int, value: int) -> None:
        nonlocal wakes
        wakes += 1
        write(descriptor, value)

    monkeypatch.setattr(os, "eventfd_write", counted)
    scheduler.on_start(lambda: [task.submit(number) for number in range(500)])

    @scheduler.on_start
    async def finish_elsewhere() -> None:
        await asyncio.sleep(0.01)  # the loop has nothing to do now
        thread = threading.Thread(target=lambda: [executor.finish(index) for index in range(500)])
        thread.start()
        thread.join()  # the loop's thread is busy while they arrive

    scheduler.run()
    assert task.event_counts[task.RESULT] == 500
    assert wakes == 1


def test_completions_from_many_threads_are_all_told(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int]
) -> None:
    journal = Journal(scheduler, task)
    per_thread, n_threads = 300, 4
    scheduler.on_start(lambda: [task.submit(number) for number in range(per_thread * n_threads)])

    def finish(first: int) -> None:
        for index in range(first, per_thread * n_threads, n_threads):
            executor.finish(index)

    threads = [threading.Thread(target=finish, args=(first,)) for first in range(n_threads)]
    scheduler.on_start(lambda: [thread.start() for thread in threads])
    scheduler.run()
    for thread in threads:
        thread.join()
    assert journal.counts["task on_result"] == per_thread * n_threads
    journal.assert_every_call_ended_once()


def test_what_a_completion_costs_does_not_depend_on_the_length_of_the_queue() -> None:
    def cost(queued: int) -> int:
        """Functions entered and C functions called for the last 20 of the queue, which finish in any order."""
        executor = ByHand()
        scheduler = Scheduler(executor)
        task = scheduler.task(abs)
        told = entered = 0

        def count(_frame: Any, event: str, _arg: Any) -> None:
            nonlocal entered
            entered += event in ("call", "c_call")

        @task.on_result
        def last(*_: object) -> None:
            nonlocal told
            told += 1
            if told == 20:
                sys.setprofile(None)
                scheduler.stop()

        @scheduler.on_start
        async def finish_some() -> None:
            for number in range(queued):
                task.submit(number)
            await asyncio.sleep(0.01)
            sys.setprofile(count)
            for index in range(queued - 1, queued - 21, -1):
                executor.finish(index)

        scheduler.run()
        return entered

    assert cost(2000) < 1.5 * cost(20)


def test_a_call_that_its_executor_cancelled_is_told_as_cancelled(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int]
) -> None:
    journal = Journal(scheduler, task)

    @scheduler.on_start
    async def cancel_behind_its_back() -> None:
        future = task.submit(1)
        executor.calls[0][0].cancel()
        executor.calls[0][0].set_running_or_notify_cancel()
        assert future is not None
        await asyncio.wait([future])

    scheduler.run(on_cancelled="continue")
    assert journal.of_call(1)[-1] == "task on_cancelled"
    journal.assert_every_call_ended_once()


def test_a_result_that_comes_after_its_call_was_cancelled_is_dropped_but_waited_for(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int]
) -> None:
    journal = Journal(scheduler, task)

    @scheduler.on_start
    async def cancel_what_runs() -> None:
        future = task.submit(1)
        executor.start(0)
        assert future is not None
        assert future.cancel()
        scheduler.call_later(0.02, lambda: (journal.lines.append("returned"), executor.finish(0, 1)))

    assert scheduler.run(on_cancelled="continue") == ExitState(Code.EXHAUSTED)
    assert journal.lines.index("returned") < journal.lines.index("on_finishing")
    assert journal.of_call(1)[-1] == "task on_cancelled"
    journal.assert_every_call_ended_once()


def test_a_result_that_comes_after_the_run_changes_nothing(executor: ByHand) -> None:
    scheduler = Scheduler(executor, terminate=False)
    task = scheduler.task(abs)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: (task.submit(1), executor.start(0)), max_calls=1)
    assert scheduler.run(timeout=0.01, wait=False) == ExitState(Code.TIMEOUT)
    former, journal.lines = journal.lines, []

    scheduler.on_start(lambda: executor.finish(0, "late"))
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert former[-3:] == ["on_future_cancelled 1", "task on_cancelled 1", "on_finished"]
    assert journal.lines == ["on_start", "on_empty", "on_finishing", "on_finished"]


def test_a_refusal_of_the_executor_is_raised_where_it_is_submitted_and_counts_nothing(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int]
) -> None:
    executor.shutdown()
    journal = Journal(scheduler, task)

    @scheduler.on_start
    def submit() -> None:
        with pytest.raises(RuntimeError, match="after shutdown"):
            task.submit(1)

    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert journal.lines == ["on_start", "on_empty", "on_finishing", "on_finished"]
    assert task.n_running == 0


def test_after_a_run_nothing_keeps_the_calls_alive(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int]
) -> None:
    kept: list[weakref.ref[Any]] = []

    @scheduler.on_start
    async def run_some() -> None:
        for number in range(3):
            kept.append(weakref.ref(task.submit(number)))
            executor.finish(number, number)

    gc.disable()
    try:
        scheduler.run()
        executor.calls.clear()
        assert [reference() for reference in kept] == [None, None, None]
    finally:
        gc.enable()


# Ends


@pytest.mark.parametrize("wait", [True, False])
def test_calls_that_the_executor_has_not_started_are_cancelled_at_the_end(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int], wait: bool
) -> None:
    journal = Journal(scheduler, task)

    @scheduler.on_start
    async def stop_early() -> None:
        task.submit(1)
        task.submit(2)
        executor.start(0)
        scheduler.stop()

    scheduler.on_finishing(lambda: wait and executor.finish(0, 1))
    assert scheduler.run(wait=wait) == ExitState(Code.STOPPED)
    assert journal.of_call(1)[-1] == ("task on_result" if wait else "task on_cancelled")
    assert journal.of_call(2)[-1] == "task on_cancelled"
    journal.assert_every_call_ended_once()


def test_the_first_reason_stands(scheduler: Scheduler) -> None:
    heard: list[str] = []
    scheduler.on_stop(lambda msg, _: heard.append(msg))
    scheduler.on_start(lambda: [scheduler.stop(stop_msg="first"), scheduler.stop(stop_msg="second")])
    assert scheduler.run(timeout=0) == ExitState(Code.STOPPED)
    assert heard == ["first"]


def test_an_exception_is_not_lost_to_a_stop(scheduler: Scheduler, executor: ByHand, task: Task[[int], int]) -> None:
    @scheduler.on_start
    async def stop_then_fail() -> None:
        task.submit(1)
        executor.start(0)
        scheduler.stop()
        executor.fail(0, ValueError("no luck"))

    with pytest.raises(ValueError, match="no luck"):
        scheduler.run()


def test_a_keyboard_interrupt_is_not_lost_to_an_exception_that_came_first(scheduler: Scheduler) -> None:
    @scheduler.on_start
    def fail() -> None:
        raise ValueError

    @scheduler.on_stop
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scheduler.run(on_exception="end")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_an_interrupt_of_a_callback_ends_the_run_in_good_order(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int], kind: type[BaseException], is_async: bool
) -> None:
    journal = Journal(scheduler, task)

    def interrupt(*_: object) -> None:
        executor.start(0)
        raise kind

    async def interrupt_later(*_: object) -> None:
        await asyncio.sleep(0)
        interrupt()

    task.on_submitted(interrupt_later if is_async else interrupt, max_calls=1)
    scheduler.on_start(lambda: [task.submit(1), task.submit(2)])
    with pytest.raises(kind):
        scheduler.run(on_exception="continue")
    assert journal.of_the_run == ["on_start", "on_stop", "on_finishing", "on_finished"]
    assert journal.counts["task on_cancelled"] == 2
    journal.assert_every_call_ended_once()
    assert not scheduler.running()


def test_an_exception_of_a_callback_under_continue_is_logged(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.on_start(lambda: {}["lost"])
    assert scheduler.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_an_exception_that_run_raises_is_logged_nowhere_else(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    scheduler.on_start(lambda: {}["lost"])
    with pytest.raises(KeyError):
        scheduler.run()
    gc.collect()
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []
    assert capfd.readouterr() == ("", "")


def test_the_trace_of_a_callback_is_short_and_names_what_failed(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int]
) -> None:
    def plot(future: object, result: object) -> None:
        raise RuntimeError("no display")

    task.on_result(plot)
    scheduler.on_start(lambda: (task.submit(1), executor.finish(0, 1)))
    with pytest.raises(RuntimeError, match="no display") as caught:
        scheduler.run()
    assert caught.value.__context__ is None
    trace = "".join(traceback.format_exception(caught.value)).splitlines()
    assert len(trace) < 35, "\n".join(trace)
    assert "plot" in trace[-1]
    assert "of event on_result of task abs" in trace[-1]
    assert "<call 1 of abs, finished>" in trace[-1]


def test_an_exception_that_takes_no_notes_is_still_the_one_that_is_raised(scheduler: Scheduler) -> None:
    class Frozen(Exception):
        def add_note(self, note: str) -> None:
            raise AttributeError("cannot assign to field '__notes__'")  # as a frozen dataclass does

    told: list[str] = []

    def fail() -> None:
        raise Frozen

    scheduler.on_start(fail)
    scheduler.on_start(lambda: told.append("the other callback"))
    with pytest.raises(Frozen):
        scheduler.run()
    assert told == ["the other callback"]


def test_an_exception_of_when_is_treated_as_one_of_its_callback(scheduler: Scheduler) -> None:
    scheduler.on_start(lambda: None, when=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        scheduler.run()
    assert "on_start" in caught.value.__notes__[0]


@pytest.mark.parametrize(("terminate", "expected"), [(True, True), (False, False)])
def test_terminate_says_whether_a_given_executor_is_ended_when_calls_are_not_waited_for(
    terminate: bool, expected: bool
) -> None:
    executor = ByHand()
    scheduler = Scheduler(executor, terminate=terminate)
    scheduler.on_start(lambda: (scheduler.submit(abs, 1), executor.start(0)))
    scheduler.run(timeout=0.01, wait=False)
    assert executor.shut_down is expected


def test_terminate_may_be_a_function_of_the_executor(executor: ByHand) -> None:
    ended: list[Executor] = []
    scheduler = Scheduler(executor, terminate=ended.append)
    scheduler.on_start(lambda: (scheduler.submit(abs, 1), executor.start(0)))
    scheduler.run(timeout=0.01, wait=False)
    assert ended == [executor]
    assert not executor.shut_down


def test_async_callbacks_are_cancelled_when_the_run_does_not_wait(scheduler: Scheduler) -> None:
    told: list[str] = []

    @scheduler.on_start
    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    assert scheduler.run(timeout=0.01, wait=False) == ExitState(Code.TIMEOUT)
    assert told == ["cancelled"]


def test_a_cancelled_call_is_a_cancelled_error_for_who_awaits_it(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int]
) -> None:
    told: list[str] = []

    @scheduler.on_start
    async def await_it() -> None:
        future = task(1)
        scheduler.call_later(0, future.cancel)
        try:
            await future
        except asyncio.CancelledError:
            told.append("cancelled")

    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert told == ["cancelled"]


# Timers


@pytest.mark.parametrize(
    ("on_exception", "code"),
    [
        ("raise", None),
        ("end", Code.EXCEPTION),
        ({CallAbortedError: "continue"}, Code.EXHAUSTED),
        ({ValueError: "continue"}, None),
    ],
    ids=str,
)
def test_the_policy_decides_on_what_is_no_exception(on_exception: Any, code: Any) -> None:
    scheduler = Scheduler.with_sequential()
    scheduler.on_start(lambda: scheduler.submit(sys.exit, "missing"))
    if code is None:
        with pytest.raises(CallAbortedError, match="exit was aborted by SystemExit: missing"):
            scheduler.run(on_exception=on_exception)
    else:
        assert scheduler.run(on_exception=on_exception).code is code


def test_call_later_runs_an_async_function(scheduler: Scheduler) -> None:
    told: list[str] = []

    async def later(word: str) -> None:
        await asyncio.sleep(0)
        told.append(word)

    scheduler.on_start(lambda: scheduler.call_later(0.0, later, "soon"))
    scheduler.on_start(lambda: scheduler.call_later(0.02, scheduler.stop))
    scheduler.run(end_on_empty=False)
    assert told == ["soon"]


def test_call_later_calls_back_between_other_callbacks(scheduler: Scheduler) -> None:
    told: list[str] = []

    @scheduler.on_start
    def start() -> None:
        scheduler.call_later(0.02, told.append, "later")
        scheduler.call_later(0.0, told.append, "soon")
        scheduler.call_later(0.01, told.append, "never").cancel()
        told.append("start")

    scheduler.on_start(lambda: scheduler.call_later(0.03, scheduler.stop))
    assert scheduler.run(end_on_empty=False) == ExitState(Code.STOPPED)
    assert told == ["start", "soon", "later"]


def test_an_exception_of_a_function_called_later_follows_on_exception(scheduler: Scheduler) -> None:
    def fail() -> None:
        raise ValueError("too late")

    scheduler.on_start(lambda: scheduler.call_later(0, fail))
    with pytest.raises(ValueError, match="too late"):
        scheduler.run(end_on_empty=False, timeout=20)
    assert scheduler.run(end_on_empty=False, timeout=20, on_exception="end").code is Code.EXCEPTION


def test_a_timer_of_one_run_does_nothing_in_the_next(scheduler: Scheduler) -> None:
    told: list[str] = []

    async def main() -> None:
        scheduler.on_start(lambda: scheduler.call_later(0.01, told.append, "from the first run"), max_calls=1)
        await scheduler.async_run()
        await scheduler.async_run(end_on_empty=False, timeout=0.05)
        await asyncio.sleep(0.02)

    asyncio.run(main())
    assert told == []


# Events of the user


def test_an_event_emitted_in_a_callback_is_told_after_it(scheduler: Scheduler, task: Task[[int], int]) -> None:
    told: list[str] = []
    event: Event[..., Any] = Event("progress")
    task.add_event(event)
    task.on(event, lambda *_: told.append("progress"))

    @scheduler.on_start
    def start() -> None:
        told.append("start begins")
        task.emit(event, 1)
        told.append("start ends")

    scheduler.run()
    assert told == ["start begins", "start ends", "progress"]


def test_an_event_is_told_at_once_outside_of_runs(scheduler: Scheduler, task: Task[[int], int]) -> None:
    told: list[str] = []
    event: Event[..., Any] = Event("progress")
    task.on(event, lambda: told.append("progress"))
    scheduler.run()
    task.emit(event)
    assert told == ["progress"]


def test_events_emitted_before_the_end_are_told_before_on_finished(
    scheduler: Scheduler, task: Task[[int], int]
) -> None:
    told: list[str] = []
    event: Event[..., Any] = Event("progress")
    task.on(event, lambda: told.append("progress"))
    scheduler.on_finishing(lambda: task.emit(event))
    scheduler.on_finished(lambda: told.append("finished"))
    scheduler.run()
    assert told == ["progress", "finished"]


# order="submission"


def test_in_order_of_submission_a_cancelled_call_is_told_in_its_turn(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int]
) -> None:
    journal = Journal(scheduler, task)

    @scheduler.on_start
    async def end_backwards() -> None:
        first, second, third = (task.submit(number) for number in range(3))
        assert first is not None
        assert second is not None
        executor.finish(2, "c")
        second.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not first.done()
        executor.finish(0, "a")

    scheduler.run(order="submission", on_cancelled="continue")
    assert [line for line in journal.lines if line.startswith(("task on_result", "task on_cancelled"))] == [
        "task on_result 1",
        "task on_cancelled 2",
        "task on_result 3",
    ]


@pytest.mark.parametrize("order", ["completion", "submission"])
def test_interrupting_a_run_with_results_at_hand_ends_every_call_once(
    scheduler: Scheduler, executor: ByHand, task: Task[[int], int], order: Any
) -> None:
    journal = Journal(scheduler, task)

    @scheduler.on_start
    async def end_backwards() -> None:
        for number in range(6):
            task.submit(number)
        for index in (5, 3, 4):
            executor.finish(index)
        executor.start(0)
        executor.fail(2, ValueError())
        await asyncio.sleep(0)

        def interrupt() -> None:
            raise KeyboardInterrupt

        scheduler.call_later(0, interrupt)

    with pytest.raises(KeyboardInterrupt):
        scheduler.run(order=order, on_exception="continue")
    journal.assert_every_call_ended_once()


def test_cancelled_error_of_the_standard_library_is_what_run_raises(
    scheduler: Scheduler, task: Task[[int], int]
) -> None:
    @scheduler.on_start
    def cancel_one() -> None:
        future = task.submit(1)
        assert future is not None
        future.cancel()

    with pytest.raises(CancelledError, match="call 1 of abs"):
        scheduler.run()
