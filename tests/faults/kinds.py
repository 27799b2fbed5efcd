"""What a function may do that looks like a fault of its worker, and how its call ends; for workers to import."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from asyncio import CancelledError
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, NoReturn

from tests.faults.misbehaving import RAISED

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KINDS", "REASON", "act", "left", "repetition"]

REASON = "the real reason"


def _raises(make: Callable[[], BaseException]) -> Callable[[], NoReturn]:
    def function() -> NoReturn:
        raise make()

    return function


def _break_a_pool() -> None:
    with ProcessPoolExecutor(1) as pool:
        pool.submit(os._exit, 3).result()


def _use_a_pool() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(abs, -1).result() == 1


def _fork() -> None:
    os.fork()  # and both return


def _fork_and_raise() -> None:
    if os.fork() == 0:
        raise ValueError("in the child")


def _leave_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


left: list[subprocess.Popen[bytes]] = []


def _leave_a_child() -> None:
    left.append(subprocess.Popen(["sleep", "600"]))


def _return_a_generator() -> Any:
    return (number for number in ())


KINDS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "raises BrokenExecutor": (_raises(lambda: BrokenExecutor(REASON)), ("BrokenExecutor",)),
    "raises BrokenProcessPool": (_raises(lambda: BrokenProcessPool(REASON)), ("BrokenProcessPool",)),
    "a pool inside breaks": (_break_a_pool, ("BrokenProcessPool",)),
    "exits": (_raises(lambda: SystemExit(REASON)), ("CallAbortedError", "SystemExit")),
    "is cancelled": (_raises(lambda: CancelledError(REASON)), ("CallAbortedError", "CancelledError")),
    "raises what cannot be sent": (_raises(RAISED["delegates"]), ("Delegates", "NotPicklableError")),
    "raises what exits at pickle": (_raises(RAISED["exits when pickled"]), ("ExitsWhenPickled", "NotPicklableError")),
    "raises a group": (_raises(RAISED["in a group"]), ("ExceptionGroup",)),
    "raises a frozen exception": (_raises(RAISED["frozen"]), ("Frozen",)),
    "returns a generator": (_return_a_generator, ("TypeError", "NotPicklableError", "ExperimentError")),
    "uses a pool": (_use_a_pool, ()),
    "forks": (_fork, ()),
    "forks, and the child raises": (_fork_and_raise, ()),
    "leaves a thread": (_leave_a_thread, ()),
    "leaves a child": (_leave_a_child, ()),
}
"""For each kind what does it, and the types with which its call, or the attempt of its repetition, may end: none if it
returns. An exception is the function's own if it can be sent."""


def act(kind: str) -> Any:
    """Do it."""
    return KINDS[kind][0]()


def repetition(params: dict[str, Any], rep: int, log: Any) -> Any:
    """Do it as a repetition."""
    log(process=os.getpid())
    sys.stdout.flush()
    return act(params["kind"])
