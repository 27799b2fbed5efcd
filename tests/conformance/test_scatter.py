"""Data that many calls share, over every executor."""

from __future__ import annotations

import os
import pickle
import threading
from typing import Any

import pytest

from amlsched import NotPicklableError, Scheduler
from amlsched.plugins import Limits
from tests.backends import Backend, MakesScheduler


class Counted:
    """Counts how often it is unpickled, in each process."""

    made = 0

    def __init__(self, size: int) -> None:
        self.data = bytes(size)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        type(self).made += 1


def use(shared: Counted, number: int, *, again: Counted) -> tuple[int, int, int, bool]:
    return os.getpid(), Counted.made, len(shared.data) + number, again is shared


def in_a_list(handles: list[Any]) -> int:
    return sum(len(handle.value.data) for handle in handles)


def test_shared_data_arrives_as_itself_and_once_in_each_worker(scheduler: Scheduler) -> None:
    Counted.made = 0
    handle = scheduler.scatter(Counted(100_000))
    task = scheduler.task(use)
    results: list[tuple[int, int, int, bool]] = []
    scheduler.on_start(lambda: [task.submit(handle, number, again=handle) for number in range(30)])
    task.on_result(lambda _, result: results.append(result))
    scheduler.run()
    assert sorted(size for _, _, size, _ in results) == [100_000 + number for number in range(30)]
    assert all(made <= 2 and same for _, made, _, same in results)


def test_a_handle_in_a_list_has_a_value(scheduler: Scheduler) -> None:
    handles = [scheduler.scatter(Counted(size)) for size in (1, 2)]
    task = scheduler.task(in_a_list)
    results: list[int] = []
    scheduler.on_start(lambda: task.submit(handles))
    task.on_result(lambda _, result: results.append(result))
    scheduler.run()
    assert results == [3]


def both(one: Counted, handles: list[Any]) -> int:
    return len(one.data) + in_a_list(handles)


def test_the_calls_of_a_batch_have_shared_data(scheduler: Scheduler) -> None:
    handle = scheduler.scatter(Counted(2))
    task = scheduler.task(both, batch_size=4)
    results: list[int] = []
    scheduler.on_start(lambda: [task.submit(handle, [handle] * number) for number in range(6)])
    task.on_result(lambda _, result: results.append(result))
    scheduler.run()
    assert sorted(results) == [2, 4, 6, 8, 10, 12]


def test_a_handle_goes_on_into_the_child_of_a_limited_call(scheduler: Scheduler) -> None:
    handle = scheduler.scatter(Counted(2))
    task = scheduler.task(both, plugins=Limits(walltime="60 s"))
    results: list[int] = []
    scheduler.on_start(lambda: task.submit(handle, [handle]))
    task.on_result(lambda _, result: results.append(result))
    scheduler.run()
    assert results == [4]


def test_a_handle_serves_each_run(backend: Backend, shared_scheduler: MakesScheduler) -> None:
    scheduler = shared_scheduler(backend)
    handle = scheduler.scatter(Counted(3))
    task = scheduler.task(both)
    results: list[int] = []
    scheduler.on_start(lambda: task.submit(handle, [handle]))
    task.on_result(lambda _, result: results.append(result))
    scheduler.run()
    scheduler.run()
    assert results == [6, 6]


def test_what_cannot_be_sent_is_named(pickling_backend: Backend, shared_scheduler: MakesScheduler) -> None:
    scheduler = shared_scheduler(pickling_backend)
    handle = scheduler.scatter(threading.Lock())
    task = scheduler.task(pickle.dumps)
    scheduler.on_start(lambda: task.submit(handle))
    with pytest.raises(NotPicklableError, match="the lock"):
        scheduler.run()
