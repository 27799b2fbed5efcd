"""Awaited calls, maps, events and executors; read by mypy and pyright, see `calls.py`."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from concurrent.futures import ThreadPoolExecutor
from typing import Any, assert_type

from amlsched import Event, ExitState, Future, Plugin, Scheduler


def train(seed: int, *, rate: float = 0.1) -> str:
    return f"{seed} {rate}"


scheduler = Scheduler(ThreadPoolExecutor(2))
task = scheduler.task(train, batch_size=2)
Scheduler("processes")  # type: ignore[arg-type]
Scheduler(ThreadPoolExecutor(2), terminate=print)
scheduler.task(3)  # type: ignore[call-overload]
scheduler.task(train, plugins=[Plugin()])
scheduler.task(train, plugins="limiter")  # type: ignore[arg-type]

# Awaiting


async def search() -> None:
    assert_type(await task(1), str)
    assert_type(await task(1, rate=0.5), str)
    await task("1")  # type: ignore[arg-type]
    assert_type(await scheduler.submit(train, 1), str)
    assert_type(await scheduler.gather([task(1), task(2)]), list[str])
    async for result in task.map([1, 2, 3]):
        assert_type(result, str)
    assert_type(await task.map([1, 2, 3]), list[str])
    assert_type(await scheduler.async_run(), ExitState)


for result in task.map([1, 2, 3], max_in_flight=2):
    assert_type(result, str)


# Callbacks


@task.on_done
def hears_the_end(future: Future[str]) -> None: ...


@task.on_done  # type: ignore[arg-type]
def wants_too_much(future: Future[str], result: str) -> None: ...


@task.on_cancelled
def hears_that_it_was_cancelled(future: Future[str]) -> None: ...


@task.on_done  # type: ignore[arg-type]
def listens_to_another_task(future: Future[int]) -> None: ...


@scheduler.on_stop  # type: ignore[arg-type]
def hears_half(msg: str) -> None: ...


@scheduler.on_empty(when=lambda: True, every=2)
async def refills() -> None: ...


scheduler.on_empty(print, every="2")  # type: ignore[call-overload]
task.on("on-result", print)
task.on_result(scheduler.stop)
scheduler.on_timeout(scheduler.stop)
scheduler.call_later(1.0, task.submit, 1)
scheduler.call_later(1.0, task.submit, "1")  # type: ignore[arg-type]

# Events of one's own

PROGRESS: Event[[int, str], Any] = Event("progress")
task.emit(PROGRESS, 1, "of two")
task.emit(PROGRESS, "1", "of two")  # type: ignore[call-overload]
task.emit(PROGRESS, 1)  # type: ignore[call-overload]
task.emit("progress", "anything")
task.on(PROGRESS, print)
task.register(PROGRESS, print)
assert_type(str(PROGRESS), str)
assert PROGRESS == "progress"
assert_type(task.event_counts[PROGRESS] + task.event_counts["progress"], int)


@task.on(PROGRESS)
def shows(done: int, text: str) -> None: ...


@task.on(PROGRESS, every=2)  # type: ignore[arg-type]
def shows_half(done: int) -> None: ...


# Running

assert_type(scheduler.run(), ExitState)
scheduler.run(on_cancelled="end", order="submission", wait=False)
scheduler.run(order="random")  # type: ignore[arg-type]
scheduler.run(on_cancelled="ignore")  # type: ignore[arg-type]
scheduler.run(on_exception={"ValueError": "end"})  # type: ignore[dict-item]
scheduler.run(on_exception={ValueError: "ignore"})  # type: ignore[dict-item]

# All results since the last call


@task.on_results
async def thinks(results: list[tuple[Future[str], str]]) -> None:
    for future, result in results:
        assert_type(future, Future[str])
        assert_type(result, str)


@task.on_results(every=3)
def thinks_seldom(results: list[tuple[Future[str], str]]) -> None: ...


@task.on_results  # type: ignore[arg-type]
def wants_one(future: Future[str], result: str) -> None: ...


@task.on_results  # type: ignore[arg-type]
def wants_others(results: list[tuple[Future[int], int]]) -> None: ...
