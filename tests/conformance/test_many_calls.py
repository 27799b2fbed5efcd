"""Many calls over every executor: bounded in flight, and sent in batches."""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import ExitState, Future, Scheduler, SchedulerNotRunningError
from tests import calls
from tests.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.backends import Backend, MakesScheduler

Code = ExitState.Code
ENDS = ("on_future_result", "on_future_exception", "on_future_cancelled")


class Counted:
    """An endless input that knows how many were taken from it."""

    def __init__(self) -> None:
        self.n_taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count():
            self.n_taken += 1
            yield number


# task.map


def test_map_gives_results_in_the_order_of_its_input(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double_after_jitter)
    journal = Journal(scheduler, task)
    assert list(task.map(range(40))) == [2 * number for number in range(40)]
    journal.assert_every_call_ended_once()
    assert journal.counts["on_finished"] == 1
    assert not scheduler.running()


def test_map_takes_one_iterable_for_each_parameter_and_ends_with_the_shortest(scheduler: Scheduler) -> None:
    assert list(scheduler.task(calls.add).map([1, 2, 3], itertools.count(10))) == [11, 13, 15]


def test_map_of_nothing_is_empty(scheduler: Scheduler) -> None:
    assert list(scheduler.task(calls.double).map([])) == []


def test_map_takes_from_its_input_as_results_are_taken(scheduler: Scheduler) -> None:
    source, task = Counted(), scheduler.task(calls.double)
    journal = Journal(scheduler, task)
    seen: list[int] = []
    for result in task.map(source, max_in_flight=3):
        seen.append(source.n_taken)
        if result == 20:
            break
    assert len(seen) == 11
    assert all(n_taken <= index + 1 + 3 for index, n_taken in enumerate(seen))
    journal.assert_every_call_ended_once()
    assert not scheduler.running()


def test_map_keeps_no_more_calls_than_are_in_flight(scheduler: Scheduler) -> None:
    def kept() -> int:
        gc.collect()
        return sum(isinstance(found, Future) for found in gc.get_objects())

    task = scheduler.task(calls.double)
    of_other_tests = kept()
    last = 100
    for result in task.map(itertools.count(), max_in_flight=4):
        if result == 2 * last:
            assert kept() <= of_other_tests + 4 + 2
            break
    assert task.event_counts[task.RESULT] > last


def test_map_raises_an_exception_where_its_result_would_be(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double_unless_three)
    journal = Journal(scheduler, task)
    results: list[int] = []
    with pytest.raises(ValueError, match="three"):
        for result in task.map(range(100)):
            results.append(result)
    assert results == [0, 2, 4]
    journal.assert_every_call_ended_once()
    assert journal.counts["on_future_submitted"] < 100


def test_map_can_be_used_again(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    assert [list(task.map([1, 2])), list(task.map([3]))] == [[2, 4], [6]]


def test_map_in_an_async_callback_is_part_of_its_run(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    results: list[int] = []

    @scheduler.on_start
    async def search() -> None:
        async for result in task.map(range(10), max_in_flight=2):
            results.append(result)

    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert results == [2 * number for number in range(10)]


def test_map_in_a_loop_makes_a_run_of_its_own(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)

    async def main() -> list[Any]:
        found = [result async for result in task.map(range(10), max_in_flight=2)]
        return [found, await task.map([20]), await scheduler.gather(task(number) for number in (30, 31))]

    assert asyncio.run(main()) == [[2 * number for number in range(10)], [40], [60, 62]]
    assert journal.counts["on_future_submitted"] == sum(journal.counts[end] for end in ENDS)
    assert not scheduler.has_run


def test_map_in_a_loop_can_be_left_and_used_again_at_once(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)

    async def main() -> list[int]:
        async for result in task.map(itertools.count()):
            if result == 20:
                break
        return await task.map([1, 2])

    assert asyncio.run(main()) == [2, 4]
    assert journal.counts["on_future_submitted"] == sum(journal.counts[end] for end in ENDS)
    assert not scheduler.has_run


def test_a_run_can_follow_a_map_that_was_left_at_once(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    results: list[int] = []

    async def main() -> ExitState:
        async for result in task.map(itertools.count()):
            with pytest.raises(RuntimeError, match="already running"):
                await scheduler.async_run()
            if result == 4:
                break
        scheduler.on_start(lambda: task.submit(7))
        task.on_result(lambda _, result: results.append(result))
        return await scheduler.async_run()

    assert asyncio.run(main()).code is ExitState.Code.EXHAUSTED
    assert results[-1] == 14


def test_map_in_a_loop_raises_an_exception_where_its_result_would_be(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double_unless_three)

    async def main() -> list[int]:
        results: list[int] = []
        with pytest.raises(ValueError, match="three"):
            async for result in task.map(range(100)):
                results.append(result)
        with pytest.raises(ValueError, match="three"):
            await task.map(range(100))
        with pytest.raises(ValueError, match="three"):
            await scheduler.gather(task(number) for number in range(5))
        return results

    assert asyncio.run(main()) == [0, 2, 4]


def test_maps_in_a_loop_share_one_run(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    journal = Journal(scheduler, task)

    async def main() -> list[list[int]]:
        nested = [await task.map([result]) async for result in task.map([1, 2])]
        return [*nested, *await asyncio.gather(task.map(range(3)), task.map(range(5)))]

    assert asyncio.run(main()) == [[4], [8], [0, 2, 4], [0, 2, 4, 6, 8]]
    assert journal.counts["on_finished"] == 2


def test_map_in_a_loop_that_is_cancelled_leaves_nothing_behind(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler, tmp_path: Path
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(calls.until_released)
    started, release = tmp_path / "started", tmp_path / "release"

    async def main() -> None:
        waiting = asyncio.ensure_future(task.map([started], [release]))
        async with asyncio.timeout(30):
            while not started.exists():
                await asyncio.sleep(0.002)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        release.touch()
        assert await scheduler.gather([]) == []

    asyncio.run(main())
    assert not scheduler.has_run


def test_a_run_that_ends_before_the_last_result_of_a_map_in_a_loop_is_an_error(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double)
    task.on_result(scheduler.stop)

    async def main() -> None:
        with pytest.raises(SchedulerNotRunningError):
            await task.map(itertools.count())

    asyncio.run(main())


def test_map_with_for_in_a_loop_says_what_to_write() -> None:
    task = Scheduler.with_sequential().task(calls.double)

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"async for result in task.map\(…\), or results = await task.map"):
            list(task.map([1]))

    asyncio.run(main())


def test_map_with_a_bound_below_one_is_refused() -> None:
    task = Scheduler.with_sequential().task(calls.double)
    with pytest.raises(ValueError, match="max_in_flight=0"):
        task.map([1], max_in_flight=0)


# scheduler.gather


def test_gather_gives_results_in_the_order_of_the_calls(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double_after_jitter)
    results: list[list[int]] = []

    @scheduler.on_start
    async def search() -> None:
        results.append(await scheduler.gather([task(number) for number in range(10)]))
        results.append(await scheduler.gather((task(number) for number in range(30)), max_in_flight=3))

    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert results == [[2 * number for number in range(10)], [2 * number for number in range(30)]]


def test_gather_with_a_bound_submits_as_calls_end(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double_after_jitter)
    most = 0

    @scheduler.on_future_submitted
    def count(_: object) -> None:
        nonlocal most
        most = max(most, len(scheduler.queue))

    @scheduler.on_start
    async def search() -> None:
        await scheduler.gather((task(number) for number in range(30)), max_in_flight=3)

    scheduler.run()
    assert task.event_counts[task.RESULT] == 30
    assert most <= 3


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_gather_raises_or_returns_exceptions_and_the_run_goes_on(scheduler: Scheduler, return_exceptions: bool) -> None:
    task = scheduler.task(calls.double_unless_three)
    told: list[Any] = []

    @scheduler.on_start
    async def search() -> None:
        try:
            told.extend(
                await scheduler.gather([task(number) for number in (1, 3)], return_exceptions=return_exceptions)
            )
        except ValueError as error:
            told.append(str(error))

    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert [str(value) for value in told] == (["2", "three"] if return_exceptions else ["three"])


# batch_size


def test_batched_calls_have_their_own_events(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double_unless_three, batch_size=4)
    journal = Journal(scheduler, task)
    results: dict[int, int] = {}
    errors: list[tuple[int, str]] = []
    task.on_result(lambda future, result: results.update({future.args[0]: result}))
    task.on_exception(lambda future, error: errors.append((future.args[0], str(error))))
    scheduler.on_start(lambda: [task.submit(number) for number in range(11)])
    assert scheduler.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    assert results == {number: 2 * number for number in range(11) if number != 3}
    assert errors == [(3, "three")]
    journal.assert_every_call_ended_once()


def test_a_batched_call_can_be_cancelled_alone(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double, batch_size=4)
    journal = Journal(scheduler, task)

    @scheduler.on_start
    def cancel_one() -> None:
        futures = [task.submit(number) for number in range(3)]
        assert futures[1] is not None
        assert futures[1].cancel()

    assert scheduler.run(on_cancelled="continue") == ExitState(Code.EXHAUSTED)
    assert [journal.of_call(number)[-1] for number in (1, 2, 3)] == [
        "task on_result",
        "task on_cancelled",
        "task on_result",
    ]


def test_a_batch_that_is_not_full_is_sent_when_nothing_else_is_to_do(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double, batch_size=1000)
    results: list[int] = []

    @scheduler.on_start
    async def one_after_the_other() -> None:
        for number in range(3):
            results.append(await task(number))

    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert results == [0, 2, 4]


def test_batched_calls_keep_the_order_of_submission(scheduler: Scheduler) -> None:
    task = scheduler.task(calls.double_after_jitter, batch_size=3)
    numbers: list[int] = []
    task.on_result(lambda future, _: numbers.append(future.number))
    scheduler.on_start(lambda: [task.submit(number) for number in range(20)])
    scheduler.run(order="submission")
    assert numbers == list(range(1, 21))


def test_an_argument_that_cannot_be_sent_fails_alone_in_its_batch(
    pickling_backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    import threading

    scheduler = shared_scheduler(pickling_backend)
    task = scheduler.task(calls.give_back, batch_size=3)
    journal = Journal(scheduler, task)

    @scheduler.on_start
    def submit_three() -> None:
        for value in (1, threading.Lock(), 3):
            try:
                task.submit(value)
            except TypeError as error:  # NotPicklableError, where it is submitted
                journal.lines.append(type(error).__name__)

    assert scheduler.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    assert journal.counts["task on_result"] == 2
    journal.assert_every_call_ended_once()


def test_a_result_that_cannot_be_sent_fails_alone_in_its_batch(
    pickling_backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    scheduler = shared_scheduler(pickling_backend)
    task = scheduler.task(calls.unsendable_if, batch_size=3)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [task.submit(number == 1) for number in range(3)])
    assert scheduler.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    assert [journal.of_call(number)[-1] for number in (1, 2, 3)] == [
        "task on_result",
        "task on_exception",
        "task on_result",
    ]


def test_batched_calls_all_end_when_their_worker_dies(pickling_backend: Backend) -> None:
    scheduler = pickling_backend.with_one_worker().scheduler()
    task = scheduler.task(calls.end_by_signal, batch_size=3)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [task.submit(signal.SIGKILL) for _ in range(3)])
    assert scheduler.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    assert journal.counts["task on_exception"] == 3
    journal.assert_every_call_ended_once()


@pytest.mark.parametrize("ending", ["stop", "timeout", "timeout without wait", "exception"])
def test_batched_calls_all_end_once_however_the_run_ends(
    backend: Backend, shared_scheduler: MakesScheduler, tmp_path: Path, ending: str
) -> None:
    scheduler = shared_scheduler(backend)
    task = scheduler.task(calls.double_after_jitter, batch_size=5)
    journal = Journal(scheduler, task)
    scheduler.on_start(lambda: [task.submit(number) for number in range(60)])
    task.on_result(lambda *_: task.submit(0))

    @task.on_result(every=10)
    def end(*_: object) -> None:
        if ending == "stop":
            scheduler.stop()
        elif ending == "exception":
            raise ValueError

    options: dict[str, Any] = {"timeout": 0.1, "wait": ending != "timeout without wait"} if "timeout" in ending else {}
    scheduler.run(on_exception="end", **options)
    journal.assert_every_call_ended_once()


def test_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        Scheduler.with_sequential().task(calls.double, batch_size=0)


def test_awaited_batched_calls_are_sent_together(concurrent_backend: Backend) -> None:
    with concurrent_backend.scheduler() as scheduler:
        task = scheduler.task(calls.double, batch_size=10)
        sent = 0
        submit = scheduler.executor.submit

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal sent
            sent += 1
            return submit(*args, **kwargs)

        scheduler.executor.submit = counted  # type: ignore[method-assign]

        @scheduler.on_start
        async def gather() -> None:
            assert await asyncio.gather(*(task(number) for number in range(40))) == [2 * n for n in range(40)]

        assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert sent == 4
