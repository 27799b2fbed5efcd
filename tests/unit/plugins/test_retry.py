"""Calls that run again since their function raised."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import (
    CallAbortedError,
    CpuTimeLimitError,
    ExitState,
    LimitError,
    Scheduler,
    WalltimeLimitError,
    WorkerLostError,
)
from amlsched.plugins import Comm, Limits, Retry
from amlsched.plugins._limits.limited_call import Bounds
from amlsched.plugins.retry import exponential
from tests.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from amlsched import Future, Task
    from tests.backends import Backend, MakesScheduler

Code = ExitState.Code


class Flaky:
    """Raises its errors one after the other, then returns."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.times: list[float] = []

    def __call__(self, value: int = 1) -> int:
        self.times.append(time.monotonic())
        if self.errors:
            raise self.errors.pop(0)
        return value


def fail_until(marker: Path, times: int, value: int) -> int:
    """Fails so many times, wherever it runs."""
    with marker.open("a") as file:
        file.write(".")
    if len(marker.read_text()) <= times:
        raise OSError(f"attempt {len(marker.read_text())}")
    return value


def run(scheduler: Scheduler, task: Task[Any, Any], *args: Any, **options: Any) -> tuple[Journal, list[BaseException]]:
    journal, errors = Journal(scheduler, task), []
    task.on_exception(lambda _, error: errors.append(error))
    scheduler.on_start(lambda: task.submit(*args))
    scheduler.run(on_exception="continue", **options)
    journal.assert_every_call_ended_once()
    return journal, errors


def test_a_call_that_fails_twice_returns_in_its_third_attempt(
    backend: Backend, shared_scheduler: MakesScheduler, tmp_path: Path
) -> None:
    scheduler = shared_scheduler(backend)
    task = scheduler.task(fail_until, plugins=Retry(3, on=OSError))
    told: list[tuple[str, int, int]] = []
    results: list[int] = []
    task.on_retry(lambda future, error, attempt: told.append((str(error), attempt, future.attempt)))
    task.on_result(lambda future, result: results.append(result))
    journal, errors = run(scheduler, task, tmp_path / "marker", 2, 7)
    assert (results, errors) == ([7], [])
    assert told == [("attempt 1", 1, 2), ("attempt 2", 2, 3)]
    assert scheduler.on_future_retry.count == 2
    assert journal.counts["task on_submitted"] == journal.counts["task on_done"] == task.n_submitted == 1


def test_the_last_exception_comes_through_with_a_note_of_the_attempts() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(Flaky(*(ValueError(str(number)) for number in range(5))), plugins=Retry(3))
    _, errors = run(scheduler, task)
    assert [str(error) for error in errors] == ["2"]
    assert any("each of 3 attempts" in note for note in errors[0].__notes__)


def test_one_attempt_is_none_more() -> None:
    scheduler = Scheduler.with_sequential()
    flaky = Flaky(ValueError())
    _, errors = run(scheduler, scheduler.task(flaky, plugins=Retry(1)))
    assert (len(errors), len(flaky.times)) == (1, 1)
    assert not hasattr(errors[0], "__notes__")


@pytest.mark.parametrize(
    ("on", "error", "again"),
    [
        (OSError, FileNotFoundError(), True),
        (OSError, ValueError(), False),
        ((KeyError, ValueError), ValueError(), True),
        ([KeyError], ValueError(), False),
        (lambda error: "busy" in str(error), RuntimeError("busy"), True),
        (lambda error: "busy" in str(error), RuntimeError("broken"), False),
        (Exception, WalltimeLimitError("call", 1.0, 2.0), False),
        (WalltimeLimitError, WalltimeLimitError("call", 1.0, 2.0), True),
        ((OSError, LimitError), CpuTimeLimitError("call", 1.0, 2.0), True),
        (TimeoutError, CpuTimeLimitError("call", 1.0, 2.0), False),
    ],
)
def test_on_says_which_exceptions(on: Any, error: Exception, again: bool) -> None:
    scheduler = Scheduler.with_sequential()
    flaky = Flaky(error)
    run(scheduler, scheduler.task(flaky, plugins=Retry(2, on=on)))
    assert len(flaky.times) == 1 + again


def test_the_waits_are_those_of_the_back_off_and_block_nothing() -> None:
    scheduler = Scheduler.with_sequential()
    flaky = Flaky(*(ValueError() for _ in range(3)))
    task = scheduler.task(flaky, plugins=Retry(4, backoff=exponential(0.05, factor=2)))
    other: list[float] = []

    @scheduler.on_start
    async def tick() -> None:
        while not task.on_result.count:
            other.append(time.monotonic())
            await asyncio.sleep(0.005)

    run(scheduler, task)
    waits = [after - before for before, after in pairwise(flaky.times)]
    assert all(wait >= least for wait, least in zip(waits, (0.049, 0.099, 0.199), strict=True))
    assert len(other) > 10  # the loop went on meanwhile


def test_exponential_grows_up_to_its_bound() -> None:
    wait_s = exponential(1, factor=3, max_s=20)
    assert [wait_s(number) for number in (1, 2, 3, 4, 1_000_000)] == [1, 3, 9, 20, 20]


def waits_of(retry: Retry, numbers: range = range(1, 30)) -> list[float | None]:
    class Call:  # what `retry_after` needs of a future
        def __init__(self, number: int) -> None:
            self.number = number

    calls: list[Any] = [Call(number) for number in numbers]
    waits = {call.number: retry.retry_after(call, ValueError()) for call in calls}
    return [waits[number] for number in sorted(waits)]


def test_a_seed_makes_the_waits_the_same_whatever_order_calls_fail_in() -> None:
    options: dict[str, Any] = {"backoff": 10, "jitter": 0.5}
    waits = waits_of(Retry(3, seed=1, **options))
    assert waits == waits_of(Retry(3, seed=1, **options), range(29, 0, -1))
    assert waits != waits_of(Retry(3, seed=2, **options))
    assert waits_of(Retry(3, **options)) != waits_of(Retry(3, **options))
    assert all(wait is not None and 5 <= wait <= 10 for wait in waits)
    assert len(set(waits)) == len(waits)


def test_a_call_can_be_cancelled_while_it_waits() -> None:
    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(Flaky(ValueError()), plugins=Retry(2, backoff=3600))
    task.on_retry(lambda future, *_: scheduler.call_later(0.01, future.cancel))
    journal, _ = run(scheduler, task, on_cancelled="continue")
    assert journal.of_call(1)[-1] == "task on_cancelled"


@pytest.mark.parametrize("end", [{"timeout": 0.1}, {}], ids=["timeout", "stop"])
def test_the_end_of_the_run_ends_a_call_that_waits(end: dict[str, float]) -> None:
    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(Flaky(ValueError()), plugins=Retry(2, backoff=3600))
    if not end:
        task.on_retry(lambda *_: scheduler.stop())
    journal, _ = run(scheduler, task, **end)
    assert journal.of_call(1)[-1] == "task on_cancelled"


def test_the_order_of_submission_holds() -> None:
    scheduler = Scheduler.with_threads(2)
    flaky = Flaky(ValueError())
    task = scheduler.task(flaky, plugins=Retry(2, backoff=0.05))
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [task.submit(number) for number in range(5)])
    scheduler.run(order="submission")
    assert results == [0, 1, 2, 3, 4]


def test_the_calls_of_a_batch_run_again_on_their_own(
    backend: Backend, shared_scheduler: MakesScheduler, tmp_path: Path
) -> None:
    scheduler = shared_scheduler(backend)
    task = scheduler.task(fail_until, plugins=Retry(3), batch_size=4)
    journal = Journal(scheduler, task)
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [task.submit(tmp_path / str(number), number % 3, number) for number in range(8)])
    scheduler.run()
    assert sorted(results) == list(range(8))
    assert scheduler.on_future_retry.count == sum(number % 3 for number in range(8))
    journal.assert_every_call_ended_once()


def test_an_awaited_call_gives_its_last_attempt() -> None:
    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(Flaky(ValueError()), plugins=Retry(2))
    got: list[int] = []

    @scheduler.on_start
    async def ask() -> None:
        got.append(await task(5))

    scheduler.run()
    assert got == [5]


def test_counts_reset_in_child_with_each_run() -> None:
    scheduler = Scheduler.with_sequential()
    flaky = Flaky(ValueError())
    task = scheduler.task(flaky, plugins=Retry(2))
    scheduler.on_start(lambda: task.submit())
    scheduler.run()
    flaky.errors = [ValueError()]
    scheduler.run()
    assert len(flaky.times) == 4


def _cannot_tell(error: Exception) -> bool:
    raise LookupError("cannot tell")


@pytest.mark.parametrize(
    ("retry", "message"),
    [(Retry(2, on=_cannot_tell), "cannot tell"), (Retry(2, backoff=lambda _: -1.0), r"backoff\(1\) returned -1.0")],
)
def test_what_goes_wrong_in_the_user_s_functions_ends_the_run_with_its_place(retry: Retry, message: str) -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(Flaky(ValueError()), plugins=retry)
    scheduler.on_start(lambda: task.submit())
    with pytest.raises((LookupError, ValueError), match=message) as caught:
        scheduler.run()
    assert any("plugin retry" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("on", [Exception, CallAbortedError])
def test_a_call_that_exits_can_run_again(on: type[Exception]) -> None:
    scheduler = Scheduler.with_sequential()
    flaky = Flaky(SystemExit("busy"))
    task = scheduler.task(flaky, plugins=Retry(2, on=on))
    _, errors = run(scheduler, task)
    assert (len(flaky.times), task.on_result.count, errors) == (2, 1, [])


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Retry(0), ValueError, "attempts=0"),
        (lambda: Retry(2.5), ValueError, "attempts=2.5"),  # type: ignore[arg-type]
        (lambda: Retry(2, on="ValueError"), TypeError, "on='ValueError'"),  # type: ignore[arg-type]
        (lambda: Retry(2, on=(ValueError, 3)), TypeError, "exception types"),  # type: ignore[arg-type]
        (lambda: Retry(2, on=KeyboardInterrupt), TypeError, "exception types"),  # type: ignore[arg-type]
        (lambda: Retry(2, on=()), ValueError, "must name at least one"),
        (lambda: Retry(2, on=WorkerLostError), ValueError, "retries_on_loss"),
        (lambda: Retry(2, backoff=-1), ValueError, "backoff=-1"),
        (lambda: Retry(2, backoff="slow"), ValueError, "exponential"),  # type: ignore[arg-type]
        (lambda: Retry(2, jitter=2), ValueError, "jitter=2"),
        (lambda: exponential(factor=0.5), ValueError, "factor=0.5"),
        (lambda: Retry(2, memory_growth=1), ValueError, "memory_growth=1: must be a number of more than 1"),
        (lambda: Retry(2, memory_growth="2"), ValueError, "memory_growth='2'"),  # type: ignore[arg-type]
        (lambda: Retry(2, memory_growth=2, memory_cap="64"), ValueError, "memory_cap: '64' is not an amount of memory"),
        (lambda: Retry(2, memory_cap="64 GiB"), ValueError, "needs memory_growth"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ([], r"task len: Retry\(memory_growth=2\) needs Limits\(memory=…\)"),
        ([Limits(walltime="1 s")], "needs Limits"),
        ([Limits(memory="2 GiB")], r"memory_cap='1 GiB'\) is not above its memory limit of 2048.0 MiB"),
        ([Limits(memory="1 GiB")], "is not above"),
    ],
    ids=["none", "no memory", "above the cap", "at the cap"],
)
def test_without_memory_that_can_grow_nothing_runs(limits: list[Limits], message: str) -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(len, plugins=[Retry(2, memory_growth=2, memory_cap="1 GiB"), *limits])
    scheduler.on_start(lambda: task.submit("text"))
    for _ in range(2):  # and the scheduler can be used after it
        with pytest.raises(ValueError, match=message):
            scheduler.run()
    assert scheduler.on_start.count == 0


def test_the_address_space_grows_with_the_memory() -> None:
    raised = Bounds(memory_bytes=100, address_space_bytes=1000, cputime_s=3.0).with_memory(2.0, 150)
    assert raised == Bounds(memory_bytes=150, address_space_bytes=1500, cputime_s=3.0)


def test_it_says_what_it_does() -> None:
    assert str(Retry(2, memory_growth=2, memory_cap="64 GiB")).endswith(", 2 times the memory up to 64 GiB")
    assert (
        str(Retry(3, on=(OSError, KeyError), backoff=2))
        == "retry: 3 attempts, on OSError or KeyError, 2 s between them"
    )


def talk_and_fail_once(marker: Path, *, comm: Comm) -> str:
    comm.send(len(list(marker.parent.iterdir())))
    if not marker.exists():
        marker.touch()
        raise OSError
    return "done"


def test_each_attempt_has_its_channel(backend: Backend, shared_scheduler: MakesScheduler, tmp_path: Path) -> None:
    scheduler = shared_scheduler(backend)
    task = scheduler.task(talk_and_fail_once, plugins=[Retry(2), Comm.Plugin()])
    said: list[int] = []
    calls: set[Future[str]] = set()

    @task.on(Comm.MESSAGE)
    def heard(msg: Comm.Msg[Any]) -> None:
        said.append(msg.data)
        calls.add(msg.future)

    run(scheduler, task, tmp_path / "marker")
    assert said == [0, 1]
    assert len(calls) == 1
    assert task.on_result.count == 1
