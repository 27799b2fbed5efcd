"""Two custom plugins, written with public names only.

`Seeded` rewrites each call: it passes a seed. `Patience` subscribes to results, rejects calls once results have not
improved for a while, and emits an event of its own.
"""

import random
from collections.abc import Callable
from typing import Any, ClassVar

from amlsched import Event, Future, Plugin, Scheduler, Task


class Seeded(Plugin):
    """Each call gets a keyword `seed` of its own, the same in every run."""

    name: ClassVar[str] = "seeded"

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        """Called before each run."""
        self.random = random.Random(self.seed)

    def pre_submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Called at each submission: its return value is submitted."""
        return fn, args, {**kwargs, "seed": self.random.getrandbits(32)}


class Patience(Plugin):
    """Rejects calls once `patience` results in a row were no better than the best before them."""

    name: ClassVar[str] = "patience"

    # An event of a plugin is a class attribute. It has the names of the arguments of its callbacks: a callback that
    # cannot take them raises when it is registered.
    OUT_OF_PATIENCE: ClassVar[Event[[Task[..., Any], float], Any]] = Event("out-of-patience", ("task", "best"))

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.reset()

    def reset(self) -> None:
        """Called before each run."""
        self.best = float("-inf")
        self.without_gain = 0

    def attach_task(self, task: Task[..., Any]) -> None:
        """Called once, to keep the task and subscribe to its events; `hidden` leaves the callback out of displays."""
        self.task = task
        task.on_result(self.look_at, hidden=True)

    def look_at(self, future: Future[float], result: float) -> None:
        """Count, and emit the event when patience has run out."""
        self.without_gain = 0 if result > self.best else self.without_gain + 1
        self.best = max(self.best, result)
        if self.without_gain == self.patience:
            self.task.emit(self.OUT_OF_PATIENCE, self.task, self.best)

    def pre_submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`None` rejects the call: `task.submit` returns `None` too."""
        return None if self.without_gain >= self.patience else (fn, args, kwargs)

    def __str__(self) -> str:
        """The line of the plugin in the live display."""
        return f"patience: {self.without_gain} of {self.patience}, best {self.best:.3f}"


def sample(seed: int) -> float:
    """One step of a random search."""
    return random.Random(seed).random()


def main() -> None:
    scheduler = Scheduler.with_processes(2)
    task: Task[..., float] = scheduler.task(sample, plugins=[Seeded(1), Patience(20)])

    scheduler.on_start(task.submit, repeat=2)  # two calls are in flight
    task.on_result(lambda *_: task.submit())

    @task.on("out-of-patience")
    def tell(task: Task[..., float], best: float) -> None:
        print(f"best of {task.n_submitted} samples: {best:.3f}")

    scheduler.run(order="submission")  # so that the search is the same on any machine


if __name__ == "__main__":
    main()
