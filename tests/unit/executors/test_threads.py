"""Calls that are posted to the pool of threads; the conformance suite tests those that are submitted."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import WorkerStartError
from amlsched.executors.threads import ThreadPool

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    with ThreadPool(1) as pool:
        yield pool


def test_a_posted_call_tells_once_when_it_has_returned(pool: ThreadPool) -> None:
    told: SimpleQueue[Any] = SimpleQueue()
    call = pool.post(divmod, (7, 2), {}, told.put, "handle")
    assert told.get() == "handle"
    assert (call.exception(), call.result(), call.done(), call.running()) == (None, (3, 1), True, False)
    assert told.empty()


def test_a_posted_call_that_raises_has_its_exception(pool: ThreadPool) -> None:
    told: SimpleQueue[Any] = SimpleQueue()
    call = pool.post(divmod, (7, 0), {}, told.put, None)
    told.get()
    assert isinstance(call.exception(), ZeroDivisionError)


def test_a_posted_call_can_be_cancelled_until_it_runs(pool: ThreadPool) -> None:
    told: SimpleQueue[Any] = SimpleQueue()
    started, go_on = threading.Event(), threading.Event()
    first = pool.post(lambda: started.set() or go_on.wait(20), (), {}, told.put, "first")
    waiting = pool.post(abs, (-1,), {}, told.put, "waiting")
    assert started.wait(20)
    assert (first.running(), first.cancel(), waiting.cancel(), waiting.cancel()) == (True, False, True, False)
    assert told.get() == "waiting"
    with pytest.raises(CancelledError):
        waiting.exception()
    go_on.set()
    assert told.get() == "first"
    pool.shutdown()
    assert told.empty()


def test_shutdown_cancels_posted_calls_where_it_is_asked_to(pool: ThreadPool) -> None:
    told: SimpleQueue[Any] = SimpleQueue()
    started, go_on = threading.Event(), threading.Event()
    pool.post(lambda: started.set() or go_on.wait(20), (), {}, told.put, "first")
    assert started.wait(20)
    pool.post(abs, (-1,), {}, told.put, "waiting")
    pool.shutdown(wait=False, cancel_futures=True)
    assert told.get() == "waiting"
    go_on.set()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.post(abs, (-1,), {}, told.put, None)


def test_posted_calls_fail_where_the_initializer_raises() -> None:
    told: SimpleQueue[Any] = SimpleQueue()
    with ThreadPool(1, initializer=divmod, initargs=(1, 0)) as pool:
        call = pool.post(abs, (-1,), {}, told.put, None)
        told.get()
        with pytest.raises(
            WorkerStartError, match="abs was lost: its worker did not start, its initializer raised ZeroDivisionError"
        ):
            raise call.exception() or AssertionError
        with pytest.raises(WorkerStartError):
            pool.post(abs, (-1,), {}, told.put, None)


def test_each_of_many_posted_calls_is_run_or_cancelled_never_both() -> None:
    ran: SimpleQueue[int] = SimpleQueue()
    told: SimpleQueue[int] = SimpleQueue()
    with ThreadPool(4) as pool:
        calls = [pool.post(ran.put, (number,), {}, told.put, number) for number in range(2000)]
        cancelled = {number for number, call in reversed(list(enumerate(calls))) if call.cancel()}
    assert sorted(told.get() for _ in range(told.qsize())) == list(range(2000))
    assert {ran.get() for _ in range(ran.qsize())} == set(range(2000)) - cancelled


@pytest.mark.parametrize("possible", [0, 1])
def test_calls_run_in_the_threads_that_can_start(
    possible: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def start_some(thread: threading.Thread) -> None:
        if len(started) == possible:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    told: SimpleQueue[Any] = SimpleQueue()
    pool = ThreadPool(3)
    futures = [pool.submit(abs, -1) for _ in range(3)]
    posted = pool.post(abs, (-1,), {}, told.put, "handle")
    if possible:
        assert [future.result(20) for future in futures] == [1, 1, 1]
        assert "only 1 of 3 threads could be started, in which all calls run: can't start new thread" in caplog.text
        assert len(caplog.records) == 1
    else:
        assert {type(future.exception(20)) for future in futures} == {WorkerStartError}
        assert "abs was lost: its worker could not start: RuntimeError: can't start new thread (this user" in str(
            futures[0].exception()
        )
    assert told.get(timeout=20) == "handle"
    assert (posted.exception() is None) == bool(possible)
    pool.shutdown()
