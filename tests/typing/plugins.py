"""Plugins and what they change of a task; read by mypy and pyright, see `calls.py`."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import Any, assert_type

from amlsched import Future, Scheduler
from amlsched.plugins import Comm, Limiter

scheduler = Scheduler.with_processes(2)


def train(epochs: int, *, comm: Comm) -> float:
    with comm.open() as opened:
        assert_type(opened, Comm)
        comm.send(epochs)
    return 0.5


def asks(comm: Comm, question: str) -> int:
    return len(question)


def may_ask(question: str, comm: Comm | None = None) -> int:
    return len(question)


# The plugin gives the argument `comm`

task = scheduler.task(train, plugins=Comm.Plugin())
future = task.submit(3)
if future is not None:
    assert_type(future, Future[float])
task.submit(epochs=3)
asking = scheduler.task(asks, plugins=[Comm.Plugin(), Limiter(max_concurrent=2)])
asking.submit(question="why")
asking.submit("why")
scheduler.task(may_ask, plugins=Comm.Plugin()).submit("why")
scheduler.task(may_ask).submit(3)  # type: ignore[arg-type]

# Its messages


@task.on("comm-message")
def show(msg: Comm.Msg[int]) -> None:
    assert_type(msg.data, int)


@task.on(Comm.REQUEST)
def answer(msg: Comm.Msg[Any]) -> None:
    msg.respond(msg.data)


@task.on(Comm.MESSAGE)  # type: ignore[arg-type]
def takes_two(msg: Comm.Msg[int], more: int) -> None: ...


@task.on("comm-close")
async def closed(msg: Comm.Msg[None]) -> None: ...


@task.on("comm-open")
def of_any_type(msg: Comm.Msg) -> None:
    assert_type(msg.data, Any)


@task.on_result
def takes_the_result(future: Future[float], result: float) -> None: ...


@task.on_result  # type: ignore[arg-type]
def takes_another_type(future: Future[float], result: str) -> None: ...


# Wherever the function has it, and in methods


def asks_last(first: int, second: int, comm: Comm) -> int:
    return first + second


class Net:
    def fit(self, epochs: int, comm: Comm) -> str:
        return str(epochs)


scheduler.task(asks_last, plugins=[Comm.Plugin()]).submit(1, 2)
fitting = scheduler.task(Net().fit, plugins=Comm.Plugin()).submit(3)
if fitting is not None:
    assert_type(fitting, Future[str])


def evaluate(config: Any, seed: int) -> float:
    return 0.5


# Other plugins change no argument

evaluation = scheduler.task(evaluate, plugins=[Limiter(max_calls=3)])
evaluation.submit({}, 1)
evaluation.submit({}, "1")  # type: ignore[arg-type]
evaluation.submit({})  # type: ignore[call-arg]


# Data that calls share stands for what it is


def total(data: list[int], start: int, *, scale: float = 1.0) -> float:
    return sum(data[start:]) * scale


shared = scheduler.scatter([1, 2, 3])
assert_type(shared.value, list[int])
summing = scheduler.task(total)
summing.submit(shared, 0)
summing.submit([1, 2], 0)
summing.submit(start=0, data=shared)
scheduler.submit(total, shared, 0)
summing.submit(shared, "0")  # type: ignore[arg-type]
