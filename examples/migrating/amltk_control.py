"""Custom events, gates, a plugin, timers, and exit states."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from amlsched import Emitter, Event, Plugin, Scheduler, Task


class Doubled(Plugin):
    """Doubles the argument of each call, and rejects negative ones. Emits an event for both."""

    name = "doubled"
    DOUBLED: Event = Event("doubled")
    REFUSED: Event = Event("refused-negative")

    def attach_task(self, task: Task) -> None:
        self.task = task
        task.add_event(self.DOUBLED, self.REFUSED)
        task.on_submitted(self.tell, hidden=True)

    def pre_submit(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        (x,) = args
        if x < 0:
            self.task.emit(self.REFUSED, x)
            return None
        return fn, (2 * x,), kwargs

    def tell(self, future: Any, *args: Any, **kwargs: Any) -> None:
        self.task.emit(self.DOUBLED, *args)


def work(x: int) -> int:
    """A call that may fail."""
    if x == 14:
        raise ZeroDivisionError("fourteen")
    return x


def slow(begun: Path) -> int:
    """A call that takes a while, and creates a file when it starts."""
    begun.touch()
    time.sleep(0.3)
    return 100


def beside(begun: Path) -> int:
    """One that ends while the slow one runs."""
    while not begun.exists():
        time.sleep(0.01)
    return 1


def until_exhausted() -> None:
    """Gates of callbacks, the plugin's events, and an exception that does not end the run."""
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(work, plugins=Doubled())
    seen: dict[str, list[Any]] = {"every": [], "when": [], "max_calls": [], "doubled": [], "refused": [], "failed": []}

    @scheduler.on_start
    def begin() -> None:
        for x in (1, 2, -3, 4, 5, 7):
            task.submit(x)

    @task.on_result(every=2)
    def every(_: Any, result: int) -> None:
        seen["every"].append(result)

    @task.on_result(when=lambda: task.event_counts[task.RESULT] > 3)
    def when(_: Any, result: int) -> None:
        seen["when"].append(result)

    @task.on_result(max_calls=1)
    def max_calls(_: Any, result: int) -> None:
        seen["max_calls"].append(result)

    task.on_exception(lambda _, exception: seen["failed"].append(str(exception)))
    task.register("doubled", seen["doubled"].append)
    task.on("refused-negative")(seen["refused"].append)

    order: list[str] = []
    for name in ("start", "empty", "finishing", "finished"):
        getattr(scheduler, f"on_{name}")(lambda name=name: order.append(name))
    end = scheduler.run(on_exception={ZeroDivisionError: "continue", Exception: "raise"})
    print(end.code.name, seen, order)


def until_time_is_over() -> None:
    """A run that does not end when no call remains."""
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(work)
    order: list[str] = []

    @scheduler.on_start
    def begin() -> None:
        scheduler.call_later(0.2, task.submit, 3)

    task.on_result(lambda _, result: order.append(f"result {result}"))
    scheduler.on_timeout(lambda: order.append("timeout"))
    end = scheduler.run(timeout=4, end_on_empty=False)
    print(end.code.name, order)


def until_stopped(folder: Path) -> None:
    """`stop` as a callback; the run waits for a running call."""
    scheduler = Scheduler.with_processes(2)
    first, second = scheduler.task(slow), scheduler.task(beside)
    results: list[int] = []

    @scheduler.on_start
    def begin() -> None:
        first.submit(folder / "begun")
        second.submit(folder / "begun")

    for task in (first, second):
        task.on_result(lambda _, result: results.append(result))
    second.on_result(scheduler.stop)
    end = scheduler.run(wait=True)
    print(end.code.name, results)


def until_an_exception() -> None:
    """An exception that ends the run, and one that is raised."""
    for mode in ("end", "raise"):
        scheduler = Scheduler.with_sequential()
        task = scheduler.task(work)
        scheduler.on_start(lambda task=task: task.submit(14))
        try:
            end = scheduler.run(on_exception=mode)
            print(end.code.name, repr(end.exception))
        except ZeroDivisionError as error:
            print("raised", repr(error))


def emitters() -> None:
    """Events work without a scheduler too."""
    emitter = Emitter("bell")
    rung: Event = Event("rung")
    subscriber = emitter.subscriber(rung)
    subscriber(lambda tone: print("heard", tone))
    subscriber(lambda tone: print("again", tone), every=2)
    emitter.emit(rung, "c")
    emitter.emit(rung, "e")
    print(emitter.event_counts[rung])


if __name__ == "__main__":
    until_exhausted()
    until_time_is_over()
    with TemporaryDirectory() as folder:
        until_stopped(Path(folder))
    until_an_exception()
    emitters()
