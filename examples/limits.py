"""Trainings of different sizes: those that are too large are ended, the others go on.

Run it with `python limits.py`; it works the same on any executor: try `python limits.py threads`.
"""

import sys
import time

from amlsched import Future, LimitError, Scheduler
from amlsched.plugins import Limits


def train(size: int, seconds: float) -> int:
    memory = bytearray(b"x") * (size * 2**20)
    time.sleep(seconds)
    return len(memory) >> 20


if __name__ == "__main__":
    executor = sys.argv[1] if len(sys.argv) > 1 else "processes"
    scheduler = Scheduler.from_name(executor)
    task = scheduler.task(train, plugins=Limits(walltime="2 s", memory="256 MiB"))

    @scheduler.on_start
    def submit() -> None:
        for size, seconds in ((10, 0.1), (1000, 0.1), (10, 60.0), (20, 0.2)):
            task.submit(size, seconds)

    @task.on_result
    def show(future: Future[int], size: int) -> None:
        print(f"call {future.number}: {size} MiB")

    @task.on_exception
    def explain(future: Future[int], error: BaseException) -> None:
        print(f"call {future.number}: {type(error).__name__}: {error}")

    scheduler.run(on_exception={LimitError: "continue"})
