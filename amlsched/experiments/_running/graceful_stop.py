"""Graceful stop: repetitions are asked to stop, so that they can save their state and resume from it later.

A repetition is asked to stop by a file `stop` in its folder, which works with every executor and on other hosts, or by
a signal to its own process. It finds out by calling `log.should_stop()`. A repetition that calls that has a checkpoint
folder, which shows that it is able to stop.

A driver that receives a signal asks its repetitions to stop; those that are able to get a grace period.
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
from amlsched._signals import installed, unclaimed
from amlsched.experiments._running import output_capture
from amlsched.experiments._storage import layout
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

__all__ = ["GRACE_S", "can_stop", "graceful", "stop_on_signals", "request", "requested", "withdraw"]

GRACE_S = 20.0
"""The default grace period in seconds; Slurm waits 30 between SIGTERM and SIGKILL (`KillWait`)."""
TERM_GRACE = "AMLSCHED_TERM_GRACE_S"
"""Environment variable with the seconds that supervisors of worker processes wait after they receive SIGTERM."""
_END_TIMES = ("AMLSCHED_END_TIME", "SLURM_JOB_END_TIME")
"""Environment variables with the end of the batch job's time limit, in seconds since the epoch."""
_LOOK_AGAIN_S = 1.0
_STOP = "stop"
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
_WARNING = getattr(signal, "SIGUSR1", None)
_TO_WORKERS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


# -------------------------------------------------------------------------------------------- stopping a repetition


def request(folder: Path, run_id: str) -> None:
    """Ask the repetition in this folder to stop, if it belongs to this run."""
    with contextlib.suppress(OSError):  # other writes report a failing disk
        folder.mkdir(parents=True, exist_ok=True)  # it may be about to start
        (folder / _STOP).write_text(run_id)


def withdraw(folder: Path) -> None:
    """Withdraw the request to stop."""
    with contextlib.suppress(OSError):
        (folder / _STOP).unlink(missing_ok=True)


def requested(folder: Path, run_id: str) -> bool:
    """Whether the repetition of this run is asked to stop."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # makes NFS refresh the folder
        try:
            stop = os.open(_STOP, os.O_RDONLY, dir_fd=opened)
        finally:
            os.close(opened)
    except OSError:
        return False
    with open(stop, "rb") as file:
        return file.read() == run_id.encode()


def can_stop(folder: Path) -> bool:
    """Whether the repetition in this folder calls `should_stop`."""
    return (folder / layout.CHECKPOINT).is_dir()


@contextmanager
def stop_on_signals(asked: threading.Event, folder: Path) -> Generator[None]:
    """Within this context, SIGTERM and SIGUSR1 ask this worker process's repetition to stop, if it is able to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, _: Any) -> None:
        if can_stop(folder):
            asked.set()  # only SIGKILL does more than that
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    ours = [number for number in _TO_WORKERS if _is_default(number)]
    for number in ours:
        signal.signal(number, signal.SIG_DFL)  # do not restore a handler that was inherited from the driver by fork
    with installed(handler, ours):
        yield


def _is_default(number: int) -> bool:
    """Whether the signal is not handled, except by a handler of the driver that this worker was forked from."""
    handler = signal.getsignal(number)
    return handler in (signal.SIG_DFL, signal.default_int_handler) or getattr(handler, "__module__", "") == __name__


# -------------------------------------------------------------------------------------------------- in the driver


@contextmanager
def graceful(
    request_stop: Callable[[], int],
    interrupt: Callable[[BaseException], bool],
    kill: Callable[[], None],
    grace_s: float,
) -> Generator[None]:
    """Within this context, a signal, or the end of the batch job's time limit, asks repetitions to stop.

    The first signal asks them to stop. The run is interrupted after the grace period, or by the second signal; the
    third signal kills the workers. If no repetition is able to stop, the first signal interrupts, except for the
    warning that the batch job is near its time limit (SIGUSR1): that is repeated each second until one is able to, or
    until the job ends. Signal handlers that the program set itself are not replaced.

    Args:
        request_stop: Asks them to stop; returns how many are able to.
        interrupt: Interrupts the run; returns whether the run will raise the error it is given.
        kill: Kills the workers.
        grace_s: The grace period in seconds.

    Raises:
        KeyboardInterrupt: After SIGINT, when the run has ended.
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

    def say(text: str, on_terminal: str) -> None:
        with contextlib.suppress(OSError):  # not through a stream, as this handler may have interrupted it
            console = output_capture.console(2)
            text += on_terminal if os.isatty(console) else ""
            if text:
                os.write(console, f"{text}\n".encode())

    def handler(number: int, _: Any) -> None:
        nonlocal error, stage
        if os.getpid() != driver:  # a worker that was forked, between two repetitions
            return
        count = 0 if stage else request_stop()
        if number == _WARNING and not stage and not count:
            if (_left_s() or 0) > 0:
                later(_LOOK_AGAIN_S, number)  # one that has just started is able to after it calls should_stop
            return  # they may still finish in time
        stage += 1
        if error is None:
            error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        if count:
            text = f"Stopping: {counted(count, 'repetition', 'have')} {grace_s:g} s to save and stop"
            say(text, "" if number != signal.SIGINT else "; Ctrl-C again cancels them now, a third time kills them")
            later(grace_s, number)
            return
        if stage > 2:
            kill()
            raise error
        is_first, stage = stage == 1, 2
        if not interrupt(error):
            raise error
        if is_first and number == signal.SIGINT:
            say("", "Stopping: running repetitions are cancelled (the same command resumes); Ctrl-C again kills them")

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
    """Seconds until the batch job's time limit; `None` if unknown."""
    for name in _END_TIMES:
        with contextlib.suppress(KeyError, ValueError):
            left_s = float(os.environ[name]) - time.time()
            if math.isfinite(left_s):
                return left_s
    return None
