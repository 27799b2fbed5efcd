"""A program with a scheduler, which tests send signals to. It says on its standard output what happens.

It ends by `os._exit(9)` when it gets SIGUSR1.

Arguments: name of the executor, name of a function of `tests.calls`, keywords of `run` as JSON, of which
`callback` is the name of one of the callbacks below.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from functools import partial
from typing import Any

from amlsched import Scheduler
from tests import calls
from tests.backends import BACKENDS

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # at once: print may write the end of the line later


async def hold(scheduler: Scheduler) -> None:
    """Goes on though it is cancelled."""
    say("holding")
    for _ in range(200):
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            # Said later, so that the next signal does not find this very function at work.
            asyncio.get_running_loop().call_later(0.05, say, "held on")


async def fail_once_running(scheduler: Scheduler) -> None:
    while not any(future.running() for future in scheduler.queue):
        await asyncio.sleep(0.01)
    raise RuntimeError("no luck")


def main(name: str, function: str, options: dict[str, Any]) -> None:
    (backend,) = (backend for backend in BACKENDS if backend.name == name)
    scheduler = backend.scheduler()
    task = scheduler.task(getattr(calls, function))
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(9))
    former = [signal.getsignal(number) for number in HANDLED]

    if callback := options.pop("callback", None):
        scheduler.on_start(partial({"hold": hold, "fail_once_running": fail_once_running}[callback], scheduler))
    scheduler.on_start(lambda: [task.submit(60) for _ in range(5)])
    scheduler.on_stop(lambda _, exception: say(f"on_stop {type(exception).__name__}"))
    scheduler.on_finished(lambda: say("on_finished"))
    task.on_cancelled(lambda future: say(f"cancelled {future.number}"))
    try:
        say(f"returned {scheduler.run(**options).code.name}")
    except BaseException as error:
        say(f"raised {type(error).__name__}")
        raise
    finally:
        restored = [signal.getsignal(number) for number in HANDLED] == former
        say(f"handlers {'restored' if restored else 'left behind'}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
