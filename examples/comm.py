"""Trainings report each epoch, and the driver stops those that fall behind.

Run it with `python comm.py`; it works the same on any executor: try `python comm.py sequential`.
"""

import sys

from amlsched import Future, Scheduler
from amlsched.plugins import Comm


def train(rate: float, epochs: int, *, comm: Comm) -> float:
    loss = 1.0
    with comm.open():
        for epoch in range(epochs):
            loss *= 1 - rate
            comm.send((epoch, loss))
            if comm.request("go on?", timeout=60) == "stop":
                break
    return loss


if __name__ == "__main__":
    executor = sys.argv[1] if len(sys.argv) > 1 else "processes"
    scheduler = Scheduler.from_name(executor)
    task = scheduler.task(train, plugins=Comm.Plugin())

    best: dict[int, float] = {}  # the best loss of each epoch
    latest: dict[Future[float], tuple[int, float]] = {}

    @scheduler.on_start
    def begin() -> None:
        for rate in (0.5, 0.4, 0.1, 0.05):
            task.submit(rate, epochs=5)

    @task.on("comm-message")
    def remember(msg: Comm.Msg[tuple[int, float]]) -> None:
        epoch, loss = latest[msg.future] = msg.data
        best[epoch] = min(loss, best.get(epoch, loss))

    @task.on("comm-request")
    def decide(msg: Comm.Msg[str]) -> None:
        epoch, loss = latest[msg.future]
        behind = loss > 2 * best[epoch]
        msg.respond("stop" if behind else "go on")

    @task.on_result
    def report(future: Future[float], loss: float) -> None:
        epoch, _ = latest[future]
        print(f"rate {future.args[0]}: loss {loss:.3f} after {epoch + 1} epochs")

    @task.on("comm-close")
    def lost(msg: Comm.Msg[None]) -> None:
        if msg.exception is not None:
            print(f"{msg.future} lost its channel: {msg.exception}")

    scheduler.run()
