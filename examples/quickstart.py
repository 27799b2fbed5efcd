"""Calls of a function in two processes, and the outcome of each: `python examples/quickstart.py`."""

from amlsched import Future, Scheduler


def inverse(x: int) -> float:
    """The function that is run; it fails for 0."""
    return 1 / x


if __name__ == "__main__":
    scheduler = Scheduler.with_processes(2)
    task = scheduler.task(inverse)

    @scheduler.on_start
    def begin() -> None:
        for x in range(4):
            task.submit(x)

    @task.on_result
    def good(future: Future[float], result: float) -> None:
        print(f"{future.args[0]}: {result:.2f}")

    @task.on_exception
    def bad(future: Future[float], exception: BaseException) -> None:
        print(f"{future.args[0]}: {exception!r}")

    print(scheduler.run(on_exception="continue"))
