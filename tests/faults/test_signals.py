"""Signals to a program whose scheduler runs calls of 60 seconds: it ends long before, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from amlsched import ExitState, Scheduler
from tests.backends import BACKENDS, Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")

ROOT = Path(__file__).parents[2]
LIMIT_S = 30.0


class Driver:
    """The program `driver.py`, and every process that it starts."""

    def __init__(self, backend: Backend, function: str = "announce_and_sleep", **options: Any) -> None:
        self._marker = f"AMLSCHED_TEST={uuid4()}"
        name, _, value = self._marker.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.driver", backend.name, function, json.dumps(options)],
            cwd=ROOT,
            env={**os.environ, name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.errors = ""
        self._changed = threading.Condition()
        self._readers = [threading.Thread(target=read) for read in (self._read_lines, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def wait_for(self, *lines: str, limit_s: float = 30) -> None:
        """Until the program has said each of these lines, and waits for something."""
        with self._changed:
            found = self._changed.wait_for(lambda: set(lines) <= set(self.lines) or self._ended(), limit_s)
        assert found, f"waited for {lines}, got {self.lines}"
        assert set(lines) <= set(self.lines), f"waited for {lines}, got {self.lines}\n{self.errors}"
        # A signal that comes between the last instruction and the wait itself is seen by Python after the wait.
        deadline = time.monotonic() + 1.0
        while _state(self.process.pid) == "R" and time.monotonic() < deadline:
            time.sleep(0.001)

    def ends_within(self, limit_s: float) -> int:
        """Its exit code."""
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"not over after {limit_s} s; it said {self.lines}")
        return code

    def all_gone_within(self, limit_s: float) -> bool:
        deadline = time.monotonic() + limit_s
        while left := self.pids():
            if time.monotonic() > deadline:
                pytest.fail(f"left behind: {[_command(pid) for pid in left]}")
            time.sleep(0.02)
        return True

    def pids(self) -> list[int]:
        """The processes with the program's marker in their environment, zombies aside."""
        found: list[int] = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    if self._marker.encode() in (folder / "environ").read_bytes().split(b"\0"):
                        found.append(int(folder.name))
                except OSError:  # it has ended, or is not ours
                    continue
        return found

    def close(self) -> None:
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(10)
        for reader in self._readers:
            reader.join(10)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _ended(self) -> bool:
        return self.process.poll() is not None and not self._readers[0].is_alive()

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()


def _state(pid: int) -> str:
    """Of the main thread, as proc(5) says."""
    try:
        return Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _command(pid: int) -> str:
    try:
        return f"{pid}: {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode()}"
    except OSError:
        return f"{pid}: over by now"


@pytest.fixture
def start() -> Iterator[Callable[..., Driver]]:
    """Starts the program, and ends all of it after the test."""
    started: list[Driver] = []

    def start(*args: Any, **options: Any) -> Driver:
        started.append(Driver(*args, **options))
        return started[-1]

    yield start
    for driver in started:
        driver.close()


def _to_the_group(pid: int) -> None:
    os.killpg(pid, signal.SIGINT)


def _to_the_driver(pid: int) -> None:
    os.kill(pid, signal.SIGINT)


def _terminate(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


def _hang_up(pid: int) -> None:
    os.kill(pid, signal.SIGHUP)


def _close_the_terminal(pid: int) -> None:
    os.killpg(pid, signal.SIGHUP)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _have_exit_at_once(pid: int) -> None:
    os.kill(pid, signal.SIGUSR1)


@pytest.mark.parametrize(
    ("send", "raised", "code"),
    [
        pytest.param(_to_the_group, "KeyboardInterrupt", -signal.SIGINT, id="Ctrl-C to the group"),
        pytest.param(
            _to_the_driver,
            "KeyboardInterrupt",
            -signal.SIGINT,
            id="SIGINT to the driver",
            marks=pytest.mark.quick_workers,
        ),
        pytest.param(_terminate, "SystemExit", 128 + signal.SIGTERM, id="SIGTERM"),
    ],
)
def test_a_signal_ends_the_run_and_all_that_it_started(
    driven_backend: Backend, start: Callable[..., Driver], send: Callable[[int], None], raised: str, code: int
) -> None:
    driver = start(driven_backend)
    driver.wait_for("running")
    send(driver.process.pid)
    sent = time.monotonic()

    driver.wait_for("handlers restored", limit_s=LIMIT_S)
    assert driver.ends_within(LIMIT_S - (time.monotonic() - sent)) == code
    assert driver.all_gone_within(LIMIT_S - (time.monotonic() - sent))
    assert f"on_stop {raised}" in driver.lines
    assert f"raised {raised}" in driver.lines
    assert driver.lines.count("on_finished") == 1
    assert sorted(line for line in driver.lines if line.startswith("cancelled")) == [
        f"cancelled {number}" for number in range(1, 6)
    ]
    driver.close()
    assert driver.errors.count("Traceback (most recent call last)") <= 2, driver.errors


@pytest.mark.parametrize(
    "function",
    [
        "announce_and_resist",
        pytest.param("announce_and_swallow", marks=pytest.mark.quick_workers),
        pytest.param("announce_and_start_a_program", marks=pytest.mark.quick_workers),
    ],
)
def test_workers_end_whatever_they_run(driven_processes: Backend, start: Callable[..., Driver], function: str) -> None:
    driver = start(driven_processes, function)
    driver.wait_for("running")
    _to_the_group(driver.process.pid)
    assert driver.ends_within(LIMIT_S) == -signal.SIGINT
    assert driver.all_gone_within(LIMIT_S)


def test_a_second_ctrl_c_kills_at_once(start: Callable[..., Driver]) -> None:
    driver = start(_backend("processes"), "announce_and_swallow", callback="hold")
    driver.wait_for("running", "holding")
    _to_the_group(driver.process.pid)
    driver.wait_for("held on")
    _to_the_group(driver.process.pid)
    assert driver.ends_within(LIMIT_S) == -signal.SIGINT
    assert driver.all_gone_within(LIMIT_S)


def test_one_ctrl_c_ends_a_callback_that_swallows_its_cancellation(start: Callable[..., Driver]) -> None:
    driver = start(_backend("threads"), callback="hold")
    driver.wait_for("running", "holding")
    _to_the_group(driver.process.pid)
    assert driver.ends_within(LIMIT_S) == -signal.SIGINT


def test_ctrl_c_is_raised_though_the_run_was_ending_without_waiting(start: Callable[..., Driver]) -> None:
    driver = start(_backend("threads"), callback="hold", timeout=0.5, wait=False)
    driver.wait_for("held on")
    _to_the_driver(driver.process.pid)
    assert driver.ends_within(LIMIT_S) == -signal.SIGINT
    assert "raised KeyboardInterrupt" in driver.lines


@pytest.mark.parametrize("options", [{"on_exception": "continue"}, {"on_exception": "end"}], ids=str)
def test_ctrl_c_is_raised_whatever_on_exception_says(start: Callable[..., Driver], options: dict[str, Any]) -> None:
    driver = start(_backend("sequential"), **options)
    driver.wait_for("running")
    _to_the_driver(driver.process.pid)
    assert driver.ends_within(LIMIT_S) == -signal.SIGINT
    assert "raised KeyboardInterrupt" in driver.lines


def test_ctrl_c_is_raised_though_an_exception_had_ended_the_run(
    driven_pool: Backend, start: Callable[..., Driver]
) -> None:
    driver = start(driven_pool, on_exception="end", callback="fail_once_running")
    driver.wait_for("running", "on_stop RuntimeError")
    _to_the_driver(driver.process.pid)
    driver.wait_for("handlers restored", limit_s=LIMIT_S)
    assert "raised KeyboardInterrupt" in driver.lines
    assert driver.ends_within(LIMIT_S) == -signal.SIGINT
    assert driver.all_gone_within(LIMIT_S)


def test_after_a_run_that_did_not_wait_the_program_ends_at_once(
    driven_pool: Backend, start: Callable[..., Driver]
) -> None:
    driver = start(driven_pool, timeout=0.5, wait=False)
    driver.wait_for("returned TIMEOUT")
    assert driver.ends_within(LIMIT_S) == 0
    assert driver.all_gone_within(LIMIT_S)


def test_threads_that_cannot_be_ended_are_named_and_do_not_keep_the_program(start: Callable[..., Driver]) -> None:
    driver = start(_backend("threads"))
    driver.wait_for("running")
    _terminate(driver.process.pid)
    assert driver.ends_within(LIMIT_S) == 128 + signal.SIGTERM
    driver.close()
    assert "these calls continue until they return: announce_and_sleep (thread amlsched-0)" in driver.errors


@pytest.mark.parametrize(
    ("send", "code", "function"),
    [
        pytest.param(_kill, -signal.SIGKILL, "announce_with_family", id="SIGKILL"),
        pytest.param(_kill, -signal.SIGKILL, "announce_and_sleep", id="SIGKILL, workers without children"),
        pytest.param(_have_exit_at_once, 9, "announce_with_family", id="os._exit"),
        pytest.param(_terminate, 128 + signal.SIGTERM, "announce_with_family", id="SIGTERM"),
        pytest.param(_hang_up, 128 + signal.SIGHUP, "announce_with_family", id="SIGHUP to the driver"),
        pytest.param(_close_the_terminal, 128 + signal.SIGHUP, "announce_with_family", id="SIGHUP to the group"),
    ],
)
def test_however_the_driver_ends_nothing_is_left(
    this_machines_backend: Backend, start: Callable[..., Driver], send: Callable[[int], None], code: int, function: str
) -> None:
    driver = start(this_machines_backend, function)
    driver.wait_for("running")
    send(driver.process.pid)
    sent = time.monotonic()
    assert driver.ends_within(LIMIT_S) == code
    assert driver.all_gone_within(LIMIT_S - (time.monotonic() - sent))


def test_what_calls_left_behind_ends_with_the_program(
    this_machines_backend: Backend, start: Callable[..., Driver]
) -> None:
    driver = start(this_machines_backend, "leave_a_program")
    driver.wait_for("returned EXHAUSTED")
    assert driver.ends_within(LIMIT_S) == 0
    assert driver.all_gone_within(LIMIT_S)


# In this process


WATCHED = """
import os, sys
import psutil
from tests.backends import BACKENDS
from tests.processes import serves_this_process

if __name__ == "__main__":
    (backend,) = (backend for backend in BACKENDS if backend.name == sys.argv[1])
    before = {*psutil.Process().children()}, dict(os.environ)
    watched = []
    scheduler = backend.scheduler()
    task = scheduler.task(abs)
    scheduler.on_start(lambda: task.submit(-1))
    task.on_result(lambda *_: watched.append(dict(os.environ) != before[1]))
    scheduler.run()
    assert watched == [not backend.capabilities.kills_calls], watched  # else each worker has a supervisor
    after = {child for child in psutil.Process().children() if not serves_this_process(child.pid)}
    assert (after - before[0], dict(os.environ)) == (set(), before[1])
"""


def test_nothing_is_left_of_the_watch_over_a_run(this_machines_backend: Backend) -> None:
    # In a program of its own: in this one executors may be open that tests share, which are watched, too.
    command = [sys.executable, "-c", WATCHED, this_machines_backend.name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_that_another_thread_gets_wakes_a_run_that_waits() -> None:
    released = threading.Event()

    def get_one() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        released.wait(60)

    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(get_one)
    scheduler.on_start(lambda: task.submit())
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        scheduler.run(timeout=30)
    released.set()
    assert time.monotonic() - began < 29


def test_outside_the_main_thread_no_handler_is_touched() -> None:
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    seen: list[Any] = []
    scheduler = Scheduler.with_sequential()
    scheduler.on_start(lambda: seen.append({number: signal.getsignal(number) for number in former}))
    runner = threading.Thread(target=lambda: seen.append(scheduler.run()))
    runner.start()
    runner.join(20)
    assert seen == [former, ExitState(ExitState.Code.EXHAUSTED)]


def test_a_handler_of_the_program_is_left_alone() -> None:
    told: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        scheduler = Scheduler.with_sequential()
        scheduler.on_start(lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert scheduler.run() == ExitState(ExitState.Code.EXHAUSTED)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert told == [signal.SIGTERM]


def test_ctrl_c_interrupts_a_call_that_runs_in_this_thread_where_it_is() -> None:
    former = signal.getsignal(signal.SIGINT)
    told: list[str] = []

    def interrupted() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:
            told.append("in the call")
            raise

    scheduler = Scheduler.with_sequential()
    task = scheduler.task(interrupted)
    scheduler.on_start(lambda: [task.submit(), task.submit()])
    task.on_cancelled(lambda future: told.append(f"cancelled {future.number}"))
    scheduler.on_finished(lambda: told.append("finished"))
    with pytest.raises(KeyboardInterrupt):
        scheduler.run()
    assert told == ["in the call", "cancelled 1", "cancelled 2", "finished"]
    assert signal.getsignal(signal.SIGINT) is former


def _raise(error: BaseException) -> None:
    raise error


def test_a_handler_of_the_program_ends_it_while_a_call_runs_in_this_thread() -> None:
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    try:
        scheduler = Scheduler.with_sequential()
        scheduler.on_start(lambda: scheduler.submit(os.kill, os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit, match="terminated"):
            scheduler.run(on_exception="continue")
    finally:
        signal.signal(signal.SIGTERM, former)


def test_ctrl_c_in_a_loop_of_the_program_interrupts_a_call_that_runs_in_this_thread() -> None:
    scheduler = Scheduler.with_sequential()
    scheduler.on_start(lambda: scheduler.submit(os.kill, os.getpid(), signal.SIGINT))
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(scheduler.async_run(on_exception="continue"))
    finally:
        loop.close()
    assert not scheduler.has_run


def test_a_call_that_raises_what_ctrl_c_raises_ends_alone() -> None:
    scheduler = Scheduler.with_sequential()
    scheduler.on_start(lambda: scheduler.submit(_raise, KeyboardInterrupt()))
    assert scheduler.run(on_exception="continue") == ExitState(ExitState.Code.EXHAUSTED)


def _backend(name: str) -> Backend:
    (backend,) = (backend for backend in BACKENDS if backend.name == name)
    return backend
