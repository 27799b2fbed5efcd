"""Whatever happens in whatever order, every call of a run ends once, and the run ends."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amlsched import Future, Scheduler
from tests.backends import ByHand
from tests.journal import Journal

ACTIONS = ("submit", "start", "finish", "fail", "cancel", "cancel its work", "turn", "await")
ENDINGS = ("nothing", "stop", "raise", "interrupt", "stop in a callback")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    actions=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30)), max_size=40),
    ending=st.sampled_from(ENDINGS),
    order=st.sampled_from(["completion", "submission"]),
    batch_size=st.sampled_from([1, 1, 3]),
    wait=st.booleans(),
    on_exception=st.sampled_from(["continue", "end"]),
    on_cancelled=st.sampled_from(["continue", "end"]),
)
def test_every_call_ends_once_and_the_run_ends(
    actions: list[tuple[str, int]], ending: str, batch_size: int, **options: Any
) -> None:
    executor = ByHand()
    scheduler = Scheduler(executor)
    task = scheduler.task(abs, batch_size=batch_size)
    journal = Journal(scheduler, task)
    futures: list[Future[int]] = []
    awaiting: list[asyncio.Task[Any]] = []

    def act(action: str, index: int) -> None:
        if action == "submit" and scheduler.running():
            future = task.submit(len(futures))
            assert future is not None
            futures.append(future)
        elif action in ("cancel", "await") and futures:
            future = futures[index % len(futures)]
            if action == "cancel":
                future.cancel()
            else:
                awaiting.append(asyncio.create_task(_silently(future)))
        elif executor.calls:
            _end(executor, index % len(executor.calls), action)

    @scheduler.on_start
    async def play() -> None:
        for action, index in actions:
            if action == "turn":
                await asyncio.sleep(0)
            else:
                act(action, index)
        if ending == "stop":
            scheduler.stop()
        elif ending == "raise":
            raise ValueError
        elif ending == "interrupt":
            raise KeyboardInterrupt

    @scheduler.on_start
    async def finish_what_is_left() -> None:  # else the run would wait for ever, rightly
        for _ in range(len(actions) + 2):
            await asyncio.sleep(0)
        while scheduler.running() and (scheduler.queue or any(not call[0].done() for call in executor.calls)):
            finish_all()
            await asyncio.sleep(0)

    def finish_all() -> None:
        for index in range(len(executor.calls)):
            _end(executor, index, "finish")

    if ending == "stop in a callback":
        task.on_done(scheduler.stop, every=2)
    scheduler.on_finishing(finish_all)

    scheduler.on_start(lambda: scheduler.call_later(10, scheduler.stop, exception=TimeoutError("the run hangs")))
    try:
        state = scheduler.run(**options)
    except KeyboardInterrupt:
        assert ending == "interrupt"
    else:
        assert not isinstance(state.exception, TimeoutError)
    journal.assert_every_call_ended_once()
    assert journal.of_the_run[-2:] == ["on_finishing", "on_finished"]
    assert journal.counts["on_finished"] == 1
    assert all(future.done() for future in futures)
    assert task.n_running == 0
    if options["order"] == "submission":
        ends = ("on_future_result", "on_future_exception", "on_future_cancelled")
        ended = [int(line.rpartition(" ")[2]) for line in journal.lines if line.startswith(ends)]
        assert ended == sorted(ended)


async def _silently(future: Future[int]) -> None:
    try:
        await future
    except (Exception, asyncio.CancelledError):
        return


def _end(executor: ByHand, index: int, action: str) -> None:
    work = executor.calls[index][0]
    if action == "cancel its work":
        if work.cancel():
            work.set_running_or_notify_cancel()
    elif work.done():
        return
    elif action == "start":
        if not work.running():
            work.set_running_or_notify_cancel()
    elif action == "finish":
        _, function, args, kwargs = executor.calls[index]
        work.set_result(function(*args, **kwargs))
    elif action == "fail":
        work.set_exception(ValueError("no luck"))
