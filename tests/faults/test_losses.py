"""Calls whose workers are really killed, over executors that lose one call or all of them with a worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import (
    PoolBrokenError,
    Scheduler,
    WorkerExitedError,
    WorkerKilledError,
    WorkerLostError,
    WorkerOutOfMemoryError,
    WorkerStartError,
)
from tests.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends import Backend


def die_by_sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_by_sigsegv() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def exit_at_once() -> None:
    os._exit(7)


def work(number: int, killers: tuple[int, ...], kill: Callable[[], None], folder: Path) -> int:
    with (folder / f"begun-{number}").open("a") as begun:
        begun.write(".")
    if number in killers:
        kill()
    time.sleep(0.005)
    return number


def once(marker: Path) -> int:
    """Kills its worker the first time."""
    if not marker.exists():
        marker.touch()
        die_by_sigkill()
    return os.getpid()


def refuse() -> None:
    raise ValueError("no licence")


class Ends:
    """How the calls of a task ended, by their first argument."""

    def __init__(self, task: Any) -> None:
        self.results: dict[Any, Any] = {}
        self.errors: dict[Any, BaseException] = {}
        task.on_result(lambda future, result: self.results.__setitem__(future.args[0], result))
        task.on_exception(lambda future, error: self.errors.__setitem__(future.args[0], error))


def attempts(folder: Path, number: int) -> int:
    return len((folder / f"begun-{number}").read_text())


@pytest.mark.parametrize(
    ("kill", "kind", "batch_size"),
    [
        (die_by_sigkill, WorkerKilledError, 1),
        (die_by_sigkill, WorkerKilledError, 5),
        (die_by_sigsegv, WorkerKilledError, 1),
        (exit_at_once, WorkerExitedError, 1),
    ],
    ids=["SIGKILL", "SIGKILL in batches", "SIGSEGV", "exit"],
)
def test_killers_fail_and_the_innocent_complete(
    local_backend: Backend, kill: Any, kind: type[WorkerLostError], batch_size: int, tmp_path: Path
) -> None:
    scheduler = Scheduler.from_name(local_backend.name, **local_backend.options, retries_on_loss=1)
    task = scheduler.task(work, batch_size=batch_size)
    journal, ends = Journal(scheduler, task), Ends(task)
    scheduler.on_start(lambda: [task.submit(number, (3, 17), kill, tmp_path) for number in range(30)])

    scheduler.run(on_exception="continue")

    innocent = set(range(30)) - {3, 17}
    assert ends.results == {number: number for number in innocent}
    assert {number: type(error) for number, error in ends.errors.items()} == {3: kind, 17: kind}
    for number, error in ends.errors.items():
        assert isinstance(error, WorkerLostError)
        assert error.pid is not None
        # What a broken pool had handed to a worker may have begun, and counts: also where it had not.
        assert error.attempts >= max(2, attempts(tmp_path, number))
        assert attempts(tmp_path, number) >= (2 if local_backend.capabilities.survives_lost_workers else 1)
    journal.assert_every_call_ended_once()


def test_a_call_that_loses_its_worker_once_returns(mortal_backend: Backend, tmp_path: Path) -> None:
    scheduler = mortal_backend.scheduler()
    task = scheduler.task(once)
    ends = Ends(task)
    retries: list[tuple[int, BaseException]] = []
    task.on_retry(lambda future, error, attempt: retries.append((attempt, error)))
    scheduler.on_start(lambda: task.submit(tmp_path / "marker"))
    scheduler.run()
    assert len(ends.results) == 1
    kind = WorkerKilledError if mortal_backend.names_signals else WorkerLostError
    assert [(attempt, type(error)) for attempt, error in retries] == [(1, kind)]


def test_without_retries_a_call_that_has_begun_never_begins_again(local_backend: Backend, tmp_path: Path) -> None:
    scheduler = Scheduler.from_name(local_backend.name, **local_backend.options, retries_on_loss=0)
    task = scheduler.task(work)
    journal, ends = Journal(scheduler, task), Ends(task)
    scheduler.on_start(lambda: [task.submit(number, (3,), die_by_sigkill, tmp_path) for number in range(30)])
    scheduler.run(on_exception="continue")
    assert 3 in ends.errors
    assert all(attempts(tmp_path, number) == 1 for number in ends.results)
    assert len(ends.errors) == 1 or not local_backend.capabilities.survives_lost_workers
    assert len(ends.errors) < 15  # those that it had not handed to a worker run on
    journal.assert_every_call_ended_once()


def test_an_initializer_that_raises_is_told_of_each_call_without_an_attempt_after_another(
    local_backend: Backend,
) -> None:
    scheduler = Scheduler.from_name(local_backend.name, **local_backend.options, initializer=refuse)
    task = scheduler.task(abs)
    ends = Ends(task)
    scheduler.on_start(lambda: [task.submit(number) for number in range(5)])
    scheduler.run(on_exception="continue")
    assert {type(error) for error in ends.errors.values()} == {WorkerStartError}
    assert len(ends.errors) == 5
    assert "no licence" in str(ends.errors[0])
    assert task.on_retry.count == 0


def test_a_given_pool_that_breaks_fails_with_its_weakness_named(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as executor:
        scheduler = Scheduler(executor)
        task = scheduler.task(work)
        ends = Ends(task)
        scheduler.on_start(lambda: [task.submit(number, (3,), die_by_sigkill, tmp_path) for number in range(20)])
        scheduler.run(on_exception="continue")
    assert {type(error) for error in ends.errors.values()} == {PoolBrokenError}
    assert "with_processes" in str(ends.errors[3])
    assert "SIGKILL" in str(ends.errors[3])
    assert len(ends.results) + len(ends.errors) == 20


# Out of memory: in a cgroup of our own, so that nothing else is hit

CGROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def small_cgroup() -> Any:
    own = CGROUPS / f"amlsched-test-{os.getpid()}"
    try:
        own.mkdir()
        (own / "memory.limit_in_bytes").write_text(str(256 * 2**20))
    except OSError as error:
        pytest.skip(f"no cgroup with a limit of memory can be made: {error.strerror}")
    yield own
    deadline = time.monotonic() + 30
    while True:  # until its last process is gone
        try:
            own.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def join_and_swell(cgroup: Path) -> int:
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    return len(b"x" * (1 << 30))


def driver_in_cgroup(cgroup: Path, name: str) -> None:
    """The driver, too, so that it reads the counter of this cgroup."""
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    scheduler = Scheduler.from_name(name, max_workers=1, retries_on_loss=0)
    task = scheduler.task(join_and_swell)
    task.on_exception(lambda _, error: (cgroup / "..").exists() and print(repr(error), flush=True))
    scheduler.on_start(lambda: task.submit(cgroup))
    scheduler.run(on_exception="continue")


def test_the_kernel_s_killer_is_told_from_other_signals(
    local_backend: Backend, small_cgroup: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    driver = multiprocessing.get_context("spawn").Process(
        target=driver_in_cgroup, args=(small_cgroup, local_backend.name)
    )
    driver.start()
    driver.join(60)
    assert driver.exitcode == 0
    told = capfd.readouterr().out
    assert WorkerOutOfMemoryError.__name__ in told
    assert "oom_kill of the cgroup" in told
