"""What a call leaves behind in its process does no harm to the next one, and does not hold up the end of a run."""

from __future__ import annotations

import gc
import inspect
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from amlsched import ExitState, Scheduler

pytestmark = [
    pytest.mark.timeout(120, method="thread"),  # the other method sets an alarm
    pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it"),
]


def _for_ever() -> None:
    while True:
        time.sleep(1)


def _raise_later() -> None:
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("rings too late"))
    signal.setitimer(signal.ITIMER_REAL, 0.2)


def _no_folder() -> None:
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    folder.rmdir()


def _little_stack() -> None:
    sys.setrecursionlimit(len(inspect.stack()) + 40)


def _no_files_more() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (8, most))


LEFT: dict[str, Any] = {
    "thread": lambda: threading.Thread(target=_for_ever).start(),
    "child": lambda: multiprocessing.get_context("fork").Process(target=_for_ever).start(),
    "program": lambda: subprocess.Popen(["sleep", "300"]),
    "alarm": lambda: signal.alarm(1),
    "timer": _raise_later,
    "no working folder": _no_folder,
    "handlers": lambda: [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGCHLD)],
    "mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals)),
    "umask": lambda: os.umask(0o777),
    "filters": lambda: warnings.simplefilter("error"),
    "no output": lambda: setattr(sys, "stdout", None),
    "closed streams": lambda: [stream.close() for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "closed descriptors": lambda: [os.close(fd) for fd in (0, 1, 2)],
    "little stack": _little_stack,
    "few files": _no_files_more,
    "no environment": os.environ.clear,
    "no path": sys.path.clear,
    "gc": lambda: gc.set_threshold(1),
    "impatient sockets": lambda: socket.setdefaulttimeout(0.0001),
}


def leave(kind: str) -> int:
    LEFT[kind]()
    return os.getpid()


def afterwards(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def run(scheduler: Scheduler, kind: str, seconds: float) -> list[Any]:
    """What a call that leaves this behind and the one after it end with."""
    ends: list[Any] = []
    scheduler.on_future_result(lambda _, result: ends.append(result))
    scheduler.on_future_exception(lambda _, error: ends.append(error))
    scheduler.on_future_retry(lambda _, error, attempt: ends.append(error))
    scheduler.on_start(lambda: [scheduler.submit(leave, kind), scheduler.submit(afterwards, seconds)])
    assert scheduler.run(on_exception="continue", order="submission").code is ExitState.Code.EXHAUSTED
    return ends


@pytest.mark.parametrize("kind", [kind for kind in LEFT if kind not in ("thread", "child")])
def test_the_next_call_of_a_worker_does_not_notice(kind: str) -> None:
    first, second = run(Scheduler.with_processes(1), kind, 0.4 if kind == "timer" else 1.2 if kind == "alarm" else 0)
    assert first == second  # the worker lives on


def test_an_alarm_of_a_call_is_none_of_the_next_on_loky() -> None:
    pytest.importorskip("loky")
    first, second = run(Scheduler.with_loky(1), "timer", 0.4)
    assert first == second


def test_an_alarm_of_a_thread_does_not_end_the_program() -> None:
    first, second = run(Scheduler.with_threads(1), "alarm", 1.2)
    assert first == second


@pytest.mark.parametrize("kind", ["timer", "alarm", "filters", "no output"])
def test_the_next_call_in_the_process_of_the_driver_does_not_notice(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    former = signal.getsignal(signal.SIGALRM)
    try:
        with warnings.catch_warnings():
            assert run(Scheduler.with_sequential(), kind, 1.2 if kind == "alarm" else 0.4) == [os.getpid()] * 2
    finally:
        signal.signal(signal.SIGALRM, former)


def test_an_alarm_of_the_driver_stays() -> None:
    rung: list[int] = []
    former = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        scheduler = Scheduler.with_sequential()
        scheduler.on_start(lambda: scheduler.submit(afterwards, 0.1))
        scheduler.run()
        deadline = time.monotonic() + 10
        while not rung and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGALRM, former)
    assert rung == [signal.SIGALRM]


@pytest.mark.parametrize("kind", ["thread", "child"])
@pytest.mark.parametrize("name", ["processes", "loky"])
def test_what_never_ends_does_not_hold_up_the_end_of_a_run(name: str, kind: str) -> None:
    if name == "loky":
        pytest.importorskip("loky")
    first, second = run(Scheduler.from_name(name, max_workers=1), kind, 0)
    assert first == second


def test_a_worker_of_loky_that_leaves_in_the_midst_of_a_run_does_not_hold_it_up() -> None:
    pytest.importorskip("loky")
    scheduler = Scheduler.with_loky(1, timeout=0.2)
    ends: list[int] = []

    def later() -> None:
        scheduler.call_later(1.5, lambda: scheduler.submit(afterwards, 0))

    scheduler.on_future_result(lambda _, result: ends.append(result))
    scheduler.on_start(lambda: scheduler.submit(leave, "thread"))
    scheduler.on_future_result(lambda *_: scheduler.stop() if len(ends) == 2 else later(), max_calls=2)
    with warnings.catch_warnings(action="ignore"):  # loky says that a worker stopped
        scheduler.run(end_on_empty=False, timeout=60)
    assert len(set(ends)) == 2
