"""The records of the queue."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import matplotlib as mpl
import pytest

from amlsched import Future, MissingExtraError, Scheduler
from amlsched.monitor import QueueMonitor
from tests.backends import ByHand

mpl.use("agg")


def fail(x: int) -> int:
    raise ValueError(x)


def run_three(scheduler: Scheduler) -> QueueMonitor:
    """Three calls up front, of which the last is cancelled by the first one's result."""
    monitor = QueueMonitor(scheduler)
    task = scheduler.task(abs)
    futures: list[Future[int] | None] = []
    scheduler.on_start(lambda: futures.extend(task.submit(x) for x in (1, 2, 3)))

    @task.on_result(max_calls=1)
    def cancel_last(future: Future[int], result: int) -> None:
        assert futures[-1] is not None
        futures[-1].cancel()

    scheduler.run(on_cancelled="continue")
    return monitor


def test_each_change_of_the_queue_is_recorded() -> None:
    monitor = run_three(Scheduler.with_sequential())
    assert [tuple(record)[1:] for record in monitor.data] == [
        # size, queued, finished, cancelled
        (0, 0, 0, 0),
        (1, 1, 0, 0),
        (2, 2, 0, 0),
        (3, 3, 0, 0),
        (2, 2, 0, 0),
        (1, 1, 0, 0),
        (0, 0, 0, 0),
        (0, 0, 0, 0),
        (0, 0, 0, 0),
    ]
    assert [record.time for record in monitor.data] == sorted(record.time for record in monitor.data)


def run_held_back() -> QueueMonitor:
    """Three calls whose first ends last: those behind it have ended, and wait in the queue until it has."""
    executor = ByHand()
    scheduler = Scheduler(executor)
    monitor = QueueMonitor(scheduler)
    task = scheduler.task(abs)

    @scheduler.on_start
    async def submit() -> None:
        futures = [task(x) for x in (1, 2, 3)]
        executor.finish(1, 2)
        futures[2].cancel()
        await asyncio.sleep(0)  # a turn of the run, which takes both up
        task.submit(4)
        await asyncio.sleep(0)
        executor.finish(3, 4)
        executor.finish(0, 1)

    scheduler.run(order="submission", on_cancelled="continue")
    return monitor


def test_queued_finished_and_cancelled_are_the_queue_at_that_moment() -> None:
    monitor = run_held_back()
    fourth = [record for record in monitor.data if record.queue_size == 4]
    assert [tuple(record)[1:] for record in fourth] == [(4, 2, 1, 1)]
    assert all(record.queued + record.finished + record.cancelled == record.queue_size for record in monitor.data)
    assert tuple(monitor.data[-1])[1:] == (0, 0, 0, 0)


def test_calls_that_raise_leave_the_queue() -> None:
    scheduler = Scheduler.with_sequential()
    monitor = QueueMonitor(scheduler)
    task = scheduler.task(fail)
    scheduler.on_start(lambda: task.submit(1))
    scheduler.run(on_exception="continue")
    assert [record.queue_size for record in monitor.data] == [0, 1, 0, 0, 0]


def test_no_more_calls_run_than_there_are_workers() -> None:
    release = threading.Event()
    scheduler = Scheduler.with_threads(2)
    monitor = QueueMonitor(scheduler)
    task = scheduler.task(release.wait)

    @scheduler.on_start
    def start() -> None:
        for _ in range(5):
            task.submit(10)

    task.on_submitted(lambda *_: release.set() if monitor.data[-1].queue_size == 5 else None)
    scheduler.run()
    full = monitor.df().nlargest(1, "queue_size").iloc[0]
    assert (full.queue_size, full.queued, full.running, full.idle) == (5, 5, 2, 0)


def test_a_second_run_counts_anew_and_adds_its_records() -> None:
    scheduler = Scheduler.with_sequential()
    monitor = QueueMonitor(scheduler)
    task = scheduler.task(abs)
    scheduler.on_start(lambda: task.submit(-1))
    scheduler.run()
    of_one_run = len(monitor.data)
    scheduler.run()
    assert len(monitor.data) == 2 * of_one_run
    assert [record.queue_size for record in monitor.data[of_one_run:]] == [0, 1, 0, 0, 0]


def test_records_are_bounded_and_tell_of_the_whole_time() -> None:
    scheduler = Scheduler.with_sequential()
    monitor = QueueMonitor(scheduler, max_records=50)
    task = scheduler.task(abs)
    scheduler.on_start(lambda: [task.submit(x) for x in range(1000)])
    scheduler.run()
    assert 20 <= len(monitor.data) <= 50
    assert monitor.data[0].queue_size == 0
    assert monitor.data[-1].queue_size == 0
    assert max(record.queue_size for record in monitor.data) > 900


def test_nothing_is_registered_without_a_monitor() -> None:
    scheduler = Scheduler.with_sequential()
    assert not scheduler.on_future_submitted.handlers
    QueueMonitor(scheduler)
    assert [handler.hidden for handler in scheduler.on_future_submitted.handlers] == [True]


@pytest.mark.parametrize("max_records", [0, 9, -1])
def test_too_few_records_are_refused(max_records: int) -> None:
    with pytest.raises(ValueError, match=f"max_records={max_records}: must be at least 10"):
        QueueMonitor(Scheduler.with_sequential(), max_records=max_records)


# The table and the plot


def test_the_table_has_a_column_for_each_field_and_one_for_idle_workers() -> None:
    monitor = run_three(Scheduler.with_sequential())
    table = monitor.df()
    assert list(table.columns) == ["queue_size", "queued", "finished", "cancelled", "running", "idle"]
    assert table.index.name == "time"
    assert str(table.index.dtype) == "datetime64[ns]"
    assert table["idle"].tolist() == [1, 0, 0, 0, 0, 0, 1, 1, 1]


def test_the_number_of_workers_can_be_given() -> None:
    table = run_three(Scheduler.with_sequential()).df(n_workers=2)
    assert table["running"].tolist() == [0, 1, 2, 2, 2, 1, 0, 0, 0]
    assert table["queued"].tolist() == [0, 1, 2, 3, 2, 1, 0, 0, 0]
    assert table["idle"].tolist() == [2, 1, 0, 0, 0, 1, 2, 2, 2]


def test_the_table_of_no_records_is_empty() -> None:
    assert QueueMonitor(Scheduler.with_sequential()).df().empty


def test_the_plot_stacks_running_waiting_and_idle_per_interval() -> None:
    from matplotlib import pyplot

    monitor = run_three(Scheduler.with_sequential())
    axes = monitor.plot(interval=(1, "ms"))
    try:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["running", "waiting", "idle"]
        assert axes.get_ylabel() == "Time (s)"
    finally:
        pyplot.close("all")


def test_the_plot_keeps_the_state_of_the_queue_where_nothing_happened() -> None:
    from matplotlib import pyplot

    scheduler = Scheduler.with_sequential()
    monitor = run_three(scheduler)
    second = 1_000_000_000
    monitor.data = [monitor.data[2]._replace(time=0), monitor.data[-1]._replace(time=3 * second)]
    _, axes = pyplot.subplots()
    try:
        assert monitor.plot(ax=axes, color=["g", "r", "b"]) is axes
        running = [bar.get_width() for bar in axes.containers[0]]
        assert running == [0, 1, 1, 1]  # the earliest interval is the topmost bar
    finally:
        pyplot.close("all")


def test_a_plot_of_no_records_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"before scheduler\.run"):
        QueueMonitor(Scheduler.with_sequential()).plot()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor: Any = run_three(Scheduler.with_sequential())
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"amlsched\[results\]"):
        monitor.df()
