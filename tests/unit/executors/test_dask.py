"""`with_dask`, on a cluster of processes of this machine."""

from __future__ import annotations

import importlib
import operator
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amlsched import NotPicklableError, Scheduler, WorkerLostError, WorkerStartError
from amlsched.executors._dask import clusters
from amlsched.executors._dask.executor import DaskExecutor
from amlsched.executors.dask import dask
from tests import calls
from tests.backends import needs
from tests.processes import alive, until

pytestmark = needs("distributed")


@pytest.fixture(scope="module")
def executor() -> Iterator[DaskExecutor]:
    made = dask(n_workers=2)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def client(executor: DaskExecutor) -> Any:
    return executor.client


def tasks_of(client: Any) -> list[str]:
    return [str(key) for key in client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))]


def test_equal_calls_are_separate_calls(executor: DaskExecutor) -> None:
    assert len({future.result(60) for future in [executor.submit(os.urandom, 8) for _ in range(5)]}) == 5


def test_nothing_stays_on_the_cluster_for_a_call_whose_result_is_here(executor: DaskExecutor, client: Any) -> None:
    futures = [executor.submit(calls.double, number) for number in range(20)]
    assert [future.result(60) for future in futures] == [2 * number for number in range(20)]
    until(lambda: not tasks_of(client))  # though the futures are still held


def test_what_cannot_be_pickled_is_named(executor: DaskExecutor) -> None:
    with pytest.raises(NotPicklableError, match="argument 'value'"):
        executor.submit(calls.give_back, threading.Lock())
    with pytest.raises(NotPicklableError, match="the result"):
        executor.submit(calls.unsendable).result(60)
    with pytest.raises(calls.AwkwardError, match="left and right"):
        executor.submit(calls.fail_awkwardly).result(60)


def test_an_exception_is_what_it_was(executor: DaskExecutor) -> None:
    error = executor.submit(calls.fail_with, SystemExit(7)).exception(60)
    assert isinstance(error, SystemExit)
    assert error.code == 7  # dask has tblib pickle exceptions, which loses it


def test_a_call_that_kills_each_worker_that_it_meets_fails_alone(executor: DaskExecutor) -> None:
    killer = executor.submit(calls.end_by_signal, signal.SIGKILL)
    others = [executor.submit(calls.double, number) for number in range(20)]
    assert [future.result(60) for future in others] == [2 * number for number in range(20)]
    with pytest.raises(WorkerLostError, match="each of the 4 workers"):
        killer.result(60)
    assert executor.submit(calls.double, 1).result(60) == 2


def test_a_large_argument_gives_no_warning(executor: DaskExecutor) -> None:
    data = bytes(12_000_000)
    assert executor.submit(len, data).result(60) == len(data)


def draw_beside_dask(seed: int) -> float:
    """What is drawn after seeding, when dask's threads draw meanwhile."""
    from distributed import utils_comm
    from distributed.comm import core
    from tornado import ioloop

    random.seed(seed)
    for module in (utils_comm, core, ioloop):
        module.random.random()
    compression: Any = importlib.import_module("distributed.protocol.compression")
    compression.randint(0, 9)
    return random.random()


def test_threads_of_dask_draw_no_numbers_from_the_global_generator(executor: DaskExecutor) -> None:
    assert executor.submit(draw_beside_dask, 3).result() == random.Random(3).random()


def test_a_client_that_is_given_is_left_open(client: Any) -> None:
    scheduler = Scheduler.with_dask(client)
    task = scheduler.task(calls.double)
    results: list[int] = []
    scheduler.on_start(lambda: [task.submit(number) for number in range(10)])
    task.on_result(lambda _, result: results.append(result))
    scheduler.run()
    assert sorted(results) == [2 * number for number in range(10)]
    assert client.status == "running"
    assert client.submit(operator.add, 1, 2).result(60) == 3


def test_a_scheduler_connects_to_an_address(client: Any) -> None:
    with dask(client.scheduler.address) as executor:
        assert executor.submit(calls.double, 2).result(60) == 4
        assert executor.max_workers in (1, 2)  # a worker may be on its way back
    assert client.status == "running"


def test_a_call_of_a_given_client_that_waits_is_cancelled_without_its_twin(client: Any, tmp_path: Path) -> None:
    with dask(client) as executor:
        gate = [executor.submit(calls.until_released, tmp_path / f"s{n}", tmp_path / "open") for n in range(2)]
        until(lambda: all(future.running() for future in gate))
        first, second = executor.submit(os.urandom, 4), executor.submit(os.urandom, 4)
        assert first.cancel()
        (tmp_path / "open").touch()
        assert len(second.result(60)) == 4
        assert first.cancelled()


def test_a_cluster_that_does_not_close_in_time_loses_its_workers_and_raises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = dask(n_workers=1)
    worker = made.submit(os.getpid).result(60)
    cluster = made.client.cluster
    close = cluster.close

    def late(timeout: float) -> None:
        raise TimeoutError(f"timed out after {timeout} s")

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "close", late)
        made.shutdown()
    until(lambda: not alive(worker))
    close(timeout=60)


def test_with_security_only_who_has_the_certificates_is_let_in() -> None:
    import distributed

    pytest.importorskip("cryptography")
    executor = dask(n_workers=1, security=True)
    try:
        assert executor.submit(calls.double, 4).result(90) == 8
        address = executor.client.cluster.scheduler_address
        assert address.startswith("tls://127.0.0.1:")
        stranger = distributed.Security.temporary()
        with pytest.raises(OSError, match="TLS|connect"):
            distributed.Client(address, timeout=3, set_as_default=False, security=stranger)
    finally:
        executor.shutdown()


def test_workers_of_its_own_end_with_it() -> None:
    executor = dask(n_workers=1)
    pid = executor.submit(os.getpid).result(60)
    busy = executor.submit(time.sleep, 100)
    executor.kill_workers()
    until(lambda: not alive(pid))
    assert busy.cancelled()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [({"n_workers": 0}, "at least 1"), ({"client": "tcp://127.0.0.1:1", "n_workers": 2}, "its own number")],
)
def test_wrong_arguments_are_refused(arguments: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        dask(**arguments)


def test_calls_do_not_wait_for_workers_that_never_come_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clusters, "_PATIENCE_S", 1.0)
    with dask(n_workers=1) as executor:
        future = executor.submit(calls.until_released, tmp_path / "started", tmp_path / "never")
        until((tmp_path / "started").exists, 60)

        async def fail(_: Any) -> None:
            raise OSError("no worker can be started")

        monkeypatch.setattr("distributed.Nanny.instantiate", fail)
        for nanny in executor.client.cluster.workers.values():
            os.kill(nanny.pid, signal.SIGKILL)
        with pytest.raises(WorkerStartError, match=r"none came back within 1 s.*distributed\.nanny"):
            future.result(60)
