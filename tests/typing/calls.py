"""Read by mypy and pyright in strict mode, and never run.

A line with an `ignore` has to be an error for both: an ignore that is not needed is an error itself.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

from amlsched import Future, Scheduler


def train(seed: int, *, rate: float = 0.1) -> str:
    return f"{seed} {rate}"


scheduler = Scheduler.with_threads(max_workers=2)
task = scheduler.task(train)

assert_type(scheduler, Scheduler)

# Calls

future = task.submit(1, rate=0.5)
if future is not None:
    assert_type(future, Future[str])

task.submit("1")  # type: ignore[arg-type]
task.submit(1, 2)  # type: ignore[call-arg]
task.submit(1, speed=3)  # type: ignore[call-arg]
task.submit()  # type: ignore[call-arg]
assert_type(scheduler.submit(train, 1), Future[str])
scheduler.submit(train, "1")  # type: ignore[arg-type]

# Constructors have the parameters of the executors that they make

Scheduler.with_processes(2, initializer=print, initargs=("started",))
Scheduler.with_processes(2, retries_on_loss=0)
assert_type(Scheduler.with_processes(2, retries_on_loss=0), Scheduler)
assert_type(Scheduler.with_sequential(receipts=True), Scheduler)
Scheduler.with_threads("2")  # type: ignore[call-overload]
Scheduler.with_sequential(2)  # type: ignore[call-overload]
Scheduler.with_threads(workers=2)  # type: ignore[call-overload]

# Callbacks


@task.on_result
def takes_the_result(future: Future[str], result: str) -> None: ...


@task.on_result(every=10, max_calls=3)
def takes_some_results(future: Future[str], result: str) -> None: ...


@task.on_result
async def waits(future: Future[str], result: str) -> None: ...


@task.on_result  # type: ignore[arg-type]
def takes_another_type(future: Future[str], result: int) -> None: ...


@task.on_result  # type: ignore[arg-type]
def takes_too_little(future: Future[str]) -> None: ...


@task.on_exception
def takes_the_exception(future: Future[str], exception: BaseException) -> None: ...


@task.on_exception  # type: ignore[arg-type]
def takes_a_narrower_exception(future: Future[str], exception: ValueError) -> None: ...


@task.on_submitted
def takes_the_arguments(future: Future[str], seed: int, *, rate: float = 0.1) -> None: ...


@task.on_submitted  # type: ignore[arg-type]
def takes_other_arguments(future: Future[str], seed: str) -> None: ...


@scheduler.on_start
def begins() -> None: ...


@scheduler.on_start  # type: ignore[arg-type]
def begins_with_an_argument(future: Future[str]) -> None: ...


@scheduler.on_stop
def hears_why(msg: str, exception: BaseException | None) -> None: ...


# Running

scheduler.run(on_exception="continue")
scheduler.run(on_exception={ValueError: "end", Exception: "continue"})
scheduler.run(on_exception="ignore")  # type: ignore[arg-type]
scheduler.run(timeout="5 s")  # type: ignore[arg-type]
