"""A check of an executor, its tools, and the functions that it submits, here so that workers can import them."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import reprlib
import tempfile
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amlsched.executors.capabilities import capabilities_of, worker_count

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Executor

__all__ = [
    "Blocked",
    "ExampleError",
    "ExecutorCheck",
    "Stage",
    "arguments",
    "check",
    "digest",
    "echo",
    "expect",
    "expect_equal",
    "expect_raises",
    "invert",
    "raise_example",
    "sleep_and_return",
    "something_new",
    "touch",
    "unpicklable",
    "wait_for",
]

T = TypeVar("T")
_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 200


@dataclass(frozen=True)
class ExecutorCheck:
    """A property that every executor must have.

    Attributes:
        name: The property.
        background: Whether it is about calls that run in the background, so that it does not apply to executors that
            run calls in the thread that submits them.
        pickles: Whether it only applies to executors that send calls to other processes.
    """

    name: str
    function: Callable[[Stage], None]
    background: bool = False
    pickles: bool = False

    def applies_to(self, executor: Executor) -> bool:
        """Whether the check applies to this executor, according to its `capabilities`."""
        capabilities = capabilities_of(executor)
        return not (self.background and capabilities.inline) and (not self.pickles or capabilities.pickles)

    def run(
        self, make_executor: Callable[[], Executor], *, timeout_s: float = 30.0, folder: Path | str | None = None
    ) -> None:
        """Check an executor.

        Args:
            make_executor: Creates it; the check shuts it down.
            timeout_s: How long to wait for each step, in seconds.
            folder: A folder for files of the check that the workers can access; `None` for a temporary one of this
                machine.

        Raises:
            AssertionError: The check failed.
        """
        try:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                self.function(Stage(make_executor, Path(scratch), timeout_s))
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"the executor raised {type(error).__name__}: {error}") from error


def check(*, background: bool = False, pickles: bool = False) -> Callable[[Callable[[Stage], None]], ExecutorCheck]:
    """A decorator that turns a function into a check of the same name."""

    def make(function: Callable[[Stage], None]) -> ExecutorCheck:
        return ExecutorCheck(function.__name__.replace("_", " "), function, background, pickles)

    return make


class Stage:
    """The tools of a check.

    Args:
        make_executor: Creates the executor.
        folder: A folder that the driver and the workers can access.
        timeout_s: How long to wait for each step.
    """

    def __init__(self, make_executor: Callable[[], Executor], folder: Path, timeout_s: float) -> None:
        self.make_executor, self.folder, self.timeout_s = make_executor, folder, timeout_s
        self.gate = folder / "open"

    @contextmanager
    def executor(self) -> Generator[Executor]:
        """An executor, which is shut down at the end in any case."""
        executor = self.make_executor()
        try:
            yield executor
        finally:
            self.gate.touch()
            self.soon("shutdown", partial(executor.shutdown, wait=True))

    def soon(self, what: str, function: Callable[[], T]) -> T:
        """Call the function with a time limit; raises AssertionError if it takes too long."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return self.result(done, what)

    def result(self, future: Future[T], what: str = "the call") -> T:
        """The result of a future."""
        self.wait(future, what)
        return future.result(0)

    def wait(self, future: Future[Any], what: str) -> None:
        """Wait until a future is done."""
        concurrent.futures.wait([future], self.timeout_s)
        expect(future.done(), f"{what} did not finish within {self.timeout_s:g} s")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + self.timeout_s
        while not condition():
            expect(time.monotonic() < end, f"{what}: not within {self.timeout_s:g} s")
            time.sleep(0.005)

    def block(self, executor: Executor) -> Future[bool]:
        """Submit a call that runs until the gate is opened."""
        return executor.submit(wait_for, str(self.gate), self.timeout_s)

    def crowd(self, executor: Executor) -> list[Future[bool]]:
        """Submit more calls that run until the gate is opened than there are workers, so that the last ones wait."""
        futures = [self.block(executor) for _ in range(3 * (worker_count(executor) or 32) + 2)]
        self.until(futures[0].running, "running() of a call that was started")
        return futures

    def release(self, futures: Iterable[Future[bool]]) -> None:
        """Open the gate, and check that these calls go on."""
        self.gate.touch()
        for future in futures:
            expect(self.result(future), "a call did not go on")


def expect(holds: bool, problem: str) -> None:
    """Like `assert`, which Python skips with -O."""
    if not holds:
        raise AssertionError(problem)


def expect_equal(got: object, expected: object, what: str) -> None:
    """Like `assert got == expected`."""
    expect(got == expected, f"{what}: {_SHORT.repr(got)} instead of {_SHORT.repr(expected)}")


def expect_raises(kinds: type[BaseException], function: Callable[[], object], what: str) -> BaseException:
    """Check that the function raises, and return the exception."""
    try:
        function()
    except kinds as error:
        return error
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} was raised instead of {kinds.__name__}") from error
    raise AssertionError(f"{what}: {kinds.__name__} was not raised")


class ExampleError(Exception):
    """An exception with its own constructor, like many exceptions."""

    def __init__(self, text: str, number: int = 0) -> None:
        super().__init__(text, number)
        self.number = number


def raise_example(text: str, number: int) -> None:
    """Raise an `ExampleError`."""
    raise ExampleError(text, number)


def echo(value: T) -> T:
    """Return the argument."""
    return value


def arguments(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return all arguments."""
    return args, kwargs


def digest(data: bytes) -> tuple[str, bytes]:
    """Return a hash of the data, and the reversed data."""
    return hashlib.sha256(data).hexdigest(), data[::-1]


def something_new() -> bytes:
    """Return something different at each call."""
    return os.urandom(16)


def sleep_and_return(seconds: float, value: int) -> int:
    """Return the value after a delay."""
    time.sleep(seconds)
    return value


def unpicklable() -> Any:
    """Return an object that cannot be pickled."""
    return threading.Lock()


def invert(number: int) -> float:
    """Return one divided by the number."""
    return 1 / number


class Blocked:
    """Runs until the gate is opened."""

    def __init__(self, gate: str, timeout_s: float) -> None:
        self.gate, self.timeout_s = gate, timeout_s

    def run(self) -> bool:
        """Wait for the gate, and return whether it was opened in time."""
        return wait_for(self.gate, self.timeout_s)


def touch(path: str) -> None:
    """Create a file."""
    Path(path).touch()


def wait_for(gate: str, timeout_s: float) -> bool:
    """Wait for a file, and return whether it was created in time: the function of a blocked call."""
    end = time.monotonic() + timeout_s
    while not Path(gate).exists():
        # Without its folder, the check has finished, and may have opened the gate for a moment only.
        if time.monotonic() > end or not Path(gate).parent.exists():
            return False
        time.sleep(0.01)
    return True
