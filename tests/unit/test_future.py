"""The handle of a call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import ExitState, Future, Scheduler
from tests.backends import ByHand

if TYPE_CHECKING:
    from collections.abc import Callable


def _in_a_run(executor: ByHand, check: Callable[[Scheduler, Future[int]], object], **options: Any) -> ExitState:
    """Calls back with the future of one call, `abs(-1)`, in a run."""
    scheduler = Scheduler(executor)
    checked = False

    @scheduler.on_start
    async def start() -> None:
        nonlocal checked
        outcome = check(scheduler, scheduler.submit(abs, -1))
        if asyncio.iscoroutine(outcome):
            await outcome
        checked = True

    state = scheduler.run(**options)
    assert checked
    return state


def test_a_future_is_an_asyncio_future_with_the_call_in_it(executor: ByHand) -> None:
    def check(scheduler: Scheduler, future: Future[int]) -> None:
        assert isinstance(future, asyncio.Future)
        assert (future.function, future.args, dict(future.kwargs), future.task) == (abs, (-1,), {}, None)
        executor.finish(0, 1)

    _in_a_run(executor, check)


def test_its_state_is_pending_then_running_then_finished(executor: ByHand) -> None:
    async def check(scheduler: Scheduler, future: Future[int]) -> None:
        assert (repr(future), future.running(), future.done()) == ("<call 1 of abs, pending>", False, False)
        executor.start(0)
        assert (repr(future), future.running(), future.done()) == ("<call 1 of abs, running>", True, False)
        executor.finish(0, 1)
        assert await future == 1
        assert (repr(future), future.running(), future.done()) == ("<call 1 of abs, finished>", False, True)

    _in_a_run(executor, check)


def test_a_pending_call_that_is_cancelled_never_starts(executor: ByHand) -> None:
    def check(scheduler: Scheduler, future: Future[int]) -> None:
        assert future.cancel()
        assert repr(future) == "<call 1 of abs, cancelled>"
        assert future.cancelled()
        assert not executor.calls[0][0].set_running_or_notify_cancel()

    _in_a_run(executor, check, on_cancelled="continue")


def test_cancel_says_no_once_the_call_has_ended_though_its_result_is_not_told_yet(executor: ByHand) -> None:
    async def check(scheduler: Scheduler, future: Future[int]) -> None:
        executor.finish(0, 1)
        assert not future.cancel()
        assert await future == 1
        assert not future.cancel()

    assert _in_a_run(executor, check) == ExitState(ExitState.Code.EXHAUSTED)


def test_a_call_can_be_awaited_by_many_and_after_its_end(executor: ByHand) -> None:
    async def check(scheduler: Scheduler, future: Future[int]) -> None:
        scheduler.call_later(0, executor.finish, 0, 1)
        assert await asyncio.gather(future, future, asyncio.wait_for(future, 45)) == [1, 1, 1]
        assert await future == 1

    _in_a_run(executor, check)


def test_a_time_out_of_the_awaiter_cancels_the_call(executor: ByHand) -> None:
    async def check(scheduler: Scheduler, future: Future[int]) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.01)
        assert future.cancelled()

    assert _in_a_run(executor, check) == ExitState(ExitState.Code.EXHAUSTED)


def test_a_shielded_call_goes_on_when_its_awaiter_gives_up(executor: ByHand) -> None:
    async def check(scheduler: Scheduler, future: Future[int]) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(future), 0.01)
        assert not future.done()
        executor.finish(0, 1)
        assert await future == 1

    assert _in_a_run(executor, check) == ExitState(ExitState.Code.EXHAUSTED)


@pytest.mark.parametrize("how", ["await", "gather", "wait", "wait_for", "shield", "TaskGroup", "as_completed"])
def test_an_exception_goes_to_the_awaiter_alone_however_the_call_is_awaited(executor: ByHand, how: str) -> None:
    async def check(scheduler: Scheduler, future: Future[int]) -> None:
        scheduler.call_later(0, executor.fail, 0, ValueError("no luck"))

        async def just_await() -> int:
            return await future

        with pytest.raises((ValueError, ExceptionGroup)):
            if how == "await":
                await future
            elif how == "gather":
                await asyncio.gather(future)
            elif how == "wait":
                done, _ = await asyncio.wait([future])
                done.pop().result()
            elif how == "wait_for":
                await asyncio.wait_for(future, 45)
            elif how == "shield":
                await asyncio.shield(future)
            elif how == "TaskGroup":
                async with asyncio.TaskGroup() as group:
                    group.create_task(just_await())
            else:
                for first in asyncio.as_completed([future]):
                    await first

    assert _in_a_run(executor, check, on_exception="raise") == ExitState(ExitState.Code.EXHAUSTED)


def test_an_exception_of_a_call_that_nobody_awaits_is_one_of_the_run(executor: ByHand) -> None:
    with pytest.raises(ValueError, match="no luck"):
        _in_a_run(executor, lambda *_: executor.fail(0, ValueError("no luck")))


def test_an_exception_of_a_call_made_to_be_awaited_is_not_lost_where_nobody_does() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(int)

    @scheduler.on_start
    def forget() -> None:
        task("x")

    with pytest.raises(ValueError, match="invalid literal"):
        scheduler.run()


def test_calls_are_numbered_from_one_in_each_run(executor: ByHand) -> None:
    scheduler = Scheduler.with_sequential()
    numbers: list[int] = []
    scheduler.on_future_submitted(lambda future: numbers.append(future.number))
    scheduler.on_start(lambda: [scheduler.submit(abs, 1), scheduler.submit(abs, 2)])
    scheduler.run()
    scheduler.run()
    assert numbers == [1, 2, 1, 2]


def test_a_call_of_something_without_a_name_can_be_shown(executor: ByHand) -> None:
    from functools import partial

    scheduler = Scheduler.with_sequential()
    shown: list[str] = []
    scheduler.on_future_submitted(lambda future: shown.append(repr(future)))
    scheduler.on_start(lambda: scheduler.submit(partial(abs, 1)))
    scheduler.run()
    assert shown == ["<call 1 of partial, pending>"]
