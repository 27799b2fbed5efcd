"""A pool of processes whose workers die in every way, and its driver too: nothing is lost, nothing hangs or is left."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from amlsched.errors import NotPicklableError, WorkerExitedError, WorkerKilledError, WorkerLostError, WorkerStartError
from amlsched.executors._processes.worker_handle import Stall
from amlsched.executors.processes import ProcessPool
from tests.calls import double, until_released
from tests.processes import METHODS, alive, context_of, run_python, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ProcessPool is for Linux")

ROOT = Path(__file__).parents[2]
LIMIT_S = 45.0


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def marked(marker: str) -> list[int]:
    """Processes that inherited a variable of the environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "environ").read_bytes() and alive(int(entry.name)):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


class Served:
    """A pool that an event loop in another thread serves."""

    def __init__(self, pool: ProcessPool) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.pool = pool
        self._call(pool.attach, self.loop)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (function(*args), done.set()))
        assert done.wait(LIMIT_S)

    def stop(self) -> None:
        self._call(self.pool.detach)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@contextmanager
def pool_of(mode: str, workers: int = 2, method: str = "default", **options: Any) -> Iterator[ProcessPool]:
    pool = ProcessPool(workers, context_of(method), **options)
    served = Served(pool) if mode == "attached" else None
    try:
        yield pool
        before = pool.worker_pids()
    finally:
        if served is not None:
            served.stop()
        pool.kill_workers()
    until(lambda: not any(map(alive, before)))


@pytest.fixture(params=["standalone", "attached"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --------------------------------------------------------------------------------------------------- functions to call


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def fall() -> None:
    faulthandler.disable()  # pytest's would write to the terminal
    ctypes.string_at(0)


class EndsWhilePickled:
    def __reduce__(self) -> Any:
        end_by(signal.SIGKILL)
        raise AssertionError


def give_fatal() -> EndsWhilePickled:
    return EndsWhilePickled()


def resist(started: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    started.write_text(str(os.getpid()))
    time.sleep(60)


def spin(started: Path) -> None:
    started.write_text(str(os.getpid()))
    while True:
        pass


def start_family(folder: Path) -> None:
    """A child, a daemon with a session of its own whose parent has ended, and a program; none of them minds SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not os.fork():
        (folder / "child").write_text(str(os.getpid()))
        time.sleep(60)
    between = os.fork()
    if not between:
        os.setsid()
        if not os.fork():
            (folder / "daemon").write_text(str(os.getpid()))
            time.sleep(60)
        os._exit(0)
    os.waitpid(between, 0)
    program = subprocess.Popen(["sleep", "60"], start_new_session=True)
    (folder / "program").write_text(str(program.pid))
    (folder / "self").write_text(str(os.getpid()))
    time.sleep(60)


def family(folder: Path) -> list[int]:
    names = ("child", "daemon", "program", "self")
    until(lambda: all((folder / name).exists() and (folder / name).read_text() for name in names))
    return [int((folder / name).read_text()) for name in names]


def noted(folder: Path, number: int) -> int:
    """Leaves a file for each time that it runs."""
    (folder / f"{number}-{uuid4()}").touch()
    return number


# ---------------------------------------------------------------------------------------------------- workers that die

DEATHS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], type[WorkerLostError], int]] = {
    "SIGKILL": (end_by, (signal.SIGKILL,), WorkerKilledError, signal.SIGKILL),
    "SIGTERM": (end_by, (signal.SIGTERM,), WorkerKilledError, signal.SIGTERM),
    "SIGSEGV": (fall, (), WorkerKilledError, signal.SIGSEGV),
    "exit with 0": (os._exit, (0,), WorkerExitedError, 0),
    "exit with 7": (os._exit, (7,), WorkerExitedError, 7),
    "SIGKILL while the result is pickled": (give_fatal, (), WorkerKilledError, signal.SIGKILL),
}


@pytest.mark.parametrize("death", DEATHS)
def test_of_fifty_calls_exactly_the_guilty_fail(mode: str, death: str, tmp_path: Path) -> None:
    function, args, kind, number = DEATHS[death]
    guilty = {7, 8, 30}
    with pool_of(mode) as pool:
        futures = [
            pool.submit(function, *args) if index in guilty else pool.submit(noted, tmp_path, index)
            for index in range(50)
        ]
        for index, future in enumerate(futures):
            if index not in guilty:
                assert future.result(LIMIT_S) == index
                continue
            error = future.exception(LIMIT_S)
            assert type(error) is kind
            assert (error.signal if isinstance(error, WorkerKilledError) else error.exitcode) == number  # type: ignore[union-attr]
            assert error.call == function.__qualname__
            assert not alive(error.pid or 0)
    runs = Counter(int(path.name.partition("-")[0]) for path in tmp_path.iterdir())
    assert runs == dict.fromkeys(set(range(50)) - guilty, 1)


def test_a_worker_killed_while_it_waits_costs_no_call(mode: str) -> None:
    with pool_of(mode, 1) as pool:
        assert pool.submit(double, 1).result(LIMIT_S) == 2
        for number in range(5):
            (pid,) = until(pool.worker_pids)
            os.kill(pid, signal.SIGKILL)
            assert pool.submit(double, number).result(LIMIT_S) == 2 * number


def test_a_worker_whose_keeper_is_killed_ends_and_its_call_is_told(mode: str, tmp_path: Path) -> None:
    with pool_of(mode) as pool:
        future = pool.submit(until_released, tmp_path / "started", tmp_path / "release")
        until((tmp_path / "started").exists)
        pid = until(lambda: pool.running().get(future))
        os.kill(parent_of(pid), signal.SIGKILL)
        assert isinstance(future.exception(LIMIT_S), WorkerKilledError)
        until(lambda: not alive(pid))
        assert pool.submit(double, 4).result(LIMIT_S) == 8


@pytest.mark.parametrize("how", ["ends itself", "is killed"])
def test_what_a_dead_worker_started_is_gone_when_its_call_has_ended(mode: str, how: str, tmp_path: Path) -> None:
    with pool_of(mode) as pool:
        future = pool.submit(start_family, tmp_path)
        pids = family(tmp_path)
        if how == "is killed":
            os.kill(pids[-1], signal.SIGKILL)
            assert isinstance(future.exception(LIMIT_S), WorkerKilledError)
        else:
            assert pool.kill_call(future, grace_s=0.05)
            with pytest.raises(CancelledError):
                future.result(LIMIT_S)
        assert [pid for pid in pids if alive(pid)] == []
        assert pool.submit(double, 4).result(LIMIT_S) == 8


# ----------------------------------------------------------------------------------------------- calls that are killed


@pytest.mark.parametrize("function", [resist, spin])
@pytest.mark.parametrize("error", [None, TimeoutError("too long")], ids=["cancelled", "with an error"])
def test_a_running_call_is_ended_on_its_own(
    mode: str, function: Callable[[Path], None], error: Exception | None, tmp_path: Path
) -> None:
    with pool_of(mode) as pool:
        other = pool.submit(until_released, tmp_path / "other", tmp_path / "release", "intact")
        future = pool.submit(function, tmp_path / "started")
        pid = int(until(lambda: (tmp_path / "started").exists() and (tmp_path / "started").read_text()))
        until(future.running)
        assert pool.kill_call(future, error, grace_s=0.1)
        assert pool.kill_call(future, grace_s=0.1)  # twice is once
        with pytest.raises(CancelledError if error is None else TimeoutError):
            future.result(LIMIT_S)
        assert future.cancelled() == (error is None)
        assert not alive(pid)
        assert not pool.kill_call(future)
        assert pool.submit(double, 3).result(LIMIT_S) == 6
        (tmp_path / "release").touch()
        assert other.result(LIMIT_S) == "intact"


def test_a_call_that_waits_is_ended_without_a_worker(mode: str, tmp_path: Path) -> None:
    with pool_of(mode, 1) as pool:
        first = pool.submit(until_released, tmp_path / "started", tmp_path / "release")
        until((tmp_path / "started").exists)
        pids = until(pool.worker_pids)
        waiting, error = pool.submit(noted, tmp_path, 1), KeyError("reason")
        failing = pool.submit(noted, tmp_path, 2)
        assert pool.kill_call(waiting)
        assert pool.kill_call(failing, error)
        assert waiting.cancelled()
        assert failing.exception(0) is error
        (tmp_path / "release").touch()
        assert first.result(LIMIT_S) == "released"
        assert pool.submit(double, 1).result(LIMIT_S) == 2
        assert pool.worker_pids() == pids
        assert not pool.kill_call(first)
    assert {path.name for path in tmp_path.iterdir()} == {"started", "release"}


def test_killing_the_workers_ends_every_call_and_the_pool(mode: str, tmp_path: Path) -> None:
    with pool_of(mode) as pool:
        folders = [tmp_path / "a", tmp_path / "b"]
        for folder in folders:
            folder.mkdir()
        futures = [pool.submit(start_family, folder) for folder in folders]
        futures += [pool.submit(double, 1) for _ in range(10)]
        pids = [pid for folder in folders for pid in family(folder)]
        pool.kill_workers()
        assert [pid for pid in pids if alive(pid)] == []
        assert all(future.cancelled() for future in futures)
        assert wait(futures, 0).not_done == set()
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(double, 1)


# ----------------------------------------------------------------------------------------- workers that do not come up


def refuse() -> None:
    raise LookupError("no licence")


def refuse_once(flag: Path) -> None:
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return
    raise LookupError("not yet")


@pytest.mark.parametrize("method", METHODS)
def test_an_initializer_that_raises_fails_the_calls_with_its_error(method: str) -> None:
    with pool_of("standalone", method=method, initializer=refuse) as pool:
        for _ in range(2):  # the pool is not broken for good
            futures = [pool.submit(double, 1) for _ in range(5)]
            for future in futures:
                error = future.exception(LIMIT_S)
                assert isinstance(error, WorkerStartError)
                assert error.call == "double"
                assert "no licence" in str(error)
                assert isinstance(error.__cause__, LookupError)


@pytest.mark.parametrize("args", [(3,), (0,)])
def test_an_initializer_that_exits_fails_the_calls(mode: str, args: tuple[int]) -> None:
    with pool_of(mode, initializer=os._exit, initargs=args) as pool:
        error = pool.submit(double, 1).exception(LIMIT_S)
        assert isinstance(error, WorkerStartError)
        assert f"exited with code {args[0]}" in str(error)


def test_an_initializer_that_raises_once_costs_no_call(mode: str, tmp_path: Path) -> None:
    with pool_of(mode, initializer=refuse_once, initargs=(tmp_path / "flag",)) as pool:
        assert [future.result(LIMIT_S) for future in [pool.submit(double, n) for n in range(20)]] == [
            2 * n for n in range(20)
        ]


def test_an_initializer_that_cannot_be_sent_fails_the_calls() -> None:
    with pool_of("standalone", method="spawn", initializer=print, initargs=(threading.Lock(),)) as pool:
        error = pool.submit(double, 1).exception(LIMIT_S)
        assert isinstance(error, WorkerStartError)
        assert "pickle" in str(error)


# -------------------------------------------------------------------- supervisors that do not do what they should


def supervisors() -> list[int]:
    """The processes that this one has started and that are no supervisors' children."""
    return [pid for pid in map(int, children_of(os.getpid())) if alive(pid)]


def children_of(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


def never_comes_up(*_: object) -> None:
    """As a process that was forked while another thread held a lock, such as that of an import."""
    time.sleep(60)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amlsched.executors._processes.worker_handle._LATE_S", 0.3)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["stuck before it is one", "killed", "stopped", "stopped while the initializer runs"])
def test_workers_can_be_ended_whatever_their_keepers_do(
    mode: str, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if how == "stuck before it is one":
        monkeypatch.setattr("amlsched.executors._processes.worker_handle.main", never_comes_up)
    others = set(supervisors())
    wait_in = start_family if how == "stopped while the initializer runs" else None
    with pool_of(mode, 1, "fork", initializer=wait_in, initargs=(tmp_path,) if wait_in else ()) as pool:
        future = pool.submit(double if wait_in else start_family, tmp_path)  # type: ignore[arg-type]
        (supervisor,) = until(lambda: set(supervisors()) - others)
        pids = [] if how in ("stuck before it is one", "killed") else family(tmp_path)
        os.kill(supervisor, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        begun = time.monotonic()
        pool.kill_workers()
        assert time.monotonic() - begun < 10
        assert future.cancelled()
        until(lambda: not any(map(alive, (supervisor, *pids))))


@pytest.mark.usefixtures("impatient")
def test_a_call_is_ended_though_its_keeper_is_stopped(mode: str, tmp_path: Path) -> None:
    with pool_of(mode) as pool:
        future = pool.submit(start_family, tmp_path)
        pids = family(tmp_path)
        os.kill(parent_of(pids[-1]), signal.SIGSTOP)
        assert pool.kill_call(future, TimeoutError("enough"), grace_s=0.1)
        assert isinstance(future.exception(LIMIT_S), TimeoutError)
        until(lambda: not any(map(alive, pids)))
        assert pool.submit(double, 4).result(LIMIT_S) == 8


@pytest.mark.usefixtures("impatient")
def test_a_worker_whose_process_is_stuck_before_it_is_one_is_told(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amlsched.executors._processes.worker_handle._START_S", 0.2)
    monkeypatch.setattr("amlsched.executors._processes.worker_handle.main", never_comes_up)
    with pool_of(mode, 1, "fork") as pool:
        future = pool.submit(double, 1)
        assert isinstance(future.exception(LIMIT_S), WorkerStartError)
        assert "did not start working within 0.2 s" in str(future.exception())
        assert future.exception().__cause__ is not None


@pytest.mark.usefixtures("impatient")
def test_what_nothing_can_end_is_left_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As if it hung in the kernel."""
    with pool_of("standalone", 1, "fork") as pool:
        future = pool.submit(start_family, tmp_path)
        pids = family(tmp_path)
        supervisor = parent_of(pids[-1])
        os.kill(supervisor, signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr("multiprocessing.process.BaseProcess.kill", lambda _: None)
            patch.setattr("amlsched._proc.descendants", lambda _: ())
            pool.kill_workers()
        assert future.cancelled()
        assert (
            f"process {supervisor} of a pool cannot be killed and was abandoned: it was stopped by a signal"
            in caplog.text
        )
        os.kill(supervisor, signal.SIGKILL)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(supervisor, 0)


# ----------------------------------------------------------------------------------------------- calls that do not move


def wait_for_a_lock(_: Path) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def sleep_until(release: Path) -> None:
    until(release.exists)


@pytest.mark.parametrize(
    ("method", "function"), [("fork", wait_for_a_lock), ("default", wait_for_a_lock), ("fork", sleep_until)]
)
def test_a_call_that_waits_for_a_lock_in_a_forked_process_is_named_once(
    method: str,
    function: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("amlsched.executors._processes.worker_handle._CHECK_S", 0.05)
    checks: list[object] = []
    check = Stall.check

    def noted(stall: Stall, call: Any) -> None:
        check(stall, call)
        checks.append(call)

    monkeypatch.setattr(Stall, "check", noted)
    with pool_of("standalone", 1, method) as pool:
        future = pool.submit(function, tmp_path / "release")
        if method == "fork":
            until(lambda: checks.count(future) > 5)
        else:
            until(future.running)
        if (method, function) == ("fork", wait_for_a_lock):
            until(lambda: "wait_for_a_lock has waited for a lock or a thread" in caplog.text)
            seen = len(checks)
            until(lambda: len(checks) > seen + 3)
        assert caplog.text.count("has waited for") == (method == "fork" and function is wait_for_a_lock)
        assert not caplog.records or 'mp_context=get_context("fork")' in caplog.text
        assert bool(checks) == (method == "fork")


# ----------------------------------------------------------------------------------------------- many random schedules


SCHEDULES = int(os.environ.get("AMLSCHED_EXAMPLES", "0")) or 40


def scheduled(kind: str, folder: Path, number: int) -> int:
    noted(folder, number)
    if kind == "raises":
        raise ValueError(number)
    if kind == "kills":
        end_by(signal.SIGKILL)
    if kind == "exits":
        os._exit(5)
    if kind == "takes a moment":
        time.sleep(0.002)
    if kind == "hangs":
        time.sleep(60)
    return number


def count(endings: Counter[int], number: int, _: object) -> None:
    endings[number] += 1


@pytest.mark.slow
def test_in_many_random_schedules_every_call_ends_once(mode: str, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    kinds = ("returns",) * 12 + ("takes a moment",) * 4 + ("raises", "raises", "kills", "exits", "hangs")
    with pool_of(mode) as pool:
        for schedule in range(SCHEDULES):
            folder = tmp_path / str(schedule)
            folder.mkdir()
            endings: Counter[int] = Counter()
            calls = []
            for number in range(choose.randrange(1, 16)):
                kind = choose.choice(kinds)
                future = pool.submit(scheduled, kind, folder, number)
                future.add_done_callback(partial(count, endings, number))
                calls.append((kind, number, future, choose.choice(("leave", "leave", "leave", "cancel", "kill"))))
            killed, cancelled = set(), set()
            for kind, number, future, action in choose.sample(calls, len(calls)):
                if action == "cancel" and future.cancel():
                    cancelled.add(number)
                if (action == "kill" or (kind == "hangs" and number not in cancelled)) and pool.kill_call(
                    future, grace_s=choose.choice((0.0, 0.01))
                ):
                    killed.add(number)
            not_done = wait([future for _, _, future, _ in calls], LIMIT_S).not_done
            assert not not_done, f"seed {seed}, schedule {schedule}: {calls}"
            runs = Counter(int(path.name.partition("-")[0]) for path in folder.iterdir())
            for kind, number, future, _ in calls:
                told = f"seed {seed}, schedule {schedule}: {kind} {number} {future}"
                assert endings[number] == 1, told
                assert runs[number] <= 1, told
                if number in killed or number in cancelled:
                    assert future.cancelled(), told
                    assert number not in cancelled or not runs[number], told
                elif kind == "raises":
                    assert isinstance(future.exception(), ValueError), told
                elif kind in ("kills", "exits"):
                    assert isinstance(future.exception(), WorkerLostError), told
                else:
                    assert future.result() == number, told
                    assert runs[number] == 1, told


# ---------------------------------------------------------------------------------------------------- drivers that end

DRIVER = """
import multiprocessing, os, signal, subprocess, sys, time
from amlsched.executors.processes import ProcessPool

def family():
    if not os.fork():
        time.sleep(120)
    if not os.fork():
        os.setsid()
        if not os.fork():
            time.sleep(120)
        os._exit(0)
    subprocess.Popen(["sleep", "120"], start_new_session=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    os.write(1, b"up\\n")
    while True:
        time.sleep(0.01)

if __name__ == "__main__":
    context = None if sys.argv[1] == "default" else multiprocessing.get_context(sys.argv[1])
    pool = ProcessPool(2, context)
    pool.submit(family)
    pool.submit(family)
    if sys.argv[2] == "bystander" and not os.fork():
        os.execvp("sleep", ["sleep", "3"]) if os.fork() else time.sleep(3)
        os._exit(0)
    sys.stdin.readline()
    if sys.argv[2] == "os._exit":
        os._exit(9)
    if sys.argv[2] == "exception":
        raise SystemExit(9)
    if sys.argv[2] in ("wait", "bystander"):
        time.sleep(120)
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "os._exit", "exception", "end of the program", "bystander"])
def test_when_the_driver_ends_everything_below_it_ends(method: str, end: str, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    marker = f"AMLSCHED_TEST={uuid4()}"
    name, _, value = marker.partition("=")
    driver = subprocess.Popen(
        [sys.executable, str(script), method, "wait" if end.startswith("SIG") else end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, name: value, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    try:
        assert [driver.stdout.readline() for _ in range(2)] == [b"up\n"] * 2
        assert len(marked(marker)) >= 9
        if end.startswith("SIG") or end == "bystander":
            driver.send_signal(signal.SIGKILL if end == "bystander" else signal.Signals[end])
        else:
            driver.stdin.write(b"go\n")
            driver.stdin.flush()
        driver.wait(5)
        # What the program itself forked, the bystanders, are not the pool's; they end by themselves.
        keep = 2 if end == "bystander" else 0
        until(lambda: len(marked(marker)) <= keep)
    finally:
        driver.kill()
        driver.wait()
        driver.stdin.close()
        driver.stdout.close()
        for pid in marked(marker):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("method", ["default", "spawn"])
def test_a_pool_beside_the_main_guard_is_told_what_to_write(method: str, tmp_path: Path) -> None:
    script = tmp_path / "misplaced.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, sys
            from amlsched.executors.processes import ProcessPool

            print("imported", flush=True)
            pool = ProcessPool(2, None if sys.argv[1] == "default" else multiprocessing.get_context(sys.argv[1]))
            print(pool.submit(abs, -1).exception())
            if __name__ == "__main__":
                print("main")
            """
        )
    )
    done = run_python(str(script), method, folder=tmp_path)
    assert "abs was lost" in done.stdout
    assert 'if __name__ == "__main__":' in done.stdout
    assert done.stdout.count("imported") <= 8
    assert done.returncode == 0


def test_a_worker_that_will_not_leave_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("amlsched.executors._processes.supervisor.QUIT_S", 0.2)
    with pool_of("standalone", 1) as pool:
        pid = pool.submit(leave_a_thread, tmp_path / "never").result(LIMIT_S)
        begun = time.monotonic()
        pool.shutdown()
        assert not alive(pid)
        assert time.monotonic() - begun < 10


def leave_a_thread(never: Path) -> int:
    threading.Thread(target=until_released, args=(never.with_suffix(".started"), never)).start()
    return os.getpid()


def test_what_cannot_travel_is_told_and_takes_nothing_with_it(mode: str) -> None:
    with pool_of(mode) as pool:
        others = [pool.submit(double, number) for number in range(10)]
        with pytest.raises(NotPicklableError, match="argument 'number'"):
            pool.submit(double, threading.Lock())  # type: ignore[arg-type]
        lock = pool.submit(threading.Lock)
        error = lock.exception(LIMIT_S)
        assert isinstance(error, NotPicklableError)
        assert error.what == "the result"
        assert [future.result(LIMIT_S) for future in others] == [2 * number for number in range(10)]
