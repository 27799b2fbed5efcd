"""Telling repetitions to stop, so that they can save what they have, and go on from there the next time.

A repetition is told by a file in its folder, `stop`, which works on every executor and on other hosts, or by a signal
to its own process. It hears of it when it asks, with `log.should_stop()`; that it asks is known by its checkpoint
folder.

A driver that gets a signal tells its repetitions; those that can stop get a grace.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from amlsched._context import contextmanager
from amlsched.experiments import capture, layout
from amlsched.signals import installed, unclaimed
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

__all__ = ["GRACE_S", "can_stop", "graceful", "listening", "request", "requested", "withdraw"]

GRACE_S = 20.0
"""Seconds that repetitions get by default; Slurm gives 30 between SIGTERM and SIGKILL (`KillWait`)."""
TERM_GRACE = "AMLSCHED_TERM_GRACE_S"
"""Where the keepers of worker processes read how long they wait when they get SIGTERM themselves."""
_END_TIMES = ("AMLSCHED_END_TIME", "SLURM_JOB_END_TIME")
"""Environment variables with the time at which the batch job is ended, in seconds since the epoch."""
_LOOK_AGAIN_S = 1.0
_STOP = "stop"
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
_WARNING = getattr(signal, "SIGUSR1", None)
_TO_WORKERS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


# ------------------------------------------------------------------------------------------ what is told, and who


def request(folder: Path, run_id: str) -> None:
    """Tell the repetition in this folder to stop, as far as it belongs to this run."""
    with contextlib.suppress(OSError):  # a disk that fails is told of elsewhere
        folder.mkdir(parents=True, exist_ok=True)  # it may be about to begin
        (folder / _STOP).write_text(run_id)


def withdraw(folder: Path) -> None:
    """Nobody is to be told any more."""
    with contextlib.suppress(OSError):
        (folder / _STOP).unlink(missing_ok=True)


def requested(folder: Path, run_id: str) -> bool:
    """Whether the repetition of this run is to stop."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # NFS then looks at the folder anew
        try:
            stop = os.open(_STOP, os.O_RDONLY, dir_fd=opened)
        finally:
            os.close(opened)
    except OSError:
        return False
    with open(stop, "rb") as file:
        return file.read() == run_id.encode()


def can_stop(folder: Path) -> bool:
    """Whether the repetition in this folder asks if it should stop."""
    return (folder / layout.CHECKPOINT).is_dir()


@contextmanager
def listening(told: threading.Event, folder: Path) -> Generator[None]:
    """While in here, SIGTERM and SIGUSR1 to this worker process tell its repetition, if it can stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, _: Any) -> None:
        if can_stop(folder):
            told.set()  # who wants more than that uses SIGKILL
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    ours = [number for number in _TO_WORKERS if _is_default(number)]
    for number in ours:
        signal.signal(number, signal.SIG_DFL)  # what a fork of the driver has inherited is not to come back
    with installed(handler, ours):
        yield


def _is_default(number: int) -> bool:
    """Whether nobody handles the signal, but for a driver that this worker was forked from."""
    handler = signal.getsignal(number)
    return handler in (signal.SIG_DFL, signal.default_int_handler) or getattr(handler, "__module__", "") == __name__


# -------------------------------------------------------------------------------------------------- in the driver


@contextmanager
def graceful(
    tell: Callable[[], int], interrupt: Callable[[BaseException], bool], kill: Callable[[], None], grace_s: float
) -> Generator[None]:
    """While in here, a signal, or a batch job that is near its end, tells repetitions to stop.

    The first signal tells them; once the grace is over, or with the second one, the run is interrupted; the third
    kills. Where nobody can stop, the first one interrupts, unless it is only the warning that a batch job is near
    its end (SIGUSR1), which comes again each second until somebody can or the job is ended. A handler that the program
    set itself is left alone.

    Args:
        tell: Tells them; returns how many can stop.
        interrupt: Ends the run; returns whether it takes care of raising what it is given.
        kill: Ends the workers at once.
        grace_s: Seconds that those get who can stop.

    Raises:
        KeyboardInterrupt: After SIGINT, once the run has ended.
        SystemExit: After another signal, with 128 plus its number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    error: BaseException | None = None
    timers: list[threading.Timer] = []
    stage = 0

    def later(seconds: float, number: int) -> None:
        timers.append(threading.Timer(seconds, os.kill, (os.getpid(), number)))
        timers[-1].daemon = True
        timers[-1].start()

    driver = os.getpid()

    def handler(number: int, _: Any) -> None:
        nonlocal error, stage
        if os.getpid() != driver:  # a worker that was forked, between two repetitions
            return
        count = 0 if stage else tell()
        if number == _WARNING and not stage and not count:
            if (_left_s() or 0) > 0:
                later(_LOOK_AGAIN_S, number)  # one that has just begun can stop once it has its checkpoint folder
            return  # they may still end in time
        stage += 1
        if error is None:
            error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        if count:
            text = f"{counted(count, 'repetition', 'are')} told to stop, within {grace_s:g} s\n"
            with contextlib.suppress(OSError):  # not by way of a stream, which this may have interrupted
                os.write(capture.console(2), text.encode())
            later(grace_s, number)
            return
        if stage > 2:
            kill()
            raise error
        stage = 2
        if not interrupt(error):
            raise error

    ours = unclaimed(_SIGNALS)
    grace_before = os.environ.get(TERM_GRACE)
    os.environ[TERM_GRACE] = str(grace_s)
    try:
        with installed(handler, ours):
            if (left_s := _left_s()) is not None and signal.SIGUSR1 in ours:
                later(max(0.0, left_s - grace_s), signal.SIGUSR1)
            yield
    finally:
        for timer in timers:
            timer.cancel()
        if grace_before is None:
            os.environ.pop(TERM_GRACE, None)
        else:
            os.environ[TERM_GRACE] = grace_before
    if error is not None:
        raise error


def _left_s() -> float | None:
    """Seconds until the batch job is ended; `None` where nobody says."""
    for name in _END_TIMES:
        with contextlib.suppress(KeyError, ValueError):
            left_s = float(os.environ[name]) - time.time()
            if math.isfinite(left_s):
                return left_s
    return None
