"""The scheduler's own face: what it takes, what it refuses, and when it makes and closes executors."""

from __future__ import annotations

import inspect
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest

from amlsched import EventNotKnownError, ExitState, Scheduler, SequentialExecutor
from amlsched.executors import local
from amlsched.plugins import Limiter, Limits, WarningFilter

Code = ExitState.Code


# Making one


@pytest.mark.parametrize("value", [None, "processes", 3, ThreadPoolExecutor], ids=repr)
def test_what_is_no_executor_is_refused_with_a_remedy(value: Any) -> None:
    with pytest.raises(TypeError, match="Executor") as caught:
        Scheduler(value)
    assert "with_processes" in str(caught.value)


@pytest.mark.parametrize("name", ["sequential", "threads", "processes", "loky"])
def test_a_constructor_has_the_signature_and_the_text_of_its_factory(name: str) -> None:
    factory, constructor = getattr(local, name), getattr(Scheduler, f"with_{name}")
    own = list(inspect.signature(factory).parameters)
    taken = list(inspect.signature(constructor).parameters)
    assert [name for name in taken if name in own] == own
    assert set(taken) - set(own) == {"retries_on_loss", "receipts", "estimates", "pool", "policy"}
    assert inspect.getdoc(constructor) == inspect.getdoc(factory)


def test_constructors_take_the_arguments_that_amltk_gives_them() -> None:
    assert isinstance(Scheduler.with_threads(2), Scheduler)
    assert isinstance(Scheduler.with_sequential(), Scheduler)
    assert list(inspect.signature(Scheduler.with_processes).parameters)[:4] == [
        "max_workers",
        "mp_context",
        "initializer",
        "initargs",
    ]


def test_from_name_is_the_constructor_of_that_name() -> None:
    class Mine(Scheduler):
        pass

    scheduler = Mine.from_name("sequential")
    assert type(scheduler) is Mine
    assert isinstance(scheduler.executor, SequentialExecutor)


def test_a_name_that_no_executor_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'proceses'.*loky, .*processes, .*sequential, .*threads"):
        Scheduler.from_name("proceses")


def test_an_option_that_the_executor_does_not_take_is_refused_with_those_it_does() -> None:
    with pytest.raises(ValueError, match=r"threads.*n_workers.*max_workers"):
        Scheduler.from_name("threads", n_workers=2)


def test_the_events_of_a_scheduler_are_those_of_amltk() -> None:
    scheduler = Scheduler.with_sequential()
    assert scheduler.events == [
        "on_start",
        "on_finishing",
        "on_finished",
        "on_stop",
        "on_timeout",
        "on_empty",
        "on_future_submitted",
        "on_future_done",
        "on_future_cancelled",
        "on_future_result",
        "on_future_exception",
        "on_future_retry",  # ours
    ]
    told: list[str] = []
    scheduler.on("on_start", lambda: told.append("started"))
    with pytest.raises(EventNotKnownError, match="on_begin"):
        scheduler.on("on_begin")
    scheduler.run()
    assert told == ["started"]
    assert scheduler.event_counts["on_start"] == 1  # type: ignore[index]
    assert (scheduler.events[:5]) == [
        Scheduler.STARTED,
        Scheduler.FINISHING,
        Scheduler.FINISHED,
        Scheduler.STOP,
        Scheduler.TIMEOUT,
    ]


# What run() refuses, before anything starts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_exception": "ignore"}, "on_exception='ignore'"),
        ({"on_exception": {KeyboardInterrupt: "continue"}}, "KeyboardInterrupt"),
        ({"on_exception": {BaseException: "continue"}}, "BaseException"),
        ({"on_exception": {ValueError: "stop"}}, "'stop'"),
        ({"on_cancelled": "ignore"}, "on_cancelled='ignore'"),
        ({"on_cancelled": None}, "on_cancelled=None"),
        ({"order": "random"}, "order='random'"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"timeout": float("inf")}, "timeout=inf"),
        ({"timeout": "5"}, "timeout='5'"),
        ({"timeout": True}, "timeout=True"),
        ({"end_on_empty": "no"}, "end_on_empty='no'"),
        ({"wait": 2}, "wait=2"),
        ({"on_exception": 5}, "on_exception=5"),
        ({"order": None}, "order=None"),
        ({"display": 3}, "display=3"),
        ({"display": "sometimes"}, "display"),
    ],
    ids=str,
)
def test_a_wrong_argument_of_run_is_refused_before_the_run_begins(options: dict[str, Any], message: str) -> None:
    scheduler = Scheduler.with_sequential()
    started: list[bool] = []
    scheduler.on_start(lambda: started.append(True))
    with pytest.raises((TypeError, ValueError), match="must be") as caught:
        scheduler.run(**options)
    assert message in str(caught.value)
    assert started == []
    assert scheduler.run() == ExitState(Code.EXHAUSTED)


@pytest.mark.parametrize("delay", ["1", None, -1, float("nan"), float("inf")], ids=repr)
def test_a_wrong_delay_of_call_later_raises(delay: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="delay="):
        Scheduler.with_sequential().call_later(delay, print)


def test_only_functions_are_called_later_or_submitted() -> None:
    value: Any = "train"
    with pytest.raises(TypeError, match="needs a function, not 'train'"):
        Scheduler.with_sequential().call_later(1, value)
    with pytest.raises(TypeError, match="needs a function, not 'train'"):
        Scheduler.with_sequential().submit(value)


def named_like_ours(**kwargs: int) -> dict[str, int]:
    return kwargs


@pytest.mark.parametrize("name", ["sequential", "threads", "processes"])
@pytest.mark.parametrize(
    "plugin",
    [None, partial(Limiter, max_calls=9), partial(Limits, "60 s"), partial(WarningFilter, "ignore")],
    ids=["no plugin", "limiter", "limits", "warning filter"],
)
def test_arguments_of_a_call_may_have_any_name(name: str, plugin: Any) -> None:
    scheduler = Scheduler.from_name(name)
    task = scheduler.task(named_like_ours, plugins=[] if plugin is None else [plugin()])
    given = dict.fromkeys(("self", "fn", "function", "task", "event", "args", "kwargs", "executor", "future"), 1)
    results: list[Any] = []
    scheduler.on_future_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(**given))
    scheduler.on_start(lambda: scheduler.submit(named_like_ours, **given))
    scheduler.run()
    assert results == [given, given]


class ShutsDown(ThreadPoolExecutor):
    """Keeps how it was shut down."""

    how: Any = None


class WithoutOptions(ShutsDown):
    def shutdown(self) -> None:  # type: ignore[override]
        self.how = "waits"
        super().shutdown()


class WithWait(ShutsDown):
    def shutdown(self, wait: bool = True) -> None:  # type: ignore[override]
        self.how = wait
        super().shutdown(wait=wait)


@pytest.mark.parametrize(("kind", "how"), [(WithoutOptions, None), (WithWait, False)])
def test_an_executor_may_take_fewer_options_when_it_is_shut_down(kind: type[ShutsDown], how: Any) -> None:
    executor = kind(1)
    scheduler = Scheduler(executor)
    scheduler.on_start(lambda: scheduler.submit(time.sleep, 0.5))
    assert scheduler.run(timeout=0.1, wait=False).code is Code.TIMEOUT
    assert executor.how is how
    ThreadPoolExecutor.shutdown(executor)


@pytest.mark.parametrize("name", ["sequential", "threads"])
@pytest.mark.parametrize("mode", ["raise", "end"])
def test_on_empty_is_emitted_too_where_an_exception_of_the_last_call_ends_the_run(name: str, mode: Any) -> None:
    scheduler = Scheduler.from_name(name)
    scheduler.on_start(lambda: scheduler.submit(int, "x"))
    with pytest.raises(ValueError, match="'x'") if mode == "raise" else nullcontext():
        scheduler.run(on_exception=mode)
    assert scheduler.on_empty.count == 1


def test_on_empty_is_not_emitted_where_calls_are_left_when_the_time_is_over() -> None:
    scheduler = Scheduler.with_threads(1)
    scheduler.on_start(lambda: scheduler.submit(time.sleep, 0.5))
    assert scheduler.run(timeout=0.05).code is Code.TIMEOUT
    assert scheduler.on_empty.count == 0


def test_a_timeout_of_zero_ends_the_run_at_once() -> None:
    scheduler = Scheduler.with_sequential()
    scheduler.on_start(lambda: [scheduler.submit(abs, number) for number in range(5)])
    assert scheduler.run(timeout=0) == ExitState(Code.TIMEOUT)


def test_the_debug_mode_of_asyncio_is_passed_on() -> None:
    import asyncio

    scheduler = Scheduler.with_sequential()
    seen: list[bool] = []
    scheduler.on_start(lambda: seen.append(asyncio.get_running_loop().get_debug()))
    scheduler.run(asyncio_debug_mode=True)
    scheduler.run()
    assert seen == [True, False]


# Executors


class Counting(SequentialExecutor):
    made = 0
    closed = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        type(self).closed += 1
        super().shutdown(wait, cancel_futures=cancel_futures)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    class Fresh(Counting):
        pass

    monkeypatch.setattr(Scheduler.__dict__["with_sequential"], "factory", Fresh)
    return Fresh


def test_an_executor_is_made_for_each_run_and_closed_after_it(counting: type[Counting]) -> None:
    scheduler = Scheduler.with_sequential()
    for number in range(1, 4):
        scheduler.on_start(lambda: scheduler.submit(abs, 1))
        assert scheduler.run() == ExitState(Code.EXHAUSTED)
        assert (counting.made, counting.closed) == (number, number)


def test_an_executor_is_closed_though_the_run_raises(counting: type[Counting]) -> None:
    scheduler = Scheduler.with_sequential()
    scheduler.on_start(lambda: scheduler.submit(int, "x"))
    with pytest.raises(ValueError, match="invalid literal"):
        scheduler.run()
    assert (counting.made, counting.closed) == (1, 1)
    assert not scheduler.running()


def test_a_with_block_makes_one_executor_and_closes_it_at_its_end(counting: type[Counting]) -> None:
    with Scheduler.with_sequential() as scheduler:
        scheduler.run()
        scheduler.run()
        assert (counting.made, counting.closed) == (1, 0)
    assert (counting.made, counting.closed) == (1, 1)
    scheduler.run()
    assert (counting.made, counting.closed) == (2, 2)


def test_a_with_block_closes_its_executor_though_its_body_raises(counting: type[Counting]) -> None:
    with pytest.raises(KeyError), Scheduler.with_sequential() as scheduler:
        scheduler.run()
        raise KeyError
    assert (counting.made, counting.closed) == (1, 1)


def test_an_executor_that_is_given_is_left_open_by_a_with_block_too() -> None:
    executor = Counting()
    with Scheduler(executor) as scheduler:
        scheduler.run()
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert executor.execute(abs, (-1,), {}) == 1


def test_any_executor_of_the_standard_library_interface_will_do() -> None:
    class Bare(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            return self._inner.submit(fn, *args, **kwargs)

        _inner = SequentialExecutor()

    scheduler = Scheduler(Bare())
    results: list[int] = []
    scheduler.on_future_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: scheduler.submit(abs, -1))
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert results == [1]


# In sequence


def test_calls_in_sequence_run_in_the_thread_and_below_the_frame_of_run() -> None:
    import sys
    import threading

    scheduler = Scheduler.with_sequential()
    seen: list[Any] = []

    def look() -> None:
        frame: Any = sys._getframe()
        names = []
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        seen.append((threading.current_thread(), "run" in names))

    scheduler.on_start(lambda: scheduler.submit(look))
    scheduler.run()
    assert seen == [(threading.main_thread(), True)]


def test_in_sequence_callbacks_come_between_the_calls() -> None:
    scheduler = Scheduler.with_sequential()
    told: list[str] = []
    task = scheduler.task(lambda number: told.append(f"call {number}"))
    task.on_submitted(lambda future, *_: told.append(f"submitted {future.number}"))
    task.on_result(lambda future, _: told.append(f"result {future.number}"))
    scheduler.on_start(lambda: [task.submit(1), task.submit(2)])
    scheduler.run()
    assert told == ["submitted 1", "submitted 2", "call 1", "result 1", "call 2", "result 2"]


def test_a_chain_of_a_hundred_thousand_calls_ends_with_the_default_recursion_limit() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(int)
    length = 100_000
    remaining = iter(range(length - 1))

    # Half of the calls are submitted by on_result, half by on_submitted.
    @task.on_submitted
    @task.on_result
    def submit(*_: object) -> None:
        if next(remaining, None) is not None:
            task.submit()

    scheduler.on_start(lambda: task.submit())
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert task.event_counts[task.RESULT] == length
