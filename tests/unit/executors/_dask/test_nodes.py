"""Calls that request resources on dask workers of different size, seen from outside by their processes."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import ResourcesError, Scheduler
from amlsched.resources import Resources, current_allocation
from tests.backends import needs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs("distributed")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two workers: `small` with one thread and 700 MiB, `large` with three threads and 2 GiB."""
    import distributed

    options: dict[str, dict[str, Any]] = {
        "small": {"nthreads": 1, "memory_limit": "700 MiB", "resources": {"licence": 1}},
        "large": {"nthreads": 3, "memory_limit": "2 GiB"},
    }
    local = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    workers = {
        name: {"cls": distributed.Nanny, "options": {"name": name, "host": "127.0.0.1", **each}}
        for name, each in options.items()
    }
    scheduler = {"cls": distributed.Scheduler, "options": local}
    with (
        distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=True) as cluster,
        distributed.Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


def marked(folder: str, number: int) -> tuple[Any, str | None]:
    """Leaves a mark while it runs, with the process that runs it, and holds on until others had time to start."""
    mark = pathlib.Path(folder, f"{number}-{os.getpid()}")
    mark.touch()
    time.sleep(0.3)
    mark.unlink()
    return current_allocation(), os.environ.get("OMP_NUM_THREADS")


def die_once(path: str) -> str:
    """Kills its worker in the first attempt."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        allocation = current_allocation()
        assert allocation is not None
        return allocation.node
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def test_each_call_runs_on_a_worker_where_it_fits_and_no_worker_holds_more_than_it_has(
    client: Any, tmp_path: Path
) -> None:
    pids = dict(client.run(os.getpid))
    names = {pids[address]: each["name"] for address, each in client.scheduler_info()["workers"].items()}
    kinds = [Resources(1), Resources(2, "1 GiB"), Resources(3), Resources(custom={"licence": 1}), Resources(1)]
    scheduler = Scheduler.with_dask(client)
    task = scheduler.task(marked, resources=lambda _, number: kinds[number])
    got: dict[int, Any] = {}
    seen: list[list[tuple[int, str]]] = []
    task.on_result(lambda future, result: got.update({future.args[1]: result}))
    scheduler.on_start(lambda: [task.submit(str(tmp_path), number) for number in range(len(kinds))])

    def look() -> None:
        marks = [mark.name.split("-") for mark in tmp_path.iterdir()]
        seen.append([(int(number), names[int(pid)]) for number, pid in marks])
        if len(got) < len(kinds):
            scheduler.call_later(0.02, look)

    scheduler.on_start(look)
    scheduler.run()
    assert len(got) == len(kinds)
    where = {number: node.split(" on ")[0] for number, (allocation, _) in got.items() for node in [allocation.node]}
    assert (where[1], where[2], where[3]) == ("large", "large", "small")
    assert any(seen)
    for instant in seen:
        for number, name in instant:
            assert where[number] == name
        assert sum(kinds[number].cpus for number, name in instant if name == "large") <= 3
        assert sum(kinds[number].cpus for number, name in instant if name == "small") <= 1
    assert got[3][1] == "1"  # the worker with one thread is bound to its call


def test_a_request_that_no_worker_can_hold_raises_at_submission_and_names_the_largest(client: Any) -> None:
    scheduler = Scheduler.with_dask(client)
    task = scheduler.task(marked, resources=Resources(4))
    scheduler.on_start(lambda: task.submit("", 1))
    with pytest.raises(ResourcesError, match=r"the largest is large on .* short of CPUs: 4 requested, 3 there"):
        scheduler.run()


def test_a_call_whose_worker_is_killed_runs_again_and_the_resources_of_the_dead_worker_are_gone(
    client: Any, tmp_path: Path
) -> None:
    scheduler = Scheduler.with_dask(client)
    task = scheduler.task(die_once, resources=Resources(2))
    results: list[str] = []
    nodes: list[Any] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(str(tmp_path / "mark")))
    scheduler.on_start(lambda: nodes.extend(scheduler._run._admission.nodes))  # type: ignore[union-attr]
    task.on_retry(lambda *_: nodes.extend(scheduler._run._admission.nodes))  # type: ignore[union-attr]
    task.on_result(lambda *_: nodes.extend(scheduler._run._admission.nodes))  # type: ignore[union-attr]
    scheduler.run(timeout=100)
    assert [result.split(" on ")[0] for result in results] == ["large"]  # its nanny has restarted it
    assert sum(node.lost for node in set(nodes)) == 1
    assert all(not node.leases for node in set(nodes))
