"""Channels whose ends die."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from amlsched import CommError, ExitState, Scheduler
from amlsched.plugins import Comm
from amlsched.plugins._comm.wire import NUMBER_BYTES, PROOF_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from amlsched import Future, Task
    from tests.backends import Backend

ROOT = Path(__file__).parents[2]


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 45
    while not holds():
        assert time.monotonic() < deadline, f"45 s passed before {what}"
        time.sleep(0.005)


def say_and_die(n: int, how: str, *, comm: Comm) -> None:
    with comm.open():
        for i in range(n):
            comm.send(i)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "exit":
            os._exit(3)


@pytest.mark.parametrize("how", ["kill", "exit"])
@pytest.mark.parametrize("n", [1, 3000])
def test_a_worker_that_dies_with_its_channel_open_gives_its_messages_and_a_close_with_the_reason(
    mortal_backend: Backend, how: str, n: int
) -> None:
    scheduler = mortal_backend.scheduler()
    task = scheduler.task(say_and_die, plugins=Comm.Plugin(), retries_on_loss=0)
    messages: list[int] = []
    closes: list[Comm.Msg[Any]] = []
    errors: list[BaseException] = []
    task.on(Comm.MESSAGE, lambda msg: messages.append(msg.data))
    task.on(Comm.CLOSE, closes.append)
    task.on_exception(lambda _, error: errors.append(error))
    scheduler.on_start(lambda: task.submit(n, how))
    scheduler.run(on_exception="continue")
    assert messages == list(range(n))
    assert len(errors) == 1
    assert [type(close.exception) for close in closes] in ([ConnectionResetError], [type(errors[0])])


def test_the_calls_beside_one_that_dies_go_on(robust_backend: Backend) -> None:
    scheduler = robust_backend.scheduler()
    task = scheduler.task(say_and_die, plugins=Comm.Plugin(), retries_on_loss=0)
    messages: dict[Any, list[int]] = {}
    closes: dict[Any, BaseException | None] = {}
    task.on(Comm.OPEN, lambda msg: messages.setdefault(msg.future, []))
    task.on(Comm.MESSAGE, lambda msg: messages[msg.future].append(msg.data))
    task.on(Comm.CLOSE, lambda msg: closes.update({msg.future: msg.exception}))
    ways = ["return", "kill", "return", "kill", "return"]
    scheduler.on_start(lambda: [task.submit(50, how) for how in ways])
    scheduler.run(on_exception="continue")
    assert list(messages.values()) == [list(range(50))] * 5
    assert sorted(reason is not None for reason in closes.values()) == [False, False, False, True, True]


def fork_and_say(n: int, *, comm: Comm) -> int:
    with comm.open():
        comm.send(n)
        child = os.fork()
        if not child:
            with contextlib.suppress(CommError):
                comm.send(100)
            return 100
        os.waitpid(child, 0)
        comm.send(n)
    return n


@pytest.mark.parametrize("name", ["sequential", "threads", "processes"])
def test_a_process_that_a_call_forks_leaves_the_channel_alone(name: str) -> None:
    scheduler = Scheduler.from_name(name)
    task = scheduler.task(fork_and_say, plugins=Comm.Plugin())
    messages: list[int] = []
    closes: list[BaseException | None] = []
    results: list[int] = []
    task.on(Comm.MESSAGE, lambda msg: messages.append(msg.data))
    task.on(Comm.CLOSE, lambda msg: closes.append(msg.exception))
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [task.submit(n) for n in range(3)])
    scheduler.run()
    assert sorted(messages) == [0, 0, 1, 1, 2, 2]
    assert closes == [None] * 3
    assert sorted(results) == [0, 1, 2]


def ask_and_note(path: str, *, comm: Comm) -> str:
    try:
        comm.request("wait")
    except CommError as error:
        Path(path).write_text(str(error))
        return str(error)
    return "answered"


def test_a_thread_that_asks_is_released_by_a_run_that_does_not_wait(tmp_path: Path) -> None:
    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(ask_and_note, plugins=Comm.Plugin())
    kept: list[Comm.Msg[Any]] = []
    task.on(Comm.REQUEST, kept.append)
    task.on(Comm.REQUEST, lambda _: scheduler.stop())
    path = tmp_path / "said"
    scheduler.on_start(lambda: task.submit(str(path)))
    assert scheduler.run(wait=False).code is ExitState.Code.STOPPED
    until(lambda: path.exists() and path.read_text() != "", "the thread was told")
    assert "the run is ending" in path.read_text() or "cancelled" in path.read_text()


DRIVER = """
import sys
from amlsched import Scheduler
from amlsched.plugins import Comm
from tests.faults.test_comm import ask_for_ever

if __name__ == "__main__":
    scheduler = Scheduler.from_name(sys.argv[1], max_workers=1)
    task = scheduler.task(ask_for_ever, plugins=Comm.Plugin())
    kept = []

    @task.on("comm-request")
    def on_request(msg):
        kept.append(msg)
        print(msg.data, flush=True)

    scheduler.on_start(lambda: task.submit(*sys.argv[2:]))
    scheduler.run()
"""


def ask_for_ever(note: str = "", *, comm: Comm) -> None:
    try:
        comm.request(os.getpid())
    except CommError as error:
        if note:
            Path(note).write_text(str(error))


def test_a_call_that_asks_does_not_wait_for_a_driver_that_was_killed(local_backend: Backend, tmp_path: Path) -> None:
    note = tmp_path / "note"
    command = [sys.executable, "-c", DRIVER, local_backend.name, str(note)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        assert driver.stdout is not None
        worker = psutil.Process(int(driver.stdout.readline()))
        driver.kill()
    until(lambda: note.exists() or not worker.is_running(), "the call was released, or its worker ended")
    # Whether its worker goes on is the executor's affair.
    until(lambda: not worker.is_running() or "lost" in note.read_text(), "the call has said why, or its worker ended")
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.kill()


@pytest.mark.parametrize("way", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_run_whose_calls_ask(this_machines_pool: Backend, way: str) -> None:
    command = [sys.executable, "-c", DRIVER, this_machines_pool.name]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        driver.send_signal(signal.Signals[way])
        _, errors = driver.communicate(timeout=30)
    expected = {"SIGINT": "KeyboardInterrupt", "SIGTERM": ""}[way]
    assert expected in errors
    assert driver.returncode == {"SIGINT": -signal.SIGINT, "SIGTERM": 143}[way], errors


class Adversary:
    """Peers of every bad kind, at the address that the calls of a task are given."""

    def __init__(self, task: Task[..., Any]) -> None:
        self.peers: list[socket.socket] = []
        self.refused = 0
        self.done = threading.Event()
        task.on_submitted(self.submitted)

    def submitted(self, future: Future[Any], *args: Any, comm: Comm) -> None:
        if not self.peers:
            self.peers = [socket.create_connection(comm._address) for _ in range(100)]
            for i, peer in enumerate(self.peers):
                if i % 2:
                    peer.sendall(struct.pack("!i", 200) + b"half a")
            threading.Thread(target=self.guess, args=(comm._address,)).start()

    def guess(self, address: tuple[str, int]) -> None:
        for _ in range(5):
            with socket.create_connection(address) as peer, contextlib.suppress(ConnectionError):
                peer.settimeout(20)
                peer.sendall(bytes(NUMBER_BYTES + PROOF_BYTES))
                while peer.recv(4096):
                    pass
            self.refused += 1
        self.done.set()

    def close(self) -> None:
        for peer in self.peers:
            peer.close()


def ask_slowly(n: int, *, comm: Comm) -> list[int]:
    with comm.open():
        return [comm.request(i, timeout=60) for i in range(n)]


def test_peers_without_the_key_stop_nothing(concurrent_backend: Backend) -> None:
    scheduler = concurrent_backend.scheduler()
    task = scheduler.task(ask_slowly, plugins=Comm.Plugin())
    adversary = Adversary(task)
    results: list[Any] = []
    task.on_result(lambda _, result: results.append(result))

    @task.on(Comm.REQUEST)
    def on_request(msg: Comm.Msg[Any]) -> None:
        if msg.data < 10:
            msg.respond(2 * msg.data)
        else:  # not before the adversary has tried everything
            threading.Thread(target=lambda: adversary.done.wait(45) and msg.respond(2 * msg.data)).start()

    scheduler.on_start(lambda: [task.submit(20) for _ in range(4)])
    scheduler.run()
    adversary.close()
    assert results == [[2 * i for i in range(20)]] * 4
    assert adversary.refused == 5
