"""What is known of a call once it has ended: when and where it ran, and what it used."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import Outcome, Scheduler
from amlsched.plugins import Limits, Retry
from tests import calls
from tests.faults.misbehaving import leave

if TYPE_CHECKING:
    from pathlib import Path

    from amlsched import Future
    from tests.backends import Backend, MakesScheduler

MIB = 2**20


def burn(seconds: float) -> tuple[str, int]:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return threading.current_thread().name, os.getpid()


def swell(amount: int) -> int:
    return len(b"x" * amount)


def burn_and_fail(seconds: float) -> None:
    burn(seconds)
    raise ValueError("burnt")


def fail_first(marker: Path) -> int:
    if not marker.exists():
        marker.touch()
        raise OSError
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def scheduler(backend: Backend, shared_scheduler: MakesScheduler) -> Scheduler:
    return shared_scheduler(backend, receipts=True)


def outcomes(scheduler: Scheduler, function: Any, *rows: tuple[Any, ...], **options: Any) -> dict[int, Outcome]:
    """The receipts of calls by their number, read in the callbacks of their ends."""
    task = scheduler.task(function, **options)
    found: dict[int, Outcome] = {}

    def keep(future: Future[Any], *_: object) -> None:
        found[future.number] = scheduler.outcome(future)

    task.on_done(keep)
    task.on_cancelled(keep)
    scheduler.on_start(lambda: [task.submit(*row) for row in rows])
    scheduler.run(on_exception="continue", on_cancelled="continue")
    return found


def test_a_receipt_tells_where_and_when_a_call_ran(scheduler: Scheduler, backend: Backend) -> None:
    before = time.time()
    where: list[tuple[str, int]] = []
    scheduler.on_future_result(lambda _, result: where.append(result))
    (receipt,) = outcomes(scheduler, burn, (0.05,)).values()
    assert before <= receipt.submitted <= time.time()
    assert receipt.started is not None
    assert receipt.ended is not None
    assert receipt.started < receipt.ended
    if not backend.capabilities.remote:
        assert receipt.submitted <= receipt.started
        assert receipt.ended <= time.time()
        assert receipt.host == socket.gethostname()
    assert (receipt.thread, receipt.pid) == where[0]
    assert receipt.attempt == 1
    assert receipt.cpu_s is not None
    assert 0.04 < receipt.cpu_s < 30


def test_what_a_call_raises_comes_through_with_a_receipt(scheduler: Scheduler) -> None:
    errors: list[BaseException] = []
    scheduler.on_future_exception(lambda _, error: errors.append(error))
    (receipt,) = outcomes(scheduler, burn_and_fail, (0.05,)).values()
    assert [str(error) for error in errors] == ["burnt"]
    assert type(errors[0]) is ValueError
    assert ", in burn_and_fail" in "".join(traceback.format_exception(errors[0]))
    assert receipt.cpu_s is not None
    assert receipt.cpu_s > 0.04
    assert receipt.pid is not None


@pytest.mark.parametrize("name", ["sequential", "processes"])
def test_a_call_that_exits_has_a_receipt(name: str) -> None:
    scheduler = Scheduler.from_name(name, receipts=True)
    errors: list[BaseException] = []
    scheduler.on_future_exception(lambda _, error: errors.append(error))
    (receipt,) = outcomes(scheduler, leave, ("no data",)).values()
    assert str(errors[0]) == "leave was aborted by SystemExit: no data"
    assert ", in leave" in "".join(traceback.format_exception(errors[0]))
    assert receipt.cpu_s is not None


def test_the_peak_is_that_of_the_call_and_not_of_one_before(local_backend: Backend) -> None:
    scheduler = Scheduler.from_name(local_backend.name, max_workers=1, receipts=True)
    found = outcomes(scheduler, swell, (200 * MIB,), (MIB,))
    peaks = [found[number].peak_memory_bytes for number in (1, 2)]
    assert peaks[0] is not None
    assert peaks[1] is not None
    assert peaks[0] > 200 * MIB
    assert peaks[1] < peaks[0] - 100 * MIB


def test_threads_have_their_own_cpu_time_and_no_peak() -> None:
    scheduler = Scheduler.with_threads(2, receipts=True)
    found = outcomes(scheduler, time.sleep, (0.1,), (0.1,))
    assert all(receipt.peak_memory_bytes is None for receipt in found.values())
    assert all(receipt.cpu_s is not None and receipt.cpu_s < 0.09 for receipt in found.values())


def test_the_calls_of_a_batch_have_their_own_receipts(scheduler: Scheduler) -> None:
    found = outcomes(scheduler, burn, *[(0.02,)] * 6, batch_size=3)
    assert len(found) == 6
    assert all(receipt.cpu_s is not None and 0.015 < receipt.cpu_s < 10 for receipt in found.values())


def test_each_attempt_has_a_receipt(scheduler: Scheduler, tmp_path: Path) -> None:
    failed: list[Outcome] = []
    scheduler.on_future_retry(lambda future, *_: failed.append(scheduler.outcome(future)))
    (last,) = outcomes(scheduler, fail_first, (tmp_path / "marker",), plugins=Retry(2)).values()
    assert [receipt.attempt for receipt in (*failed, last)] == [1, 2]
    assert failed[0].ended is not None
    assert last.started is not None
    assert failed[0].submitted == last.submitted
    assert failed[0].ended <= last.started


def test_a_lost_call_tells_what_is_known(local_backend: Backend) -> None:
    (receipt,) = outcomes(local_backend.scheduler(receipts=True, retries_on_loss=1), die, ()).values()
    assert receipt.ended is not None
    assert receipt.pid is not None
    assert receipt.started is None
    assert receipt.attempt == 2


def test_a_call_that_was_cancelled_has_a_receipt() -> None:
    scheduler = Scheduler.with_threads(1, receipts=True)
    scheduler.on_future_submitted(lambda future: future.number == 2 and future.cancel())
    found = outcomes(scheduler, time.sleep, (0.05,), (0.05,))
    assert found[2].ended is not None
    assert found[2].started is None


def test_a_limited_call_is_measured_where_it_runs() -> None:
    scheduler = Scheduler.with_threads(1, receipts=True)
    (receipt,) = outcomes(scheduler, burn, (0.05,), plugins=Limits(walltime="60 s")).values()
    assert receipt.pid not in (None, os.getpid())
    assert receipt.cpu_s is not None
    assert receipt.cpu_s > 0.04


def test_the_function_of_a_future_is_the_one_that_was_submitted(scheduler: Scheduler) -> None:
    functions: set[Any] = set()
    scheduler.on_future_submitted(lambda future: functions.add(future.function))
    scheduler.on_future_done(lambda future: functions.add(future.function))
    found = outcomes(scheduler, calls.double, (1,), (2,))
    assert functions == {calls.double}
    assert len(found) == 2


def test_without_receipts_it_says_how_to_have_them() -> None:
    scheduler = Scheduler.with_sequential()
    futures: list[Future[int]] = []
    scheduler.on_start(lambda: futures.append(scheduler.submit(abs, -1)))
    scheduler.run()
    with pytest.raises(RuntimeError, match="receipts=True"):
        scheduler.outcome(futures[0])
