"""What the calls of the checks run: here, so that a worker finds it by name."""

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "Blocked",
    "ExampleError",
    "arguments",
    "digest",
    "echo",
    "invert",
    "raise_example",
    "sleep_and_return",
    "something_new",
    "touch",
    "unpicklable",
    "wait_for",
]

T = TypeVar("T")


class ExampleError(Exception):
    """Has a constructor of its own, as many exceptions have."""

    def __init__(self, text: str, number: int = 0) -> None:
        super().__init__(text, number)
        self.number = number


def raise_example(text: str, number: int) -> None:
    """Raise an exception of a class of its own."""
    raise ExampleError(text, number)


def echo(value: T) -> T:
    """The argument."""
    return value


def arguments(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """All arguments."""
    return args, kwargs


def digest(data: bytes) -> tuple[str, bytes]:
    """What tells whether the data arrived, and the data the other way round."""
    return hashlib.sha256(data).hexdigest(), data[::-1]


def something_new() -> bytes:
    """Something else at each call."""
    return os.urandom(16)


def sleep_and_return(seconds: float, value: int) -> int:
    """The value, after a while."""
    time.sleep(seconds)
    return value


def unpicklable() -> Any:
    """Something that cannot be sent back."""
    return threading.Lock()


def invert(number: int) -> float:
    """One divided by the number."""
    return 1 / number


class Blocked:
    """Runs until the gate is opened."""

    def __init__(self, gate: str, timeout_s: float) -> None:
        self.gate, self.timeout_s = gate, timeout_s

    def run(self) -> bool:
        """Whether the gate was opened in time."""
        return wait_for(self.gate, self.timeout_s)


def touch(path: str) -> None:
    """Leave a trace."""
    Path(path).touch()


def wait_for(gate: str, timeout_s: float) -> bool:
    """Whether the file was there in time: what a blocked call does."""
    end = time.monotonic() + timeout_s
    while not Path(gate).exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
