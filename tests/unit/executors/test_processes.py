"""A pool of processes used well: the contract of an executor, what travels, who gets which call, and who serves."""

from __future__ import annotations

import asyncio
import errno
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import tracemalloc
from concurrent.futures import CancelledError, Future, as_completed, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest

from amlsched import Scheduler
from amlsched.errors import NotPicklableError, WorkerExitedError, WorkerStartError
from amlsched.executors import processes
from amlsched.executors._processes.fork_server import ForkServerContext
from amlsched.executors.processes import ProcessPool
from tests.calls import double, give_back, until_released
from tests.processes import METHODS, ROOT, alive, context_of, run_python, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import BaseContext

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ProcessPool is for Linux")

LIMIT_S = 45.0
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def pool() -> Iterator[ProcessPool]:
    with ProcessPool(2) as pool:
        yield pool


# ------------------------------------------------------------------------------------------------- what travels


class Needy(Exception):
    """Its constructor wants something else than its arguments, as many do."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


class Clinging(Exception):
    """Holds something that cannot be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message, threading.Lock())
        self.lock = threading.Lock()
        self.kept = 3


class Stubborn(Exception):
    """Refuses to be pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class Singular(Exception):
    """Cannot be built a second time."""

    built = 0

    def __new__(cls, *args: Any) -> Self:
        cls.built += 1
        if cls.built > 1:
            raise RuntimeError("there can be only one")
        return super().__new__(cls, *args)


class NotHere:
    """Can be pickled, but not loaded by the driver."""

    def __init__(self) -> None:
        self.maker = os.getpid()

    def __setstate__(self, state: dict[str, int]) -> None:
        if state["maker"] != os.getpid():
            raise LookupError("not here")
        self.__dict__.update(state)


def raise_it(kind: type[Exception], *args: Any) -> None:
    raise kind(*args)


def make(kind: type) -> object:
    return kind()


def raise_local() -> None:
    class Local(ValueError):
        pass

    raise Local("from inside")


@pytest.mark.parametrize(
    ("kind", "args", "expected", "says"),
    [
        (ValueError, ("plain",), ValueError, "plain"),
        (KeyboardInterrupt, (), KeyboardInterrupt, ""),
        (Needy, (4, "too little"), Needy, "too little (4)"),
        (Clinging, ("holds on",), Clinging, "holds on"),
        (Stubborn, ("bitter",), Stubborn, "bitter"),
        (Singular, ("alone",), NotPicklableError, "Singular('alone')"),
    ],
)
def test_an_exception_arrives_with_the_workers_traceback(
    pool: ProcessPool, kind: type[Exception], args: tuple[Any, ...], expected: type[BaseException], says: str
) -> None:
    error = pool.submit(raise_it, kind, *args).exception(LIMIT_S)
    assert type(error) is expected
    assert says in str(error)
    shown = "".join(traceback.format_exception(error))
    assert "in raise_it" in shown
    assert "raise kind(*args)" in shown
    assert "_serve" not in shown
    if isinstance(error, Needy):
        assert error.code == 4
    if isinstance(error, Clinging):
        assert error.kept == 3


def test_an_exception_of_a_local_class_arrives(pool: ProcessPool) -> None:
    error = pool.submit(raise_local).exception(LIMIT_S)
    assert isinstance(error, ValueError)
    assert type(error).__name__ == "Local"


def test_an_exception_of_many_megabytes_arrives(pool: ProcessPool) -> None:
    error = pool.submit(raise_it, ValueError, "x" * 3_000_000).exception(LIMIT_S)
    assert isinstance(error, ValueError)
    assert len(str(error)) == 3_000_000


def named(first: object, /, second: object, *rest: object, key: object = None, **others: object) -> None:
    pass


@pytest.mark.parametrize(
    ("args", "kwargs", "what"),
    [
        ((None, threading.Lock()), {}, "argument 'second'"),
        ((threading.Lock(), 1), {}, "argument 'first'"),
        ((1, 2, 3, threading.Lock()), {}, "argument 3"),
        ((1, 2), {"key": {"deep": threading.Lock()}}, "argument 'key'"),
        ((1, 2), {"other": threading.Lock()}, "argument 'other'"),
    ],
)
def test_an_argument_that_cannot_be_sent_is_named_at_once(
    pool: ProcessPool, args: tuple[Any, ...], kwargs: dict[str, Any], what: str
) -> None:
    with pytest.raises(NotPicklableError) as caught:
        pool.submit(named, *args, **kwargs)
    assert (caught.value.call, caught.value.what) == ("named", what)
    assert "lock" in caught.value.reason


def test_a_function_that_cannot_be_sent_is_named_at_once(pool: ProcessPool) -> None:
    lock = threading.Lock()
    with pytest.raises(NotPicklableError, match="the function"):
        pool.submit(lambda: lock)


@pytest.mark.parametrize("kind", [threading.Lock, NotHere])
def test_a_result_that_cannot_be_sent_or_loaded_is_told(pool: ProcessPool, kind: Any) -> None:
    error = pool.submit(make, kind).exception(LIMIT_S)
    assert isinstance(error, NotPicklableError)
    assert error.what == "the result"
    assert error.call == "make"


@pytest.mark.parametrize("size", [0, 1, 4000, 4050, 4096, 4097, 60_000, 65_520, 65_536, 65_600, 70_000, 3_000_000])
def test_bytes_of_any_size_travel_unchanged(pool: ProcessPool, size: int) -> None:
    value = os.urandom(size)
    futures = [pool.submit(give_back, value) for _ in range(5)]
    futures += [pool.submit(os.urandom, size), pool.submit(len, value)]
    assert all(future.result(LIMIT_S) == value for future in futures[:5])
    assert len(futures[5].result(LIMIT_S)) == size
    assert futures[6].result(LIMIT_S) == size


def test_arrays_travel_unchanged_and_can_be_written_to(pool: ProcessPool) -> None:
    values: list[Any] = [
        np.arange(10),
        np.arange(200_000, dtype=np.float64).reshape(400, 500),
        np.asfortranarray(np.arange(200_000.0).reshape(400, 500)),
        np.arange(200_000)[::3],
        np.array([], dtype=np.int32),
        [np.full(30_000, index) for index in range(20)],
        [np.full(10, index) for index in range(5000)],
        {"x": np.ones((100, 100, 10)), "y": "text" * 50_000},
    ]
    futures = [pool.submit(give_back, value) for value in values for _ in range(2)]
    for index, future in enumerate(futures):
        result = future.result(LIMIT_S)
        np.testing.assert_equal(result, values[index // 2])
        if isinstance(result, np.ndarray):
            result[...] = 0


def test_what_becomes_of_an_argument_later_does_not_change_the_call(pool: ProcessPool, tmp_path: Path) -> None:
    held = [pool.submit(until_released, tmp_path / f"{n}", tmp_path / "release") for n in range(2)]
    array, small = np.ones(100_000), [1]
    futures = [pool.submit(np.sum, array), pool.submit(sum, small)]
    array[:] = 2
    small.append(1)
    (tmp_path / "release").touch()
    assert [future.result(LIMIT_S) for future in futures] == [100_000, 1]
    assert all(future.result(LIMIT_S) == "released" for future in held)


MAIN = """
import multiprocessing, sys, threading
from amlsched.executors.processes import ProcessPool

class Point:
    def __init__(self, x): self.x = x

def shift(point, by): return Point(point.x + by)

def show(pool, what, future):
    print(what, future.result(30), flush=True)

def begin(point): multiprocessing.began = point.x

if __name__ == "__main__":
    def late(x): return x * 10
    state = []
    context = None if sys.argv[1] == "default" else multiprocessing.get_context(sys.argv[1])
    with ProcessPool(1, context, initializer=begin, initargs=(Point(5),)) as pool:
        show(pool, "lambda", pool.submit(lambda x: x + 1, 1))
        result = pool.submit(shift, Point(1), 2).result(30)
        print("class", type(result) is Point, result.x)
        show(pool, "late", pool.submit(late, 4))
        def later(x): return late(x) + 1
        show(pool, "later", pool.submit(later, 4))
        show(pool, "began", pool.submit(lambda: multiprocessing.began))
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["a file", "the command line"])
def test_functions_of_the_main_module_and_lambdas_run(method: str, how: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(MAIN)
    done = run_python(*((str(script),) if how == "a file" else ("-c", MAIN)), method, folder=tmp_path)
    assert done.stdout.split("\n") == ["lambda 2", "class True 3", "late 40", "later 41", "began 5", ""], done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_what_only_travels_while_a_process_starts_can_be_given_to_the_initializer(method: str) -> None:
    context = context_of(method)
    queue = (context or multiprocessing.get_context("forkserver")).Queue()
    with ProcessPool(1, context, initializer=keep, initargs=(queue,)) as pool:
        pool.submit(put, "through the queue").result(LIMIT_S)
        assert queue.get(timeout=LIMIT_S) == "through the queue"
    queue.close()
    queue.join_thread()


def test_a_queue_that_cannot_travel_is_told_from_where_to_get_it() -> None:
    queue = FORK.Queue()
    with ProcessPool(1, initializer=keep, initargs=(queue,)) as pool:
        error = pool.submit(put, "never").exception(LIMIT_S)
    assert isinstance(error, WorkerStartError)
    assert 'multiprocessing.get_context("forkserver")' in str(error)
    queue.close()


_kept: list[Any] = []


def keep(value: Any) -> None:
    _kept.append(value)


def put(value: str) -> None:
    _kept[0].put(value)


# ------------------------------------------------------------------------------------------------- the contract


def test_map_keeps_the_order_with_and_without_chunks(pool: ProcessPool) -> None:
    for chunksize in (1, 3, 100):
        assert list(pool.map(pow, range(10), range(10, 20), chunksize=chunksize)) == [
            base**exponent for base, exponent in zip(range(10), range(10, 20), strict=True)
        ]
    with pytest.raises(ValueError, match="chunksize"):
        pool.map(double, [1], chunksize=0)


@pytest.mark.parametrize("options", [{"max_workers": 0}, {"max_workers": -2}, {"max_tasks_per_child": 0}])
def test_numbers_below_one_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ProcessPool(**options)


def test_an_initializer_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="initializer needs a function, not 3"):
        ProcessPool(1, initializer=3)  # type: ignore[arg-type]


def test_a_worker_is_replaced_after_its_calls() -> None:
    with ProcessPool(1, FORK, max_tasks_per_child=3) as pool:
        pids = [future.result(LIMIT_S) for future in [pool.submit(os.getpid) for _ in range(12)]]
    assert sorted(pids.count(pid) for pid in set(pids)) == [3, 3, 3, 3]


def test_workers_start_when_needed_and_are_used_again(pool: ProcessPool) -> None:
    assert pool.worker_pids() == []
    assert len({pool.submit(os.getpid).result(LIMIT_S) for _ in range(20)}) == 1
    assert len(pool.worker_pids()) == 1


def test_a_pool_that_was_never_used_shuts_down() -> None:
    pool = ProcessPool(2)
    pool.shutdown()
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(double, 1)


def test_shutdown_without_waiting_lets_the_calls_end(tmp_path: Path) -> None:
    pool = ProcessPool(1, FORK)
    futures = [pool.submit(until_released, tmp_path / "started", tmp_path / "release"), pool.submit(double, 2)]
    pool.shutdown(wait=False)
    (tmp_path / "release").touch()
    assert [future.result(LIMIT_S) for future in futures] == ["released", 4]
    until(lambda: pool.worker_pids() == [])


def test_shutdown_cancels_what_no_worker_has_begun(tmp_path: Path) -> None:
    pool = ProcessPool(1, FORK)
    assert [pool.submit(double, n).result(LIMIT_S) for n in range(50)][-1] == 98  # short: calls are given ahead now
    running = pool.submit(until_released, tmp_path / "started", tmp_path / "release")
    until((tmp_path / "started").exists)
    waiting = [pool.submit(double, n) for n in range(50)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    (tmp_path / "release").touch()
    pool.shutdown()
    assert running.result(0) == "released"


def test_a_call_that_is_not_begun_can_be_cancelled_and_then_never_runs(tmp_path: Path) -> None:
    with ProcessPool(1, FORK) as pool:
        for number in range(200):
            pool.submit(double, number).result(LIMIT_S)
        running = pool.submit(until_released, tmp_path / "started", tmp_path / "release")
        waiting = [pool.submit((tmp_path / f"ran {n}").touch) for n in range(10)]
        until((tmp_path / "started").exists)
        assert not running.cancel()
        assert [future.running() for future in waiting] == [False] * 10
        assert all(future.cancel() for future in waiting[::2])
        assert all(future.cancel() for future in waiting[::2])  # twice is once
        assert wait(waiting[::2], 0).not_done == set()
        (tmp_path / "release").touch()
        for future in waiting[1::2]:
            future.result(LIMIT_S)
        assert not running.cancel()
    assert sorted(path.name for path in tmp_path.glob("ran *")) == [f"ran {n}" for n in range(1, 10, 2)]


def test_a_future_is_as_any_other(pool: ProcessPool, tmp_path: Path) -> None:
    future = pool.submit(until_released, tmp_path / "started", tmp_path / "release", 5)
    told: list[Future[Any]] = []
    for _ in range(2):
        future.add_done_callback(told.append)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0.01)
    waiters = [threading.Thread(target=future.result, args=(LIMIT_S,)) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    until(future.running)
    assert wait([future], 0.01).not_done == {future}
    (tmp_path / "release").touch()
    assert next(as_completed([future], LIMIT_S)) is future
    for waiter in waiters:
        waiter.join(LIMIT_S)
        assert not waiter.is_alive()
    future.add_done_callback(told.append)
    until(lambda: told == [future] * 3)
    assert future.done()
    assert not future.running()
    assert "finished" in repr(future)
    assert future.exception(0) is None


def test_calls_from_many_threads_all_end(pool: ProcessPool) -> None:
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.extend(pool.submit(double, n).result(LIMIT_S) for n in range(100)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert sorted(results) == sorted(2 * n for n in range(100) for _ in range(8))


def test_a_callback_may_submit_and_shut_down() -> None:
    pool = ProcessPool(1, FORK)
    second: Future[int] = Future()

    def go_on(future: Future[int]) -> None:
        pool.submit(double, future.result()).add_done_callback(lambda last: second.set_result(last.result()))
        pool.shutdown()

    pool.submit(double, 1).add_done_callback(go_on)
    assert second.result(LIMIT_S) == 4


def test_a_pool_that_nobody_has_any_more_lets_its_workers_leave() -> None:
    pool = ProcessPool(2, FORK)
    futures = [pool.submit(double, n) for n in range(100)]
    pids = until(pool.worker_pids)
    del pool
    gc.collect()
    assert [future.result(LIMIT_S) for future in futures] == [2 * n for n in range(100)]
    until(lambda: not any(map(alive, pids)))


def test_a_process_forked_from_the_driver_cannot_use_the_pool(pool: ProcessPool) -> None:
    assert pool.submit(double, 1).result(LIMIT_S) == 2
    child = os.fork()
    if not child:
        try:
            pool.submit(double, 2)
        except RuntimeError:
            os._exit(3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert pool.submit(double, 2).result(LIMIT_S) == 4


def use_a_pool_of_its_own(end: bool) -> tuple[int, list[int]]:
    pool = ProcessPool(2)
    result = pool.submit(double, 2).result(LIMIT_S)
    pids = pool.worker_pids()
    if end:
        pool.shutdown()
    else:
        _kept.append(pool)
    return result, pids


@pytest.mark.parametrize("method", METHODS)
def test_a_call_may_have_a_pool_of_its_own(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amlsched.executors._processes.supervisor.QUIT_S", 2 * LIMIT_S)
    with ProcessPool(1, context_of(method)) as pool:
        for end in (True, False):
            result, pids = pool.submit(use_a_pool_of_its_own, end).result(LIMIT_S)
            assert result == 4
            assert any(map(alive, pids)) is not end
        begun = time.monotonic()
    assert time.monotonic() - begun < LIMIT_S  # it leaves by itself, and takes its own pool with it
    assert not any(map(alive, pids))


def test_signals_that_this_process_blocks_do_not_matter() -> None:
    blocked = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        with ProcessPool(1, FORK) as pool:
            assert isinstance(pool.submit(os._exit, 3).exception(LIMIT_S), WorkerExitedError)
            assert pool.submit(double, 2).result(LIMIT_S) == 4
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


def test_a_pool_leaves_no_descriptor_open() -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    with ProcessPool(2, FORK) as pool:
        pool.submit(double, 1).result(LIMIT_S)
    before = opened()
    for _ in range(3):
        with ProcessPool(2, FORK) as pool:
            futures = [pool.submit(os._exit, 1), *(pool.submit(np.ones, 100_000) for _ in range(5))]
            wait(futures, LIMIT_S)
    until(lambda: opened() <= before)


# ------------------------------------------------------------------------------------------------- who gets which call


def test_no_call_waits_behind_a_long_one_while_a_worker_is_idle(pool: ProcessPool, tmp_path: Path) -> None:
    for round_number in range(20):
        wait([pool.submit(double, n) for n in range(100)])  # they prove short: now they are given ahead
        release = tmp_path / f"release {round_number}"
        futures: list[Future[Any]] = [pool.submit(double, n) for n in range(round_number % 5)]
        long = pool.submit(until_released, tmp_path / f"started {round_number}", release)
        futures += [pool.submit(double, n) for n in range(60)]
        assert wait(futures, LIMIT_S).not_done == set()
        assert not long.done()
        release.touch()
        assert long.result(LIMIT_S) == "released"


def test_the_order_of_submission_is_kept_where_calls_are_long(tmp_path: Path) -> None:
    with ProcessPool(1, FORK) as pool:
        pool.submit(time.sleep, 0.02).result(LIMIT_S)
        futures = [pool.submit(time.monotonic_ns) for _ in range(50)]
        stamps = [future.result(LIMIT_S) for future in futures]
    assert stamps == sorted(stamps)


def test_a_call_that_waits_costs_little_more_than_its_pickle(pool: ProcessPool, tmp_path: Path) -> None:
    held = [pool.submit(until_released, tmp_path / f"{n}", tmp_path / "release") for n in range(2)]
    until(lambda: all(future.running() for future in held))
    number = 5000
    tracemalloc.start()
    try:
        plain = [(Future[int](), pickle.dumps((double, (n,), {}), 5)) for n in range(number)]
        of_plain = tracemalloc.get_traced_memory()[0]
        futures = [pool.submit(double, n) for n in range(number)]
        of_calls = tracemalloc.get_traced_memory()[0] - of_plain
    finally:
        tracemalloc.stop()
    (tmp_path / "release").touch()
    wait(futures, LIMIT_S)
    assert len(plain) == number
    assert of_calls < 1.1 * of_plain


# ------------------------------------------------------------------------------------------------- who serves


def thread_that_completes(pool: ProcessPool, folder: Path) -> Future[int]:
    """In which thread a future is completed; the call ends only after its callback is there."""
    release, told = folder / f"release {time.monotonic_ns()}", Future[int]()
    future = pool.submit(until_released, release.with_suffix(".started"), release)
    future.add_done_callback(lambda _: told.set_result(threading.get_ident()))
    release.touch()
    return told


def test_a_loop_serves_the_pool_while_attached_and_a_thread_before_and_after(pool: ProcessPool, tmp_path: Path) -> None:
    async def within_loop() -> set[int]:
        pool.attach(asyncio.get_running_loop())
        try:
            told = [thread_that_completes(pool, tmp_path) for _ in range(5)]
            told += [await asyncio.to_thread(thread_that_completes, pool, tmp_path) for _ in range(5)]
            return {await asyncio.wait_for(asyncio.wrap_future(ident), LIMIT_S) for ident in told}
        finally:
            pool.detach()

    for _ in range(3):
        assert asyncio.run(within_loop()) == {threading.get_ident()}
        assert thread_that_completes(pool, tmp_path).result(LIMIT_S) != threading.get_ident()
    assert "amlsched-processes" in {thread.name for thread in threading.enumerate()}


def run_a_loop() -> int:
    return asyncio.run(asyncio.sleep(0, 7))


def test_a_call_may_run_a_loop_of_its_own_whoever_serves(pool: ProcessPool) -> None:
    async def main() -> int:
        pool.attach(asyncio.get_running_loop())
        return await asyncio.wait_for(asyncio.wrap_future(pool.submit(run_a_loop)), LIMIT_S)

    assert asyncio.run(main()) == 7
    assert pool.submit(run_a_loop).result(LIMIT_S) == 7


def wait_for(future: Future[Any]) -> None:
    assert wait([future], LIMIT_S).done


def go_through(future: Future[Any]) -> None:
    assert list(as_completed([future], LIMIT_S)) == [future]


@pytest.mark.parametrize("expect", [lambda future: future.result(LIMIT_S), wait_for, go_through])
def test_calls_outlive_the_loop_that_served_them(
    pool: ProcessPool, tmp_path: Path, expect: Callable[[Future[Any]], None]
) -> None:
    async def submit() -> Future[Any]:
        pool.attach(asyncio.get_running_loop())
        return pool.submit(until_released, tmp_path / "started", tmp_path / "release")

    future = asyncio.run(submit())  # never detached; the loop is closed
    until((tmp_path / "started").exists)
    (tmp_path / "release").touch()
    expect(future)
    assert future.result(LIMIT_S) == "released"
    assert pool.submit(double, 2).result(LIMIT_S) == 4


@pytest.mark.parametrize("end", [ProcessPool.shutdown, ProcessPool.kill_workers])
def test_a_pool_can_be_ended_in_the_thread_of_the_loop_that_serves_it(end: Callable[[ProcessPool], None]) -> None:
    async def main() -> tuple[list[Future[int]], list[int]]:
        pool = ProcessPool(2, FORK)
        pool.attach(asyncio.get_running_loop())
        futures = [pool.submit(double, n) for n in range(20)]
        await asyncio.sleep(0)
        pids = pool.worker_pids()
        end(pool)
        pool.detach()
        return futures, pids

    futures, pids = asyncio.run(main())
    assert all(future.done() for future in futures)
    assert not any(map(alive, pids))


def test_what_runs_can_be_asked_for(pool: ProcessPool, tmp_path: Path) -> None:
    futures = [pool.submit(until_released, tmp_path / f"{n}", tmp_path / "release") for n in range(2)]
    until(lambda: all(future.running() for future in futures))
    running = pool.running()
    assert set(running) == set(futures)
    assert sorted(running.values()) == sorted(pool.worker_pids())
    (tmp_path / "release").touch()
    wait(futures, LIMIT_S)
    until(lambda: pool.running() == {})


def test_a_future_of_another_pool_is_not_killed(pool: ProcessPool) -> None:
    assert not pool.kill_call(Future())
    with pytest.raises(CancelledError), ProcessPool(1, FORK) as other:
        future = other.submit(time.sleep, 60)
        assert not pool.kill_call(future)
        assert other.kill_call(future)
        future.result(LIMIT_S)


def test_a_partial_and_a_callable_object_are_named_by_what_they_call(pool: ProcessPool) -> None:
    for fn in (partial(named, threading.Lock(), 1), partial(partial(named, 1), threading.Lock())):
        with pytest.raises(NotPicklableError) as caught:
            pool.submit(fn)
        assert caught.value.call == "named"


def test_importing_the_package_imports_none_of_it() -> None:
    code = textwrap.dedent(
        """
        import sys, amlsched
        print([name for name in ("ctypes", "cloudpickle", "multiprocessing.reduction") if name in sys.modules])
        """
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_this_process_is_never_forked_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    forked: list[int] = []
    monkeypatch.setattr(os, "fork", lambda: forked.append(1))
    with ProcessPool(1) as pool:
        assert pool.submit(double, 1).result(LIMIT_S) == 2
    assert not forked


@pytest.mark.parametrize(("said", "method"), [(None, "forkserver"), ("fork", "forkserver"), ("spawn", "spawn")])
def test_a_start_method_that_was_set_for_multiprocessing_counts_unless_it_forks(
    said: str | None, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: said)
    assert processes._context(None).get_start_method() == method


@pytest.mark.parametrize("given", [None, multiprocessing.get_context("forkserver")])
def test_workers_are_forked_from_our_server_not_from_that_of_multiprocessing(given: BaseContext | None) -> None:
    assert isinstance(processes._context(given), ForkServerContext)


def test_another_context_is_used_as_it_is() -> None:
    class Own(type(multiprocessing.get_context("forkserver"))):  # type: ignore[misc]
        pass

    for given in (FORK, multiprocessing.get_context("spawn"), Own()):
        assert processes._context(given) is given


def cannot_start(_: object) -> None:
    raise RuntimeError("can't start new thread")


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_start)
        yield


@pytest.mark.parametrize("method", METHODS)
def test_calls_fail_with_the_cause_where_no_thread_can_start(method: str, no_thread: None) -> None:
    pool = ProcessPool(2, context_of(method))
    errors = [pool.submit(double, n).exception(LIMIT_S) for n in range(3)]
    pool.shutdown()  # returns
    assert {type(error) for error in errors} == {WorkerStartError}
    assert "its worker could not start: RuntimeError: can't start new thread (" in str(errors[0])
    assert "ulimit -u" in str(errors[0])


def test_a_run_ends_where_no_thread_can_take_over_its_workers(no_thread: None) -> None:
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(double)
    scheduler.on_start(lambda: task.submit(2))
    found: list[int] = []
    task.on_result(lambda _, result: found.append(result))
    scheduler.run()
    assert found == [4]


def test_a_pool_works_again_once_threads_can_start() -> None:
    with ProcessPool(1) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            assert isinstance(pool.submit(double, 1).exception(LIMIT_S), WorkerStartError)
        assert pool.submit(double, 2).result(LIMIT_S) == 4


def test_a_supervisor_that_cannot_fork_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = os.fork

    def second_fails() -> int:
        if os.getpid() != driver:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    driver = os.getpid()
    monkeypatch.setattr(os, "fork", second_fails)
    with ProcessPool(1, FORK) as pool:
        error = pool.submit(double, 1).exception(LIMIT_S)
    assert isinstance(error, WorkerStartError)
    assert "could not start: BlockingIOError" in str(error)
    assert "ulimit -u" in str(error)
