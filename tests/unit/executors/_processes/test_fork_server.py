"""Workers that a server forks have what a fork of this program would have, and the server can be lost."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from amlsched.executors._processes import fork_server
from amlsched.executors.processes import ProcessPool
from tests.calls import double, until_released
from tests.processes import alive, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(sys.platform != "linux", reason="ProcessPool is for Linux"),
]
LIMIT_S = 30.0
ROOT = Path(__file__).parents[4]


def surroundings() -> tuple[str | None, str | None, set[int], int, tuple[int, int]]:
    os.umask(umask := os.umask(0))
    folder = Path().stat()
    os.write(1, b"to standard output")
    print("and to standard error", file=sys.stderr, flush=True)
    return (
        os.environ.get("AMLSCHED_ADDED"),
        os.environ.get("AMLSCHED_REMOVED"),
        os.sched_getaffinity(0),
        umask,
        (folder.st_dev, folder.st_ino),
    )


def server() -> int:
    assert fork_server._server is not None
    return fork_server._server.pid


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[set[int], Path]]:
    """After the server has started, much is changed."""
    monkeypatch.setenv("AMLSCHED_REMOVED", "it is there at first")
    with ProcessPool(1) as pool:
        pool.submit(double, 1).result(LIMIT_S)
    monkeypatch.setenv("AMLSCHED_ADDED", "\udcff of bytes")
    monkeypatch.delenv("AMLSCHED_REMOVED")
    monkeypatch.chdir(tmp_path)
    cpus, umask = os.sched_getaffinity(0), os.umask(0o027)
    os.sched_setaffinity(0, {min(cpus)})
    yield {min(cpus)}, tmp_path
    os.sched_setaffinity(0, cpus)
    os.umask(umask)


def test_a_worker_has_the_surroundings_that_this_process_has_when_it_starts(
    changed: tuple[set[int], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    cpus, folder = changed
    here = folder.stat()
    before = server()
    folder.rmdir()  # to have no name for it is no fault
    with ProcessPool(1) as pool:
        found = pool.submit(surroundings).result(LIMIT_S)
    assert found == ("\udcff of bytes", None, cpus, 0o027, (here.st_dev, here.st_ino))
    assert capfd.readouterr() == ("to standard output", "and to standard error\n")
    assert server() == before


def test_a_server_that_was_killed_is_replaced_and_its_workers_go_on(tmp_path: Path) -> None:
    with ProcessPool(2) as pool:
        running = pool.submit(until_released, tmp_path / "started", tmp_path / "release")
        until((tmp_path / "started").exists)
        killed = server()
        os.kill(killed, signal.SIGKILL)
        until(lambda: not alive(killed))
        assert pool.submit(double, 2).result(LIMIT_S) == 4
        assert server() != killed
        (tmp_path / "release").touch()
        assert running.result(LIMIT_S) == "released"


def test_a_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with ProcessPool(1) as pool:
        pool.submit(double, 1).result(LIMIT_S)
    stopped = server()
    os.kill(stopped, signal.SIGSTOP)
    try:
        monkeypatch.setattr(fork_server, "_START_S", 0.2)
        with ProcessPool(1) as pool:
            error = pool.submit(double, 1).exception(LIMIT_S)
        assert f"process {stopped}, from which workers are forked, did not answer within 0.2 s" in str(error)
        assert "it was stopped by a signal" in str(error)
        error.context = error
        del error
        gc.collect()  # with a buffer in the traceback, Python 3.12.1 crashed here
    finally:
        os.kill(stopped, signal.SIGKILL)


def in_a_fork(folder: Path) -> int:
    """A child of this process that uses a pool of its own."""
    child = os.fork()
    if not child:
        code = 1
        try:
            with ProcessPool(1) as pool:
                code = 0 if pool.submit(double, 2).result(LIMIT_S) == 4 else 2
            (folder / "server").write_text(str(server()))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_forked_from_this_one_has_a_server_of_its_own(tmp_path: Path) -> None:
    with ProcessPool(1) as pool:
        pool.submit(double, 1).result(LIMIT_S)
        assert in_a_fork(tmp_path) == 0
        other = int((tmp_path / "server").read_text())
        assert other != server()
        until(lambda: not alive(other))
        assert pool.submit(double, 2).result(LIMIT_S) == 4


PROGRAM = """
import multiprocessing, os, sys
import amlsched.experiments
from amlsched.executors.processes import ProcessPool

def loaded(): return {"decimal", "amlsched.experiments._running.repetition"} <= sys.modules.keys()

if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["__main__", "decimal", "no_such_module"])
    with ProcessPool(1) as pool:
        print(pool.submit(loaded).result(), os.listdir(os.environ["TMPDIR"]))
"""


def test_modules_are_preloaded_and_no_file_is_made(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    folder = tmp_path / ("long" * 30)  # too long for the name of a socket
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "program.py"],  # which warns of what is left open
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True []\n", "")


def test_the_server_holds_nothing_that_this_process_has_open(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        if fork_server._server is not None:
            fork_server._drop(fork_server._server)
        with ProcessPool(1) as pool:
            pool.submit(double, 1).result(LIMIT_S)
            assert psutil.Process(server()).open_files() == []
