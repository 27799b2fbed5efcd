"""What the checks of an executor work with."""

from __future__ import annotations

import concurrent.futures
import reprlib
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from amlsched.executors.capabilities import worker_count
from amlsched.testing.samples import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Executor
    from pathlib import Path

__all__ = ["Stage", "expect", "expect_equal", "expect_raises"]

T = TypeVar("T")

_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 200


class Stage:
    """What a check works with.

    Args:
        make_executor: Makes the executor that is checked.
        folder: Seen by the driver and by the workers.
        timeout_s: How long to wait for what should happen soon.
    """

    def __init__(self, make_executor: Callable[[], Executor], folder: Path, timeout_s: float) -> None:
        self.make_executor, self.folder, self.timeout_s = make_executor, folder, timeout_s
        self.gate = folder / "open"

    @contextmanager
    def executor(self) -> Generator[Executor]:
        """An executor, which is shut down at the end whatever happens."""
        executor = self.make_executor()
        try:
            yield executor
        finally:
            self.gate.touch()
            self.soon("shutdown", partial(executor.shutdown, wait=True))

    def soon(self, what: str, function: Callable[[], T]) -> T:
        """What the function returns, or raises; an AssertionError if that takes too long."""
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
        expect(future.done(), f"{what} did not end within {self.timeout_s:g} s")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something holds."""
        end = time.monotonic() + self.timeout_s
        while not condition():
            expect(time.monotonic() < end, f"{what}: not within {self.timeout_s:g} s")
            time.sleep(0.005)

    def block(self, executor: Executor) -> Future[bool]:
        """A call that runs until the gate is opened."""
        return executor.submit(wait_for, str(self.gate), self.timeout_s)

    def crowd(self, executor: Executor) -> list[Future[bool]]:
        """More calls that run until the gate is opened than there are workers: the last ones wait for a worker."""
        futures = [self.block(executor) for _ in range(3 * (worker_count(executor) or 32) + 2)]
        self.until(futures[0].running, "running() of a call that was started")
        return futures


def expect(holds: bool, problem: str) -> None:
    """Like `assert`, which Python leaves out under -O."""
    if not holds:
        raise AssertionError(problem)


def expect_equal(got: object, expected: object, what: str) -> None:
    """Like `assert got == expected`."""
    expect(got == expected, f"{what}: {_SHORT.repr(got)}, and not {_SHORT.repr(expected)}")


def expect_raises(kinds: type[BaseException], function: Callable[[], object], what: str) -> BaseException:
    """The exception that the function raises."""
    try:
        function()
    except kinds as error:
        return error
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} was raised, and not {kinds.__name__}") from error
    raise AssertionError(f"{what}: {kinds.__name__} was not raised")
