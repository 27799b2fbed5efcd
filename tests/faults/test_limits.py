"""Calls that use too much are ended in time, with all that they started, on every executor."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import psutil
import pytest

from amlsched import CpuTimeLimitError, LimitError, MemoryLimitError, Scheduler, WalltimeLimitError
from amlsched.plugins import Limits, Retry
from amlsched.plugins._limits.watchdog import sizes
from tests.backends import BACKENDS, THOROUGH, Backend, MakesScheduler
from tests.faults import greedy
from tests.faults.greedy import MiB
from tests.journal import Journal
from tests.processes import serves_this_process, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Limits needs Linux")

ROOT = Path(__file__).parents[2]
GRACE_S = 0.5
LATE_S = 20.0
LOCAL = [backend.parameter() for backend in BACKENDS if not backend.capabilities.remote]
IN_DRIVER_OR_WORKER = pytest.mark.parametrize(
    "local", [backend.parameter() for backend in BACKENDS if backend.name in ("threads", "processes")], indirect=True
)
"""For what does not depend on the executor: once where the limited call is a child of the driver, once of a worker."""


def over_executors(*functions: Any) -> pytest.MarkDecorator:
    """The first function on each executor of this machine, the others where `IN_DRIVER_OR_WORKER` has tests."""
    rows = [backend for backend in BACKENDS if not backend.capabilities.remote]
    return pytest.mark.parametrize(
        ("local", "function"),
        [
            pytest.param(row, function, id=f"{row.name}-{function.__name__}")
            for row in rows
            for function in functions
            if THOROUGH or function is functions[0] or row.name in ("threads", "processes")
        ],
        indirect=["local"],
    )


def marked(marker: str) -> list[int]:
    """Processes that inherited a variable of the environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if marker.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture
def marker(monkeypatch: pytest.MonkeyPatch) -> str:
    """In the environment of every process that the test starts."""
    value = uuid4().hex
    monkeypatch.setenv("AMLSCHED_TEST_MARKER", value)
    return value


@pytest.fixture(params=LOCAL)
def local(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    backend.skip_if_absent()
    return backend


@pytest.fixture
def scheduler(local: Backend, shared_scheduler: MakesScheduler) -> Scheduler:
    """A limited call runs in a child of its worker: the worker outlives it, and serves the next test."""
    return shared_scheduler(local)


class Outcome:
    """What became of one limited call among others.

    Attributes:
        error: What it ended with.
        seconds: From the submission to the end.
        innocent: Results of the other calls, sorted.
    """

    def __init__(self, scheduler: Scheduler, limits: Limits, function: Callable[..., Any], *args: Any) -> None:
        greedy_task = scheduler.task(function, plugins=limits)
        innocent = scheduler.task(greedy.double)
        limited_innocent = scheduler.task(
            greedy.double, plugins=Limits(walltime="60 s", memory="8 GiB", cputime="60 s")
        )
        journal = Journal(scheduler, greedy_task, innocent)
        self.error: Any = None
        self.result: Any = None
        self.seconds = 0.0
        results: list[int] = []

        @scheduler.on_start
        def submit() -> None:
            for number in range(4):
                innocent.submit(number)
            limited_innocent.submit(4)
            self.seconds = -time.monotonic()
            greedy_task.submit(*args)
            for number in range(5, 8):
                innocent.submit(number)

        @greedy_task.on_exception
        def keep_error(_: Any, error: BaseException) -> None:
            self.seconds += time.monotonic()
            self.error = error

        @greedy_task.on_result
        def keep_result(_: Any, result: object) -> None:
            self.result = result

        innocent.on_result(lambda _, result: results.append(result))
        limited_innocent.on_result(lambda _, result: results.append(result))
        scheduler.run(on_exception="continue", timeout=60)
        journal.assert_every_call_ended_once()
        self.innocent = sorted(results)


INNOCENT = [2 * number for number in range(8)]


# ------------------------------------------------------------------------------------------------ pages of files


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@IN_DRIVER_OR_WORKER
def test_pages_of_files_do_not_count_and_all_others_do(scheduler: Scheduler, tmp_path: Path) -> None:
    path = tmp_path / "data"
    files, shared, (counted, _) = resident("RssFile"), resident("RssShmem"), sizes(os.getpid())
    with path.open("w+b") as file:
        file.truncate(96 * greedy.MiB)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert sum(mapped[:: mmap.PAGESIZE]) == 0
    in_memory = resident("RssFile") - files < 90 * greedy.MiB  # as where /tmp is a tmpfs
    grown = sizes(os.getpid())[0] - counted
    assert (resident("RssShmem") - shared > 90 * greedy.MiB) == in_memory == (grown > 90 * greedy.MiB)
    assert in_memory or grown < 30 * greedy.MiB
    outcome = Outcome(scheduler, Limits(memory="48 MiB"), greedy.read_file, str(path), 96, 0.3)
    assert outcome.innocent == INNOCENT
    assert isinstance(outcome.error, MemoryLimitError) == in_memory
    assert in_memory or outcome.result == 96 * greedy.MiB


# -------------------------------------------------------------------------------------------------------- walltime


@over_executors(greedy.sleep, greedy.burn, greedy.burn_in_c, greedy.sleep_deaf_to_sigterm)
def test_a_call_that_takes_too_long_is_ended_in_time(scheduler: Scheduler, function: Any) -> None:
    args = () if function is greedy.burn_in_c else (60,)
    outcome = Outcome(scheduler, Limits(walltime="1 s", grace_s=GRACE_S), function, *args)
    assert isinstance(outcome.error, WalltimeLimitError)
    assert outcome.error.call == function.__name__
    assert outcome.error.limit_s == 1.0
    assert 1.0 <= outcome.error.used_s < 1.0 + LATE_S
    assert outcome.innocent == INNOCENT


def test_the_walltime_counts_from_the_start_of_the_function(local: Backend) -> None:
    """Not from the submission: here calls wait for each other for longer than one of them may take."""
    scheduler = Scheduler.from_name(local.name, **dict.fromkeys(local.options, 1))
    task = scheduler.task(greedy.sleep, plugins=Limits(walltime="4 s"))
    scheduler.on_start(lambda: [task.submit(1.5) for _ in range(3)])
    scheduler.run()
    assert task.on_result.count == 3


def test_a_daemon_that_a_call_has_left_is_ended_with_it(scheduler: Scheduler, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    outcome = Outcome(scheduler, Limits(walltime="1 s", grace_s=GRACE_S), greedy.daemonize, str(pid_file), 60)
    assert isinstance(outcome.error, WalltimeLimitError)
    assert not Path(f"/proc/{pid_file.read_text()}").exists()
    assert outcome.innocent == INNOCENT


# ---------------------------------------------------------------------------------------------------------- memory


class Peak:
    """The most resident memory that one process below a given one had."""

    def __init__(self, root: int) -> None:
        self.largest = 0
        self._root = psutil.Process(root)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            with contextlib.suppress(psutil.Error):
                for process in self._root.children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        self.largest = max(self.largest, process.memory_info().rss)


def own_size() -> int:
    """What a worker has at most before it runs anything; some are forked from this process."""
    size: int = psutil.Process().memory_info().rss
    return size + 32 * MiB


@over_executors(greedy.grow, greedy.grow_at_once, greedy.grow_in_a_grandchild, greedy.grow_deaf_to_sigterm)
def test_a_call_that_takes_too_much_memory_is_ended_before_it_has_a_fifth_more(
    local: Backend, shared_scheduler: MakesScheduler, function: Any
) -> None:
    limit = 640 * MiB
    seen: list[tuple[int, int]] = []
    for _ in range(4):  # on a busy machine, the process that watches may come late once
        with Peak(os.getpid()) as peak:
            limits = Limits(memory="640 MiB", grace_s=GRACE_S)
            outcome = Outcome(shared_scheduler(local), limits, function, 640 + 1024)
        assert isinstance(outcome.error, MemoryLimitError)
        assert outcome.error.limit_bytes == limit < outcome.error.used_bytes
        assert limit / 2 < peak.largest
        assert outcome.innocent == INNOCENT
        seen.append((outcome.error.used_bytes, peak.largest - own_size()))
        if max(seen[-1]) <= 1.2 * limit:
            return
    pytest.fail(f"used and peak, in bytes, each time above 1.2 of {limit}: {seen}")


@IN_DRIVER_OR_WORKER
def test_memory_that_processes_share_counts_once(scheduler: Scheduler) -> None:
    outcome = Outcome(scheduler, Limits(memory="256 MiB"), greedy.share_with_children, 200, 6)
    assert outcome.error is None
    assert outcome.result == 200 * MiB


@IN_DRIVER_OR_WORKER
def test_what_a_worker_had_before_does_not_count(local: Backend) -> None:
    scheduler = Scheduler.from_name(local.name, **dict.fromkeys(local.options, 1))
    plain = scheduler.task(greedy.keep)
    limited = scheduler.task(greedy.grow, plugins=Limits(memory="200 MiB"))
    scheduler.on_start(lambda: plain.submit(300))
    plain.on_result(lambda *_: limited.submit(50, 0.1))
    scheduler.run()
    assert limited.on_result.count == 1


class Growing:
    """What became of calls that are run again with more memory.

    Attributes:
        limits: Of the attempts that failed, in MiB, by the size of the call; those between, then the last.
        errors: What calls ended with, by their size.
        results: Of the others, sorted.
    """

    def __init__(self, scheduler: Scheduler, retry: Retry, *sizes: int, batch_size: int = 1) -> None:
        self.limits: dict[int, list[float]] = {size: [] for size in sizes}
        self.errors: dict[int, Any] = {}
        self.results: list[int] = []
        task = scheduler.task(greedy.grow, plugins=[retry, Limits(memory="100 MiB")], batch_size=batch_size)
        journal = Journal(scheduler, task)

        @task.on_retry
        def again(future: Any, error: Any, attempt: int) -> None:
            limits = self.limits[future.args[0]]
            limits.append(error.limit_bytes / MiB)
            assert attempt == len(limits)
            assert any(f"attempt {attempt + 1} may use" in note for note in error.__notes__)

        @task.on_exception
        def failed(future: Any, error: Any) -> None:
            self.limits[future.args[0]].append(error.limit_bytes / MiB)
            self.errors[future.args[0]] = error

        task.on_result(lambda _, result: self.results.append(result // MiB))
        scheduler.on_start(lambda: [task.submit(size, 0.5) for size in sizes])
        scheduler.run(on_exception="continue", timeout=60)
        journal.assert_every_call_ended_once()
        self.results.sort()


@IN_DRIVER_OR_WORKER
def test_a_call_that_takes_too_much_memory_runs_again_with_more(scheduler: Scheduler) -> None:
    seen = Growing(scheduler, Retry(4, memory_growth=2.0, memory_cap="2 GiB"), 50, 300, 150)
    assert seen.results == [50, 150, 300]
    assert seen.limits == {50: [], 300: [100, 200], 150: [100]}


@IN_DRIVER_OR_WORKER
@pytest.mark.parametrize(
    ("retry", "limits", "note"),
    [
        (lambda: Retry(3, memory_growth=2.0), [100, 200, 400], "failed in each of 3 attempts"),
        (lambda: Retry(9, memory_growth=2.0, memory_cap="250 MiB"), [100, 200, 250], "its limit is the memory_cap"),
        (lambda: Retry(2, on=OSError, memory_growth=1.5), [100, 150], "failed in each of 2 attempts"),
    ],
    ids=["attempts", "cap", "on"],
)
def test_the_last_error_names_the_last_limit(
    scheduler: Scheduler, retry: Callable[[], Retry], limits: list[int], note: str
) -> None:
    seen = Growing(scheduler, retry(), 600, 50)
    assert seen.results == [50]
    assert seen.limits == {600: limits, 50: []}
    assert isinstance(seen.errors[600], MemoryLimitError)
    assert any(note in each for each in seen.errors[600].__notes__)


def test_memory_grows_for_the_calls_of_a_batch_and_with_receipts() -> None:
    scheduler = Scheduler.with_processes(2, receipts=True)
    seen = Growing(scheduler, Retry(3, memory_growth=2.0), 50, 150, 30, 300, batch_size=2)
    assert seen.results == [30, 50, 150, 300]
    assert seen.limits == {50: [], 150: [100], 30: [], 300: [100, 200]}


def test_other_limits_do_not_grow() -> None:
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(greedy.sleep, plugins=[Limits(walltime="0.3 s", memory="1 GiB"), Retry(3, memory_growth=2.0)])
    scheduler.on_start(lambda: task.submit(60))
    scheduler.run(on_exception="continue")
    assert (task.on_retry.count, task.on_exception.count) == (0, 1)


def test_a_driver_that_is_stuck_does_not_let_a_call_take_the_memory(tmp_path: Path) -> None:
    """Its processes are stopped until the driver can end the call."""
    program = """
        import re, sys
        from amlsched import MemoryLimitError, Scheduler
        from amlsched.plugins import Limits
        from tests.faults import greedy

        if __name__ == "__main__":
            scheduler = Scheduler.with_processes(1)
            warm = scheduler.task(greedy.double)
            task = scheduler.task(greedy.grow, plugins=Limits(memory="512 MiB"))
            scheduler.on_start(lambda: warm.submit(1))

            @warm.on_result
            def block(*_):
                task.submit(512 + 1024)
                scheduler.call_later(0.02, lambda: re.match(r"(a+)+$", "a" * 24 + "b"))

            @task.on_exception
            def tell(_, error):
                assert isinstance(error, MemoryLimitError)
                print(error.used_bytes / error.limit_bytes)

            scheduler.run(on_exception="continue")
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    with (
        subprocess.Popen(
            [sys.executable, path],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as driver,
        Peak(driver.pid) as peak,
    ):
        output, errors = driver.communicate(timeout=60)
    assert driver.returncode == 0, errors
    assert 1 < float(output) <= 1.2
    assert peak.largest <= 1.2 * 512 * MiB + own_size()


# -------------------------------------------------------------------------------------------------------- CPU time


@over_executors(greedy.burn, greedy.burn_in_c, greedy.burn_in_children)
def test_a_call_that_uses_too_much_cpu_time_is_ended(scheduler: Scheduler, function: Any) -> None:
    outcome = Outcome(scheduler, Limits(cputime="0.5 s"), function)
    assert isinstance(outcome.error, CpuTimeLimitError)
    assert outcome.error.limit_s == 0.5
    assert 0.5 < outcome.error.used_s < 0.5 + LATE_S
    assert outcome.innocent == INNOCENT


@IN_DRIVER_OR_WORKER
def test_a_call_that_waits_uses_no_cpu_time(scheduler: Scheduler) -> None:
    outcome = Outcome(scheduler, Limits(cputime="0.3 s"), greedy.sleep, 1.0)
    assert outcome.error is None


@IN_DRIVER_OR_WORKER
def test_the_cpu_time_of_former_calls_of_the_worker_does_not_count(local: Backend) -> None:
    scheduler = Scheduler.from_name(local.name, **dict.fromkeys(local.options, 1))
    task = scheduler.task(greedy.burn, plugins=Limits(cputime="0.5 s"))
    scheduler.on_start(lambda: [task.submit(0.25) for _ in range(5)])
    scheduler.run()
    assert task.on_result.count == 5


# --------------------------------------------------------------------------------------------------- address space


def test_a_limit_of_the_address_space_is_held(scheduler: Scheduler) -> None:
    outcome = Outcome(scheduler, Limits(address_space="8 GiB"), greedy.grow_at_once, 16384)
    assert isinstance(outcome.error, MemoryLimitError)
    assert outcome.error.limit_bytes == 8192 * MiB
    assert outcome.innocent == INNOCENT


# ------------------------------------------------------------------------------------------------- what is left over


PROGRAM = """
    import asyncio, os, sys
    from amlsched import Scheduler
    from amlsched.plugins import Limits
    from tests.faults import greedy

    if __name__ == "__main__":
        scheduler = Scheduler.from_name({name!r}, **{options!r})
        task = scheduler.task(greedy.daemonize, plugins=Limits({walltime!r}, "4 GiB", "60 s", grace="0.1 s"))
        scheduler.on_start(lambda: task.submit({pid_file!r}, 60))

        async def stop_once_it_runs():
            while not os.path.exists({pid_file!r}):
                await asyncio.sleep(0.02)
            scheduler.stop()

        if not {wait}:
            scheduler.on_start(stop_once_it_runs)
        try:
            scheduler.run(on_exception="continue", wait={wait})
        finally:
            print("over", flush=True)
            sys.stdin.read()
"""


@contextlib.contextmanager
def program(local: Backend, folder: Path, walltime: str, *, wait: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A program whose one call leaves a daemon, and that waits when its run is over.

    The run waits for the call, or is stopped once the call runs.
    """
    text = PROGRAM.format(
        name=local.name,
        options=dict(local.options),
        walltime=walltime,
        pid_file=str(folder / "pid"),
        wait=wait,
    )
    path = folder / "program.py"
    path.write_text(textwrap.dedent(text))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, path], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def is_over(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "over\n"


def left(marker: str, process: subprocess.Popen[str]) -> list[int]:
    return [pid for pid in marked(marker) if pid != process.pid and not serves_this_process(pid)]


def test_no_process_is_left_after_a_run(local: Backend, marker: str, tmp_path: Path) -> None:
    with program(local, tmp_path, "0.5 s") as process:
        assert is_over(process)
        assert (tmp_path / "pid").exists()
        until(lambda: not left(marker, process))
        process.communicate("")
        assert process.returncode == 0
        until(lambda: not marked(marker))


def test_no_process_is_left_when_the_driver_is_killed(local: Backend, marker: str, tmp_path: Path) -> None:
    with program(local, tmp_path, "60 s") as process:
        until((tmp_path / "pid").exists)
        process.kill()
        until(lambda: not marked(marker))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_process_is_left_when_the_run_is_interrupted(
    local: Backend, number: signal.Signals, marker: str, tmp_path: Path
) -> None:
    with program(local, tmp_path, "60 s") as process:
        until((tmp_path / "pid").exists)
        process.send_signal(number)
        assert is_over(process)
        until(lambda: not left(marker, process))


def test_no_process_is_left_after_a_run_that_does_not_wait(
    this_machines_pool: Backend, marker: str, tmp_path: Path
) -> None:
    with program(this_machines_pool, tmp_path, "60 s", wait=False) as process:
        assert is_over(process)
        assert (tmp_path / "pid").exists()
        until(lambda: not left(marker, process))


# ----------------------------------------------------------------------------------------------------- other places


@pytest.fixture
def given_pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        yield pool


def test_limits_hold_on_an_executor_that_is_given(given_pool: ProcessPoolExecutor) -> None:
    outcome = Outcome(Scheduler(given_pool), Limits(walltime="1 s"), greedy.sleep, 60)
    assert isinstance(outcome.error, WalltimeLimitError)
    assert outcome.innocent == INNOCENT
    assert given_pool.submit(greedy.double, 2).result(20) == 4


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_limits_hold_under_every_start_method(method: str) -> None:
    scheduler = Scheduler.with_processes(2, multiprocessing.get_context(method))
    outcome = Outcome(scheduler, Limits(memory="256 MiB"), greedy.grow, 1280)
    assert isinstance(outcome.error, MemoryLimitError)
    assert outcome.innocent == INNOCENT


def in_a_daemonic_process(connection: Any) -> None:
    outcome = Outcome(Scheduler.with_threads(2), Limits(walltime="1 s"), greedy.sleep, 60)
    connection.send((type(outcome.error), outcome.innocent))


def test_limits_hold_in_a_daemonic_process() -> None:
    """Which may not have children, as far as multiprocessing goes: dask's workers are such."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=in_a_daemonic_process, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    assert ours.poll(40)
    assert ours.recv() == (WalltimeLimitError, INNOCENT)
    process.join(20)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def dask_client() -> Iterator[Any]:
    """Of a cluster whose workers are processes of their own, with nannies."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs="ERROR"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("limits", "function", "args", "kind"),
    [
        ({"walltime": "1 s"}, greedy.sleep, (60,), WalltimeLimitError),
        ({"walltime": "1 s", "grace_s": GRACE_S}, greedy.sleep_deaf_to_sigterm, (60,), WalltimeLimitError),
        ({"cputime": "0.5 s"}, greedy.burn_in_children, (), CpuTimeLimitError),
        ({"memory": "256 MiB"}, greedy.grow, (1280,), MemoryLimitError),
        ({"memory": "256 MiB"}, greedy.grow_in_a_grandchild, (1280,), MemoryLimitError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_limits_hold_on_the_executor_of_a_dask_client(
    dask_client: Any, limits: dict[str, Any], function: Any, args: tuple[Any, ...], kind: type[BaseException]
) -> None:
    with dask_client.get_executor(pure=False) as executor:
        outcome = Outcome(Scheduler(executor), Limits(**limits), function, *args)
    assert isinstance(outcome.error, kind)
    assert outcome.error.call == function.__name__
    assert outcome.innocent == INNOCENT


def test_memory_grows_on_dask(dask_client: Any) -> None:
    with dask_client.get_executor(pure=False) as executor:
        seen = Growing(Scheduler(executor), Retry(3, memory_growth=2.0), 50, 300)
    assert seen.results == [50, 300]
    assert seen.limits == {50: [], 300: [100, 200]}


def test_a_daemon_that_a_call_on_dask_has_left_is_ended_with_it(dask_client: Any, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    limits = Limits(walltime="1 s", grace_s=GRACE_S)
    with dask_client.get_executor(pure=False) as executor:
        outcome = Outcome(Scheduler(executor), limits, greedy.daemonize, str(pid_file), 60)
    assert isinstance(outcome.error, WalltimeLimitError)
    assert not Path(f"/proc/{pid_file.read_text()}").exists()


def test_functions_of_the_main_module_and_lambdas_are_limited_on_dask(dask_client: Any) -> None:
    results: list[int] = []
    with dask_client.get_executor(pure=False) as executor:
        scheduler = Scheduler(executor)
        task = scheduler.task(lambda number: 3 * number, plugins=Limits(walltime="60 s"))
        task.on_result(lambda _, result: results.append(result))
        scheduler.on_start(lambda: [task.submit(number) for number in range(4)])
        scheduler.run()
    assert sorted(results) == [0, 3, 6, 9]


def test_the_children_on_dask_are_used_again_and_end_with_their_workers(dask_client: Any) -> None:
    pids: set[int] = set()
    with dask_client.get_executor(pure=False) as executor:
        scheduler = Scheduler(executor)
        task = scheduler.task(os.getpid, plugins=Limits(walltime="60 s"))
        task.on_result(lambda _, result: pids.add(result))
        scheduler.on_start(lambda: [task.submit() for _ in range(20)])
        scheduler.run()
    workers = [*dask_client.run(os.getpid).values()]
    assert len(pids) <= len(workers)
    assert pids.isdisjoint(workers)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_limits_hold_for_each_call_of_a_batch() -> None:
    scheduler = Scheduler.with_processes(2)
    task = scheduler.task(greedy.sleep, plugins=Limits(walltime="1 s"), batch_size=4)
    scheduler.on_start(lambda: [task.submit(seconds) for seconds in (0, 0, 60, 0)])
    scheduler.run(on_exception="continue")
    assert (task.on_result.count, task.on_exception.count) == (3, 1)


def test_many_calls_that_pass_their_limit_end_each_with_its_own_error(scheduler: Scheduler) -> None:
    task = scheduler.task(greedy.sleep, plugins=Limits(walltime="0.3 s", grace_s=0.1))
    errors: list[BaseException] = []
    task.on_exception(lambda _, error: errors.append(error))
    scheduler.on_start(lambda: [task.submit(seconds) for seconds in (60, 0, 0, 60, 0, 60, 60, 0)])
    scheduler.run(on_exception="continue")
    assert (task.on_result.count, task.on_exception.count) == (4, 4)
    assert all(isinstance(error, LimitError) for error in errors)


def test_calls_that_end_as_their_time_runs_out_end_once(scheduler: Scheduler) -> None:
    task = scheduler.task(greedy.sleep, plugins=Limits(walltime="0.1 s", grace_s=0.1))
    journal = Journal(scheduler, task)
    innocent = scheduler.task(greedy.double)
    scheduler.on_start(lambda: [(task.submit(0.08 + number * 0.004), innocent.submit(number)) for number in range(12)])
    scheduler.run(on_exception="continue")
    journal.assert_every_call_ended_once()
    assert task.on_result.count + task.on_exception.count == 12
    assert innocent.on_result.count == 12
