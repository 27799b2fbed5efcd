"""Calls that report each epoch and ask whether to go on; the scheduler stops the worse ones."""

from typing import Any

from amlsched import Scheduler
from amlsched.plugins import Comm


def train(rate: float, epochs: int, *, comm: Comm) -> tuple[float, int]:
    """The loss, and the epoch after which the scheduler stopped it."""
    loss = 100.0
    with comm.open():
        for epoch in range(1, epochs + 1):
            loss *= 1 - rate
            comm.send({"epoch": epoch, "loss": loss})
            if comm.request(loss) == "stop":
                break
    return round(loss, 3), epoch


def impatient(comm: Comm) -> str:
    """Sends a request that is not answered in time."""
    with comm.open():
        try:
            comm.request("is anybody there?", timeout=0.2)
        except Comm.TimeoutError:
            return "nobody answered"
    return "answered"


def main() -> None:
    scheduler = Scheduler.with_processes(2)
    trainer = scheduler.task(train, plugins=Comm.Plugin())
    asker = scheduler.task(impatient, plugins=[Comm.Plugin()])
    seen: list[str] = []
    reports: dict[Any, list[float]] = {}
    results: list[Any] = []

    @scheduler.on_start
    def begin() -> None:
        for rate in (0.01, 0.3, 0.5):
            trainer.submit(rate, epochs=5)
        asker.submit()

    @trainer.on("comm-open")
    def opened(msg: Comm.Msg) -> None:
        seen.append("open")
        reports[msg.future] = []

    @trainer.on("comm-message")
    def report(msg: Comm.Msg) -> None:
        reports[msg.future].append(msg.data["loss"])

    @trainer.on("comm-request")
    def judge(msg: Comm.Msg) -> None:
        bad = len(reports[msg.future]) == 2 and msg.data > 50
        msg.respond("stop" if bad else "go on")

    unanswered: list[Comm.Msg] = []
    asker.on("comm-request")(unanswered.append)

    @trainer.on("comm-close")
    def closed(msg: Comm.Msg) -> None:
        seen.append("close")

    def keep(future: Any, result: Any) -> None:
        results.append(result)

    trainer.on_result(keep)
    asker.on_result(keep)
    scheduler.run()

    print(sorted(seen))
    print(sorted(len(losses) for losses in reports.values()))
    print(sorted(results, key=str))


if __name__ == "__main__":
    main()
