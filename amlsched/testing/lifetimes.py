"""Checks of the states of calls, of done callbacks, and of the executor's shutdown."""

# ruff: noqa: D103 (the name of a check says what holds)

from __future__ import annotations

import concurrent.futures
import logging
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING

from amlsched.testing.stage import (
    check,
    echo,
    expect,
    expect_equal,
    expect_raises,
    sleep_and_return,
    something_new,
    touch,
)

if TYPE_CHECKING:
    from amlsched.testing.stage import Stage


@check(background=True)
def result_and_exception_keep_their_time_out(stage: Stage) -> None:
    with stage.executor() as executor:
        future = stage.block(executor)
        expect_raises(TimeoutError, lambda: future.result(0.05), "result with a time-out")
        expect_raises(TimeoutError, lambda: future.exception(0), "exception with a time-out")
        stage.gate.touch()
        expect(stage.result(future), "the call did not go on")


@check(background=True)
def a_future_tells_whether_it_is_pending_running_or_done(stage: Stage) -> None:
    with stage.executor() as executor:
        futures = stage.crowd(executor)
        expect(not futures[0].done(), "done() of a call that runs")
        last = futures[-1]
        expect(not last.running() and not last.done(), "running() or done() of a call that waits for a worker")
        stage.release(futures)
        for future in futures:
            expect(future.done() and not future.running() and not future.cancelled(), "state of a call that returned")


@check(background=True)
def a_call_that_waits_can_be_cancelled_and_never_runs(stage: Stage) -> None:
    with stage.executor() as executor:
        futures = stage.crowd(executor)
        trace = stage.folder / "ran"
        waiting = executor.submit(touch, str(trace))
        expect(waiting.cancel(), "cancel() of a call that waits for a worker")
        expect(waiting.cancelled() and waiting.done(), "state of a cancelled call")
        expect_raises(CancelledError, lambda: waiting.result(0), "result() of a cancelled call")
        stage.release(futures)
        expect_equal(stage.result(executor.submit(echo, 1)), 1, "result of a later call")
    # After the shutdown, which waits: with several workers, a later call can end before the cancelled one would begin.
    expect(not trace.exists(), "the cancelled call was run")


@check(background=True)
def cancelling_a_call_leaves_its_equal_twin_alone(stage: Stage) -> None:
    with stage.executor() as executor:
        stage.crowd(executor)
        first, second = executor.submit(something_new), executor.submit(something_new)
        expect(first.cancel(), "cancel() of a call that waits for a worker")
        stage.gate.touch()
        stage.wait(second, "the twin")
        expect(not second.cancelled(), "the twin was cancelled too")
        expect_equal(len(second.result(0)), 16, "result of the twin")


@check()
def a_call_that_ended_cannot_be_cancelled(stage: Stage) -> None:
    with stage.executor() as executor:
        future = executor.submit(echo, 1)
        stage.result(future)
        expect(not future.cancel() and not future.cancelled(), "cancel() of a finished call")
        expect_equal(future.result(0), 1, "its result afterwards")


@check()
def a_done_callback_is_called_once_with_the_future(stage: Stage) -> None:
    with stage.executor() as executor:
        future = executor.submit(sleep_and_return, 0.02, 1)
        early: list[Future[int]] = []
        late: list[Future[int]] = []
        future.add_done_callback(early.append)
        stage.result(future)
        stage.until(lambda: bool(early), "call of a done callback")
        future.add_done_callback(late.append)
        expect_equal(len(late), 1, "immediate calls of a callback that is added to a done future")
        stage.result(executor.submit(echo, 2))
        expect(len(early) == 1 and early[0] is future and late[0] is future, f"calls of the callback: {early}")


@check(background=True)
def a_done_callback_is_called_for_a_cancelled_call(stage: Stage) -> None:
    with stage.executor() as executor:
        waiting = stage.crowd(executor)[-1]
        done: list[Future[bool]] = []
        waiting.add_done_callback(done.append)
        expect(waiting.cancel(), "cancel() of a call that waits for a worker")
        stage.until(lambda: done == [waiting], "call of a done callback")


@check()
def an_exception_in_a_done_callback_is_harmless(stage: Stage) -> None:
    log = logging.getLogger("concurrent.futures")
    was, log.disabled = log.disabled, True  # it logs the exception, as it should
    try:
        with stage.executor() as executor:
            future = executor.submit(sleep_and_return, 0.02, 1)
            done: list[Future[int]] = []
            future.add_done_callback(lambda _: 1 // 0)
            future.add_done_callback(done.append)
            expect_equal(stage.result(future), 1, "result")
            stage.until(lambda: done == [future], "call of the callback after it")
            expect_equal(stage.result(executor.submit(echo, 2)), 2, "result of the next call")
    finally:
        log.disabled = was


@check()
def wait_and_as_completed_take_its_futures(stage: Stage) -> None:
    with stage.executor() as executor:
        futures = {executor.submit(echo, number) for number in range(10)}
        done, not_done = concurrent.futures.wait(futures, stage.timeout_s)
        expect(done == futures and not not_done, f"wait() left {len(not_done)} of 10 calls")
        completed = concurrent.futures.as_completed(futures, stage.timeout_s)
        expect_equal(sorted(stage.result(future) for future in completed), list(range(10)), "as_completed()")


@check()
def it_takes_no_call_after_its_shutdown(stage: Stage) -> None:
    with stage.executor() as executor:
        expect_equal(stage.result(executor.submit(echo, 1)), 1, "result before the shutdown")
        stage.soon("shutdown", executor.shutdown)
        expect_raises(RuntimeError, lambda: executor.submit(echo, 2), "submit after the shutdown")
        stage.soon("a second shutdown", executor.shutdown)


@check()
def as_a_context_manager_it_waits_and_is_shut_down(stage: Stage) -> None:
    executor = stage.make_executor()

    def use() -> list[Future[int]]:
        with executor as entered:
            expect(entered is executor, "the context manager does not return the executor")
            return [entered.submit(sleep_and_return, 0.02, number) for number in range(5)]

    futures = stage.soon("the context", use)
    expect(all(future.done() for future in futures), "calls had not finished after the context")
    expect_equal([future.result(0) for future in futures], list(range(5)), "results")
    expect_raises(RuntimeError, lambda: executor.submit(echo, 1), "submit after the context")


@check()
def shutdown_waits_for_the_calls(stage: Stage) -> None:
    with stage.executor() as executor:
        futures = [executor.submit(sleep_and_return, 0.02, number) for number in range(20)]
        stage.soon("shutdown(wait=True)", executor.shutdown)
        expect(all(future.done() for future in futures), "calls had not finished after shutdown(wait=True)")
        expect_equal([future.result(0) for future in futures], list(range(20)), "results")


@check(background=True)
def shutdown_without_waiting_returns_at_once_and_the_calls_go_on(stage: Stage) -> None:
    with stage.executor() as executor:
        futures = stage.crowd(executor)
        stage.soon("shutdown(wait=False)", lambda: executor.shutdown(wait=False))
        expect(not futures[-1].done(), "shutdown(wait=False) finished a waiting call")
        stage.release(futures)


@check(background=True)
def shutdown_can_cancel_the_calls_that_wait(stage: Stage) -> None:
    with stage.executor() as executor:
        futures = stage.crowd(executor)
        stage.soon("shutdown", lambda: executor.shutdown(wait=False, cancel_futures=True))
        stage.until(futures[-1].cancelled, "cancellation of a call that waits")
        stage.gate.touch()
        expect(stage.result(futures[0]), "the call that ran did not go on")
        stage.until(lambda: all(future.done() for future in futures), "end of every call")
