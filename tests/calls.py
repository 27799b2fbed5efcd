"""Functions that tests submit: of a module that every worker can import."""

import asyncio
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path


def double(number: int) -> int:
    return 2 * number


def fail(message: str) -> None:
    raise ValueError(message)


class NoException(BaseException):
    """What a function may raise that nobody expects."""


def fail_with(error: BaseException) -> None:
    raise error


def not_run(kind: str) -> object:
    async def later() -> None: ...

    async def one_by_one() -> AsyncIterator[int]:
        yield 1

    return (n for n in (1,)) if kind == "generator" else later() if kind == "coroutine" else one_by_one()


def where() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def until_released(started: Path, release: Path, value: object = "released", ended: Path | None = None) -> object:
    """Runs until somebody makes the file `release`; says by the files `started` and `ended` that it runs, and ran."""
    started.touch()
    deadline = time.monotonic() + 90
    while not release.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody made {release}")
        time.sleep(0.002)
    if ended is not None:
        ended.touch()
    return value


def double_after_jitter(number: int) -> int:
    """Takes another short time on each worker and in each run."""
    time.sleep(random.SystemRandom().uniform(0, 0.004))
    return 2 * number


def end_by_signal(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def unsendable() -> object:
    return threading.Lock()


class Awkward:
    """Like an array: it can be sent, but neither be compared, nor shown, nor taken as a truth value."""

    def _refuse(self, *_: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __bool__ = __eq__ = __ne__ = __len__ = __contains__ = _refuse  # type: ignore[assignment]
    __str__ = __repr__ = __format__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def give_back(value: object) -> object:
    return value


def announce_and_sleep(seconds: float) -> None:
    os.write(1, b"running\n")
    time.sleep(seconds)


def announce_and_resist(seconds: float) -> None:
    """Ignores every signal that can be ignored."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    announce_and_sleep(seconds)


def announce_and_swallow(seconds: float) -> None:
    """Catches what ends it, and goes on."""
    deadline = time.monotonic() + seconds
    os.write(1, b"running\n")
    while time.monotonic() < deadline:
        try:
            time.sleep(0.05)
        except BaseException:
            os.write(1, b"swallowed\n")


def announce_and_start_a_program(seconds: float) -> None:
    program = subprocess.Popen(["sleep", str(seconds)])
    os.write(1, b"running\n")
    program.wait()


def announce_with_family(seconds: float) -> None:
    """Starts a child, a program with a session of its own, and a daemon whose parent has ended."""
    if not os.fork():
        time.sleep(seconds)
        os._exit(0)
    subprocess.Popen(["sleep", str(seconds)], start_new_session=True)
    between = os.fork()
    if not between:
        os.setsid()
        if not os.fork():
            time.sleep(seconds)
        os._exit(0)
    os.waitpid(between, 0)
    announce_and_sleep(seconds)


def leave_a_program(seconds: float) -> None:
    """Returns while a program with a session of its own goes on."""
    subprocess.Popen(["sleep", str(seconds)], start_new_session=True).returncode = 0


def add(left: int, right: int) -> int:
    return left + right


def double_unless_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return 2 * number


def unsendable_if(condition: bool) -> object:
    return threading.Lock() if condition else None


def use_asyncio(number: int) -> int:
    async def main() -> int:
        await asyncio.sleep(0)
        return 2 * number

    loop = main()
    try:
        return asyncio.run(loop)
    finally:
        loop.close()


class AwkwardError(Exception):
    """Pickle cannot build it again: it keeps other arguments than it takes."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")


def fail_awkwardly() -> None:
    raise AwkwardError("left", "right")


def double_slowly(number: int) -> int:
    time.sleep(0.5)
    return 2 * number
