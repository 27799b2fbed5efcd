"""The warning filter around calls."""

from __future__ import annotations

import pickle
import threading
import warnings
from typing import Any

import pytest

from amlsched import Scheduler
from amlsched.plugins import WarningFilter


def warn(text: str) -> str:
    warnings.warn(text, UserWarning, stacklevel=1)
    return text


def run_one(scheduler: Scheduler, plugin: WarningFilter, text: str) -> tuple[list[str], list[BaseException]]:
    task = scheduler.task(warn, plugins=plugin)
    results: list[str] = []
    exceptions: list[BaseException] = []
    task.on_result(lambda _, result: results.append(result))
    task.on_exception(lambda _, exception: exceptions.append(exception))
    scheduler.on_start(lambda: task.submit(text))
    scheduler.run(on_exception="continue")
    return results, exceptions


@pytest.mark.parametrize("executor", ["sequential", "threads", "processes"])
def test_a_filtered_warning_is_not_raised(executor: str) -> None:
    # pytest turns warnings into errors, so a warning that got through would be an exception of the call.
    results, exceptions = run_one(Scheduler.from_name(executor), WarningFilter("ignore", category=UserWarning), "a")
    assert (results, exceptions) == (["a"], [])


@pytest.mark.parametrize("executor", ["sequential", "processes"])
def test_a_filter_can_make_a_warning_an_error(executor: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results, exceptions = run_one(Scheduler.from_name(executor), WarningFilter("error", "told"), "told")
    assert results == []
    assert [type(exception) for exception in exceptions] == [UserWarning]


def test_a_filter_lets_other_warnings_through() -> None:
    plugin = WarningFilter("ignore", category=DeprecationWarning)
    results, exceptions = run_one(Scheduler.with_sequential(), plugin, "a")
    assert results == []
    assert isinstance(exceptions[0], UserWarning)


def wrapped(function: Any, *args: Any, **kwargs: Any) -> Any:
    submitted = WarningFilter(*args, **kwargs).pre_submit(function)
    return submitted[0]


def test_filters_are_as_before_after_a_call() -> None:
    before = list(warnings.filters)
    wrapped(warn, "ignore")("a")
    assert list(warnings.filters) == before


def test_filters_are_as_before_after_calls_that_overlap() -> None:
    before = list(warnings.filters)
    first_inside, second_inside, first_left = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        first_inside.set()
        assert second_inside.wait(10)

    def second() -> None:
        second_inside.set()
        assert first_left.wait(10)

    threads = [threading.Thread(target=wrapped(first, "ignore")), threading.Thread(target=wrapped(second, "always"))]
    threads[0].start()
    assert first_inside.wait(10)
    threads[1].start()
    threads[0].join(10)
    first_left.set()
    threads[1].join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert list(warnings.filters) == before


def test_filters_are_as_before_after_an_exception() -> None:
    before = list(warnings.filters)
    with pytest.raises(ZeroDivisionError):
        wrapped(divmod, "ignore")(1, 0)
    assert list(warnings.filters) == before


def test_what_travels_to_the_worker_pickles_and_keeps_the_name() -> None:
    copy = pickle.loads(pickle.dumps(wrapped(warn, "ignore")))
    assert copy("a") == "a"
    assert copy.__name__ == "warn"


@pytest.mark.parametrize(("args", "error"), [(("ignored",), (AssertionError, ValueError)), ((), TypeError)])
def test_bad_arguments_are_refused_at_once(args: Any, error: Any) -> None:
    with pytest.raises(error):
        WarningFilter(*args)


def test_it_says_what_it_filters() -> None:
    assert str(WarningFilter("ignore", module="m")) == "warning-filter: 'ignore', module='m'"
