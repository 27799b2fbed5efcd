"""The checks of executors find what is broken, each its own fault; and the fixture."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from itertools import zip_longest
from typing import Any

import pytest

from amlsched import Capabilities, Scheduler
from amlsched.testing import EXECUTOR_CHECKS, ExecutorCheck, check_executor, scheduler_fixture


class Sound(ThreadPoolExecutor):
    """Holds every check; the broken ones below derive from it and break one thing each."""

    def __init__(self) -> None:
        super().__init__(2)


class Submitting(Sound):
    """Breaks what is submitted, or the future that is returned."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self.changed(super().submit(fn, *args, **kwargs), fn, args)

    def changed(self, future: Any, fn: Any, args: Any) -> Any:
        return future


class OneTooMany(Submitting):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(lambda: (fn(*args, **kwargs), 1))


class SwallowsExceptions(Submitting):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        def run() -> Any:
            try:
                return fn(*args, **kwargs)
            except Exception:
                return None

        return super().submit(run)


class KeepsKeywords(Submitting):
    def submit(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return super().submit(fn, *args, **kwargs)


class CutsLongArguments(Submitting):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(fn, *(arg[:65536] if isinstance(arg, bytes) else arg for arg in args), **kwargs)


class MixesUpResults(Submitting):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(fn, *((149, 149) if args == (150, 150) else args), **kwargs)


class RemembersResults(Submitting):
    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Any, Any] = {}

    def changed(self, future: Any, fn: Any, args: Any) -> Any:
        return self.known.setdefault((fn, args), future)


class OneThreadOnly(Submitting):
    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[int, int] = {}

    def changed(self, future: Any, fn: Any, args: Any) -> Any:
        seen = self.counts[threading.get_ident()] = self.counts.get(threading.get_ident(), 0) + 1
        return Future() if threading.current_thread() is not threading.main_thread() and seen == 7 else future


class MapsAsCompleted(Sound):
    def map(self, fn: Any, *iterables: Any, timeout: Any = None, chunksize: int = 1) -> Any:
        futures = [self.submit(fn, *args) for args in zip(*iterables, strict=False)]
        return (future.result() for future in as_completed(futures, timeout))


class MapsTheLongest(Sound):
    def map(self, fn: Any, *iterables: Any, timeout: Any = None, chunksize: int = 1) -> Any:
        return super().map(fn, *zip(*zip_longest(*iterables, fillvalue=0), strict=True), timeout=timeout)


class MapsWithoutErrors(Sound):
    def map(self, fn: Any, *iterables: Any, timeout: Any = None, chunksize: int = 1) -> Any:
        futures = [self.submit(fn, *args) for args in zip(*iterables, strict=False)]
        return (future.result() for future in futures if not future.exception())


class MapsWithoutTimeOut(Sound):
    def map(self, fn: Any, *iterables: Any, timeout: Any = None, chunksize: int = 1) -> Any:
        return super().map(fn, *iterables)


class SilentOnUnpicklable(Submitting):
    """Says that it pickles, and loses a call whose argument cannot be."""

    capabilities = Capabilities(pickles=True)

    def changed(self, future: Any, fn: Any, args: Any) -> Any:
        if fn.__name__ == "unpicklable":
            future = Future()
            future.set_exception(TypeError("the result cannot be pickled"))
        return Future() if args and isinstance(args[0], type(threading.Lock())) else future


class WithFuture(Submitting):
    """Gives futures of a broken kind."""

    kind: type[Future[Any]]

    def changed(self, future: Any, fn: Any, args: Any) -> Any:
        future.__class__ = self.kind
        return future


def with_future(**methods: Any) -> type[WithFuture]:
    return type("WithFuture", (WithFuture,), {"kind": type("Broken", (Future,), methods)})


def tell_twice(self: Any, callback: Callable[..., Any]) -> None:
    Future.add_done_callback(self, callback)
    Future.add_done_callback(self, callback)


def tell_of_no_cancellation(self: Any, callback: Callable[..., Any]) -> None:
    Future.add_done_callback(self, lambda future: None if future.cancelled() else callback(future))


def tell_until_one_raises(self: Any, callback: Callable[..., Any]) -> None:
    self.failed = getattr(self, "failed", False)

    def call(future: Any) -> None:
        if not self.failed:
            self.failed = True
            callback(future)
            self.failed = False

    Future.add_done_callback(self, call)


class NotAFuture:
    """Looks like one only to those who ask for the result."""

    def __init__(self, future: Future[Any]) -> None:
        self.future = future

    def result(self, timeout: float | None = None) -> Any:
        return self.future.result(timeout)

    def done(self) -> bool:
        return self.future.done()


class RunsWhatWasCancelled(Submitting):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        shown: Future[Any] = Future()

        def run() -> None:
            wanted = shown.set_running_or_notify_cancel()
            result = fn(*args, **kwargs)
            if wanted:
                shown.set_result(result)

        super().submit(run)
        return shown


class GivesNoFutures(Submitting):
    def changed(self, future: Any, fn: Any, args: Any) -> Any:
        return NotAFuture(future)


class CancelsTwins(Submitting):
    def __init__(self) -> None:
        super().__init__()
        self.twins: dict[Any, list[Any]] = {}

    def changed(self, future: Any, fn: Any, args: Any) -> Any:
        twins = self.twins.setdefault((fn, args), [])
        twins.append(future)
        if not args:
            future.cancel = lambda: [Future.cancel(twin) for twin in twins] == [True] * len(twins)
        return future


class ClosesNever(Sound):
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        while wait and not self._work_queue.empty():
            time.sleep(0.01)

    def __del__(self) -> None:
        super().shutdown(wait=False)


class LeavesWithoutWaiting(Sound):
    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=False)


class NeverWaits(Sound):
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=cancel_futures)


class AlwaysWaits(Sound):
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=True, cancel_futures=cancel_futures)


class CancelsNothing(Sound):
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=wait)


#: For each check, an executor with the fault that it is about, and what the check says of it.
BROKEN: dict[str, tuple[Callable[[], Executor], str]] = {
    "a call returns what the function returns": (OneTooMany, r"result: \(\(2, 1\), 1\) instead of \(2, 1\)"),
    "an exception is passed on and harms no other call": (SwallowsExceptions, "ExampleError was not raised"),
    "arguments arrive whatever their names": (KeepsKeywords, "multiple values for argument 'fn'"),
    "a large argument and result arrive whole": (CutsLongArguments, "digest of 5 MB"),
    "of many calls each has its own result": (MixesUpResults, r"calls with the result of another call: \[150\]"),
    "equal calls are all run": (RemembersResults, "different results of a random function: 1 instead of 5"),
    "several threads may submit": (OneThreadOnly, "the call did not finish"),
    "map keeps the order of its input": (MapsAsCompleted, r"instead of \[0, 1, 2, 3\]"),
    "map ends with the shortest of its inputs": (MapsTheLongest, r"\[11, 22, 3\] instead of \[11, 22\]"),
    "map raises an exception where its result would be": (MapsWithoutErrors, "ZeroDivisionError was not raised"),
    "map keeps its time out": (MapsWithoutTimeOut, "map did not finish"),
    "what cannot be pickled is an error and harms no other call": (SilentOnUnpicklable, "did not finish"),
    "result and exception keep their time out": (
        with_future(result=lambda self, _=None: Future.result(self)),
        "result with a time-out: TimeoutError was not raised",
    ),
    "a future tells whether it is pending running or done": (
        with_future(running=lambda self: not self.done()),
        r"running\(\) or done\(\) of a call that waits",
    ),
    "a call that waits can be cancelled and never runs": (RunsWhatWasCancelled, "the cancelled call was run"),
    "cancelling a call leaves its equal twin alone": (CancelsTwins, "the twin was cancelled too"),
    "a call that ended cannot be cancelled": (
        with_future(cancel=lambda _: True),
        r"cancel\(\) of a finished call",
    ),
    "a done callback is called once with the future": (
        with_future(add_done_callback=tell_twice),
        "added to a done future: 2 instead of 1",
    ),
    "a done callback is called for a cancelled call": (
        with_future(add_done_callback=tell_of_no_cancellation),
        "call of a done callback: not within",
    ),
    "an exception in a done callback is harmless": (
        with_future(add_done_callback=tell_until_one_raises),
        "call of the callback after it: not within",
    ),
    "wait and as completed take its futures": (GivesNoFutures, "the executor raised AttributeError"),
    "it takes no call after its shutdown": (ClosesNever, "submit after the shutdown: RuntimeError was not raised"),
    "as a context manager it waits and is shut down": (
        LeavesWithoutWaiting,
        "calls had not finished after the context",
    ),
    "shutdown waits for the calls": (NeverWaits, r"calls had not finished after shutdown\(wait=True\)"),
    "shutdown without waiting returns at once and the calls go on": (AlwaysWaits, "did not finish"),
    "shutdown can cancel the calls that wait": (CancelsNothing, "cancellation of a call that waits: not within"),
}


def test_there_is_a_broken_executor_for_each_check() -> None:
    assert list(BROKEN) == [check.name for check in EXECUTOR_CHECKS]


@pytest.mark.parametrize("check", EXECUTOR_CHECKS, ids=lambda check: check.name)
def test_a_check_finds_the_fault_that_it_is_about(check: ExecutorCheck) -> None:
    broken, told = BROKEN[check.name]
    waits_in_vain = any(words in told for words in ("did not finish", "not within", "time-out"))
    with pytest.raises(AssertionError, match=told):
        check.run(broken, timeout_s=1 if waits_in_vain else 20)


@pytest.mark.parametrize(
    "check", [check for check in EXECUTOR_CHECKS if not check.pickles], ids=lambda check: check.name
)
def test_a_check_finds_no_fault_in_a_sound_executor(check: ExecutorCheck) -> None:
    check.run(Sound, timeout_s=20)  # raises otherwise


def test_all_faults_are_told_of_together() -> None:
    class Broken(MapsWithoutTimeOut, KeepsKeywords): ...

    with pytest.raises(ExceptionGroup, match=r"Broken failed 2 of \d+ checks") as caught:
        check_executor(Broken, timeout_s=0.5)
    assert sorted(note for error in caught.value.exceptions for note in error.__notes__) == [
        "check: arguments arrive whatever their names",
        "check: map keeps its time out",
    ]


def test_a_known_fault_can_be_left_out() -> None:
    held = check_executor(MapsWithoutTimeOut, skip=["map keeps its time out"], timeout_s=5)
    assert "map keeps its time out" not in held
    assert len(held) == sum(not check.pickles for check in EXECUTOR_CHECKS) - 1


def test_a_check_that_does_not_exist_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="there is no check .'map is fast'"):
        check_executor(Sound, skip=["map is fast"])


# The fixture

scheduler = scheduler_fixture("sequential", ("threads", {"max_workers": 1}))
shared = scheduler_fixture(scope="module")
ran_over: list[str] = []


def test_the_fixture_gives_a_scheduler_over_each_executor(scheduler: Scheduler) -> None:
    task = scheduler.task(abs)
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(-1))
    scheduler.run()
    scheduler.run()
    assert results == [1, 1]
    ran_over.append(type(scheduler.executor).__name__)


def test_each_executor_had_its_turn() -> None:
    assert len(set(ran_over)) == 2


def test_without_names_there_are_three_executors(shared: Scheduler, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["shared"][0]
    assert name in ("sequential", "threads", "processes")
    assert isinstance(shared, Scheduler)


def test_pytest_is_not_imported_where_it_is_not_needed() -> None:
    program = "import sys, amlsched.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
