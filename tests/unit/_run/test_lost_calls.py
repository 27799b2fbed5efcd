"""Calls whose worker was lost, over pools that break when the test says so."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import (
    Capabilities,
    ExitState,
    PoolBrokenError,
    Scheduler,
    WalltimeLimitError,
    WorkerKilledError,
    WorkerLostError,
    WorkerStartError,
)
from tests.backends import ByHand
from tests.journal import Journal

if TYPE_CHECKING:
    from amlsched import Future

Code = ExitState.Code


class Sturdy(ByHand):
    """Loses one call with one worker."""

    capabilities = Capabilities(survives_lost_workers=True)


class Broken(BrokenExecutor):
    pass


class Fragile(ByHand):
    """Runs two calls at a time, in the order of their submission; breaks as a whole."""

    capabilities = Capabilities(pickles=True)

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            raise Broken("the pool is broken")
        work = super().submit(fn, *args, **kwargs)
        self.go_on()
        return work

    def go_on(self) -> None:
        running = sum(call[0].running() for call in self.calls)
        for work, *_ in self.calls:
            if running < 2 and not work.running() and not work.done():
                work.set_running_or_notify_cancel()
                running += 1

    def fall(self) -> None:
        self.broken = True
        for work, *_ in self.calls:
            if not work.done():
                work.set_exception(Broken("a worker died"))


def lost(_: object = None) -> WorkerKilledError:
    return WorkerKilledError("abs", 9, 123)


def scheduler_over(executor: ByHand, **options: Any) -> Scheduler:
    return Scheduler(executor, **options)


# Executors that lose one call with one worker


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_lost_call_runs_again_as_often_as_asked_for_and_ends_once(retries: int) -> None:
    executor = Sturdy()
    scheduler = Scheduler(executor, retries_on_loss=retries)
    task = scheduler.task(abs)
    journal = Journal(scheduler, task)
    told: list[tuple[str, int]] = []
    errors: list[BaseException] = []

    @task.on_retry
    def again(future: Future[int], exception: BaseException, attempt: int) -> None:
        assert future.attempt == attempt + 1
        told.append((type(exception).__name__, attempt))

    task.on_exception(lambda _, error: errors.append(error))

    @scheduler.on_start
    async def lose_it_every_time() -> None:
        future = task.submit(-1)
        assert future is not None
        for index in range(retries + 1):
            while len(executor.calls) <= index:
                await _turn()
            executor.fail(index, lost())

    assert scheduler.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    assert told == [("WorkerKilledError", attempt + 1) for attempt in range(retries)]
    assert [type(error) for error in errors] == [WorkerKilledError]
    assert isinstance(errors[0], WorkerLostError)
    assert errors[0].attempts == retries + 1
    assert ("attempt" in str(errors[0])) is (retries > 0)
    assert scheduler.on_future_retry.count == retries
    assert (task.n_submitted, task.n_running) == (1, 0)
    journal.assert_every_call_ended_once()


def test_a_call_that_succeeds_in_its_second_attempt_is_a_result() -> None:
    executor = Sturdy()
    scheduler = Scheduler(executor)
    task = scheduler.task(abs)
    journal = Journal(scheduler, task)

    @scheduler.on_start
    async def lose_it_once() -> None:
        task.submit(-1)
        executor.fail(0, Broken("gone"))  # not only errors of our own
        while len(executor.calls) < 2:
            await _turn()
        executor.finish(1, 1)

    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert journal.of_call(1)[-1] == "task on_result"
    journal.assert_every_call_ended_once()


def test_the_task_says_it_before_the_scheduler() -> None:
    executor = Sturdy()
    scheduler = Scheduler(executor, retries_on_loss=5)
    never = scheduler.task(abs, retries_on_loss=0)
    scheduler.on_start(lambda: never.submit(-1))
    scheduler.on_start(lambda: executor.fail(0, lost()))
    with pytest.raises(WorkerKilledError):
        scheduler.run()
    assert len(executor.calls) == 1


@pytest.mark.parametrize(
    "error",
    [WalltimeLimitError("abs", 1.0, 2.0), WorkerStartError("abs", "did not start"), ValueError("no")],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_loss_ends_the_call_at_once(error: Exception) -> None:
    executor = Sturdy()
    scheduler = Scheduler(executor)
    scheduler.on_start(lambda: scheduler.submit(abs, -1))
    scheduler.on_start(lambda: executor.fail(0, error))
    with pytest.raises(type(error)):
        scheduler.run()
    assert len(executor.calls) == 1


def test_a_lost_call_does_not_run_again_once_the_run_is_ending() -> None:
    executor = Sturdy()
    scheduler = Scheduler(executor)
    journal = Journal(scheduler)

    @scheduler.on_start
    def submit() -> None:
        scheduler.submit(abs, -1)
        executor.start(0)
        scheduler.stop()

    scheduler.on_finishing(lambda: executor.fail(0, lost()))
    scheduler.run(on_exception="continue")
    assert len(executor.calls) == 1
    assert journal.of_call(1)[-1] == "on_future_exception"


def test_a_call_that_runs_again_can_be_cancelled() -> None:
    executor = Sturdy()
    scheduler = Scheduler(executor)
    task = scheduler.task(abs)
    journal = Journal(scheduler, task)
    task.on_retry(lambda future, *_: future.cancel())
    scheduler.on_start(lambda: task.submit(-1))
    scheduler.on_start(lambda: executor.fail(0, lost()))
    assert scheduler.run(on_cancelled="continue") == ExitState(Code.EXHAUSTED)
    assert journal.of_call(1)[-1] == "task on_cancelled"
    journal.assert_every_call_ended_once()


def test_the_order_of_submission_holds_for_calls_that_run_again() -> None:
    executor = Sturdy()
    scheduler = Scheduler(executor)
    task = scheduler.task(abs)
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))

    @scheduler.on_start
    async def lose_the_first() -> None:
        for number in range(3):
            task.submit(number)
        executor.fail(0, lost())
        executor.finish(1, 1)
        executor.finish(2, 2)
        while len(executor.calls) < 4:
            await _turn()
        assert results == []
        executor.finish(3, 0)

    scheduler.run(order="submission")
    assert results == [0, 1, 2]


def test_the_calls_of_a_lost_batch_are_sent_again_one_by_one() -> None:
    executor = Sturdy()
    scheduler = Scheduler(executor, retries_on_loss=1)
    task = scheduler.task(abs, batch_size=3)
    journal = Journal(scheduler, task)
    errors: list[BaseException] = []
    task.on_exception(lambda future, error: errors.append(error))

    @scheduler.on_start
    async def lose_the_batch() -> None:
        for number in range(3):
            task.submit(-number)
        while not executor.calls:
            await _turn()
        executor.fail(0, lost())
        while len(executor.calls) < 4:
            await _turn()
        executor.fail(1, lost())  # whichever it is: it is alone, and has had its chance
        executor.finish(2, 11)
        executor.finish(3, 12)

    scheduler.run(on_exception="continue")
    assert len(errors) == 1
    assert journal.counts["on_future_result"] == 2
    journal.assert_every_call_ended_once()


# Pools that break as a whole


class Pools:
    """A factory of pools that break, and what each was given."""

    def __init__(self) -> None:
        self.made: list[Fragile] = []

    def __call__(self) -> Fragile:
        self.made.append(Fragile())
        return self.made[-1]

    @property
    def now(self) -> Fragile:
        return self.made[-1]

    def scheduler(self, **options: Any) -> Scheduler:
        return Scheduler._from_factory(self, **options)


@pytest.mark.parametrize("retries", [1, 3])
def test_the_killer_among_the_innocent_fails_alone(retries: int) -> None:
    pools = Pools()
    scheduler = pools.scheduler(retries_on_loss=retries)
    task = scheduler.task(abs)
    journal = Journal(scheduler, task)
    results: dict[int, int] = {}
    errors: dict[int, BaseException] = {}
    task.on_result(lambda future, result: results.__setitem__(future.args[0], result))
    task.on_exception(lambda future, error: errors.__setitem__(future.args[0], error))
    most_beside_the_suspects = 0

    def work_off() -> bool:
        """Do what a pool does whose worker dies of the call of -1."""
        nonlocal most_beside_the_suspects
        pool = pools.now
        running = [(work, args) for work, _, args, _ in pool.calls if work.running()]
        if any(args == (-1,) for _, args in running):
            if len(pools.made) > 1:
                most_beside_the_suspects = max(most_beside_the_suspects, len(running) - 1)
            pool.fall()
        elif running:
            running[0][0].set_result(abs(running[0][1][0]))
            pool.go_on()
        return bool(running)

    @scheduler.on_start
    async def play() -> None:
        for number in range(-6, 0):
            task.submit(number)
        while len(results) + len(errors) < 6:
            if not work_off():
                await _turn()
            await _turn()

    assert scheduler.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    assert results == {number: -number for number in range(-6, -1)}
    assert list(errors) == [-1]
    assert isinstance(errors[-1], WorkerLostError)
    assert errors[-1].attempts == retries + 1
    assert len(pools.made) == retries + 2  # the first, and one after each time that it broke
    assert most_beside_the_suspects == 0
    journal.assert_every_call_ended_once()


def test_calls_that_a_broken_pool_had_not_begun_run_again_whatever_the_retries() -> None:
    pools = Pools()
    scheduler = pools.scheduler(retries_on_loss=0)
    journal = Journal(scheduler)

    @scheduler.on_start
    async def play() -> None:
        for number in range(5):
            scheduler.submit(abs, number)
        pools.now.fall()
        while len(pools.made) < 2 or not pools.now.calls:
            await _turn()
        for work, _, args, _ in pools.now.calls:
            work.set_result(abs(*args))

    scheduler.run(on_exception="continue")
    ends = {number: journal.of_call(number)[-1] for number in range(1, 6)}
    assert ends == {number: "on_future_exception" if number <= 2 else "on_future_result" for number in range(1, 6)}
    journal.assert_every_call_ended_once()


def test_a_pool_that_broke_while_it_had_nothing_to_do_is_made_anew() -> None:
    pools = Pools()
    scheduler = pools.scheduler()

    @scheduler.on_start
    async def play() -> None:
        pools.now.fall()
        future = scheduler.submit(abs, -1)
        while len(pools.made) < 2 or not pools.now.calls:
            await _turn()
        pools.now.finish(0, 1)
        assert await future == 1
        assert future.attempt == 1

    assert scheduler.run() == ExitState(Code.EXHAUSTED)


def test_a_pool_that_breaks_for_ever_is_not_made_for_ever() -> None:
    class Hopeless(Pools):
        def __call__(self) -> Fragile:
            pool = super().__call__()
            pool.broken = True
            return pool

    pools = Hopeless()
    scheduler = pools.scheduler()
    scheduler.on_start(lambda: scheduler.submit(abs, -1))
    with pytest.raises(BrokenExecutor):
        scheduler.run()
    assert len(pools.made) < 100


def test_a_suspect_that_is_cancelled_makes_room_for_the_next() -> None:
    pools = Pools()
    scheduler = pools.scheduler()
    journal = Journal(scheduler)

    @scheduler.on_start
    async def play() -> None:
        futures = [scheduler.submit(abs, number) for number in range(4)]
        pools.now.fall()
        while len(pools.made) < 2 or not pools.now.calls:
            await _turn()
        futures[1].cancel()  # it waits for its turn
        futures[0].cancel()  # it runs, and cannot be ended but with its pool
        while len(pools.made) < 3 or len(pools.now.calls) < 2:
            await _turn()
        for index in range(2):
            pools.now.finish(index, index)

    assert scheduler.run(on_cancelled="continue") == ExitState(Code.EXHAUSTED)
    assert [journal.of_call(number)[-1] for number in range(1, 5)] == [
        "on_future_cancelled",
        "on_future_cancelled",
        "on_future_result",
        "on_future_result",
    ]


def test_a_run_can_be_stopped_while_suspects_run_alone() -> None:
    pools = Pools()
    scheduler = pools.scheduler()
    journal = Journal(scheduler)

    @scheduler.on_start
    async def play() -> None:
        for number in range(6):
            scheduler.submit(abs, number)
        pools.now.fall()
        while len(pools.made) < 2 or not pools.now.calls:
            await _turn()
        scheduler.stop()

    scheduler.on_finishing(lambda: pools.now.finish(0, 0))
    assert scheduler.run().code is Code.STOPPED
    assert journal.counts["on_future_result"] == 1
    assert journal.counts["on_future_cancelled"] == 5
    journal.assert_every_call_ended_once()


def test_a_given_pool_that_breaks_fails_with_its_weakness_named() -> None:
    executor = Fragile()
    scheduler = Scheduler(executor)
    errors: list[BaseException] = []
    scheduler.on_future_exception(lambda _, error: errors.append(error))
    scheduler.on_start(lambda: [scheduler.submit(abs, number) for number in range(5)])
    scheduler.on_start(partial(Fragile.fall, executor))
    scheduler.run(on_exception="continue")
    assert [type(error) for error in errors] == [PoolBrokenError] * 5
    assert "with_processes" in str(errors[0])
    assert "a worker died" in str(errors[0])
    assert isinstance(errors[0].__cause__, Broken)
    assert scheduler.on_future_retry.count == 0


def _refuse() -> None:
    raise ValueError("no licence")


def test_threads_that_cannot_start_are_no_processes_that_died() -> None:
    with ThreadPoolExecutor(1, initializer=_refuse) as executor:
        scheduler = Scheduler(executor)
        errors: list[BaseException] = []
        scheduler.on_future_exception(lambda _, error: errors.append(error))
        scheduler.on_start(lambda: scheduler.submit(abs, -1))
        with pytest.raises(BrokenExecutor):
            scheduler.run()
    assert not any(isinstance(error, PoolBrokenError) for error in errors)


def test_a_call_submitted_to_a_broken_given_pool_says_so() -> None:
    executor = Fragile()
    executor.broken = True
    scheduler = Scheduler(executor)
    scheduler.on_start(lambda: scheduler.submit(abs, 1))
    with pytest.raises(PoolBrokenError, match="with_processes"):
        scheduler.run()


@pytest.mark.parametrize("value", [-1, 1.5, True, None, "3"])
def test_a_number_of_retries_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="retries_on_loss="):
        Scheduler.with_threads(1, retries_on_loss=value)
    if value is not None:
        with pytest.raises(ValueError, match="retries_on_loss="):
            Scheduler.with_sequential().task(abs, retries_on_loss=value)


async def _turn() -> None:
    import asyncio

    await asyncio.sleep(0.001)
