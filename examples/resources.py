"""As many calls at a time as fit into two CPUs and 2 GiB, the longest first.

python examples/resources.py
"""

import time

from amlsched import Scheduler
from amlsched.resources import Pool, Resources, current_allocation


def train(model: str, seconds: float) -> str:
    """Pretend to train a model."""
    time.sleep(seconds)
    got = current_allocation()
    assert got is not None
    return f"{model}: {got.n_threads} threads, {got.memory // 1024**2} MiB"


def needed(model: str, seconds: float) -> Resources:
    """What such a call needs."""
    large = model == "forest"
    return Resources(cpus=2 if large else 1, memory="1.5 GiB" if large else "800 MiB", time=f"{seconds} s")


def main() -> None:
    """Run six calls."""
    scheduler = Scheduler.with_processes(pool=Pool(cpus=2, memory="2 GiB"))
    task = scheduler.task(train, resources=needed)

    @scheduler.on_start
    def start() -> None:
        for model, seconds in [("linear", 0.1), ("forest", 0.3), ("linear", 0.2)] * 2:
            task.submit(model, seconds)

    @task.on_result
    def report(_: object, result: str) -> None:
        print(result)

    scheduler.run()


if __name__ == "__main__":
    main()
