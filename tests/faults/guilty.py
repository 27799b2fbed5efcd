"""Calls that go wrong in every way, for the matrix of faults: of a module that every worker can import."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from typing import Any, NoReturn

__all__ = ["WAYS", "AtLoad", "Unloadable", "die", "die_as_argument", "guilty", "innocent"]


def _segmentation_fault() -> None:
    ctypes.string_at(0)


WAYS = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": _segmentation_fault,
    "os._exit": lambda: os._exit(3),
}


def die(way: str) -> NoReturn:
    """End this process."""
    WAYS[way]()
    signal.pause()
    raise AssertionError("it did not die")


class AtLoad:
    """Kills the process that loads it."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce__(self) -> Any:
        return die, (self.way,)


class AtDump(AtLoad):
    """Kills the process that pickles it."""

    def __reduce__(self) -> Any:
        die(self.way)


class Unloadable(Exception):
    """Pickles, and cannot be made again from that: its class wants two arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second

    def __reduce__(self) -> Any:
        return Unloadable, ("only one",)


def innocent(number: int) -> int:
    """Takes long enough that others are under way at the same time."""
    time.sleep(0.005)
    return number


def die_as_argument(number: int, _: object = None) -> int:
    """What happens to it happens before it is called."""
    return number


def guilty(what: str, way: str = "") -> Any:
    """Does what it is told."""
    if what == "during":
        die(way)
    if what == "after":
        return AtDump(way)
    if what == "on its way":
        # The result is large: some of it has been sent when the process dies, or all of it.
        threading.Timer(0.05, die, (way,)).start()
        time.sleep(0.04)
        return bytes(64 * 2**20)
    if what == "memory":
        held = bytearray(256 * 2**20)
        for place in range(0, len(held), 4096):
            held[place] = 1
        time.sleep(60)
    if what == "sleeps":
        time.sleep(600)
    if what == "BrokenExecutor":
        raise BrokenExecutor("of the function's own")
    if what == "a pool inside":
        with ProcessPoolExecutor(1) as pool:
            return pool.submit(die, "SIGKILL").result()
    if what == "forks":
        os.fork()  # and both go on
        return 0
    if what == "result":
        return threading.Lock()
    if what == "exception":
        raise Unloadable("one", "two")
    raise AssertionError(what)
