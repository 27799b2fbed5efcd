"""Checks of the outcomes of calls."""

# ruff: noqa: D103 (the name of a check says what holds)

from __future__ import annotations

import hashlib
import operator
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from amlsched.testing.stage import (
    Blocked,
    ExampleError,
    arguments,
    check,
    digest,
    echo,
    expect,
    expect_equal,
    expect_raises,
    invert,
    raise_example,
    sleep_and_return,
    something_new,
    unpicklable,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from amlsched.testing.stage import Stage


@check()
def a_call_returns_what_the_function_returns(stage: Stage) -> None:
    with stage.executor() as executor:
        future = executor.submit(divmod, 7, 3)
        expect(isinstance(future, Future), f"submit returned {future!r}, which is not a Future")  # pyright: ignore[reportUnnecessaryIsInstance]
        expect_equal(stage.result(future), (2, 1), "result")
        expect_equal(stage.result(executor.submit(echo, None)), None, "result")


@check()
def an_exception_is_passed_on_and_harms_no_other_call(stage: Stage) -> None:
    with stage.executor() as executor:
        failing = executor.submit(raise_example, "no", 7)
        error = expect_raises(ExampleError, lambda: stage.result(failing), "result() of a call that raised")
        expect_equal(error.args, ("no", 7), "arguments of the exception")
        expect_equal(type(failing.exception(0)), ExampleError, "exception()")
        good = executor.submit(echo, 1)
        expect_equal(stage.result(good), 1, "result of the next call")
        expect_equal(good.exception(0), None, "exception() of a call that returned")


@check()
def arguments_arrive_whatever_their_names(stage: Stage) -> None:
    names = dict.fromkeys(("fn", "self", "args", "kwargs", "executor", "function", "timeout", "key", "pure"), 1)
    with stage.executor() as executor:
        future = executor.submit(arguments, 1, *("a", None), **names)
        expect_equal(stage.result(future), ((1, "a", None), names), "arguments")


@check()
def a_large_argument_and_result_arrive_whole(stage: Stage) -> None:
    data = bytes(range(256)) * 20_000
    with stage.executor() as executor:
        seen, back = stage.result(executor.submit(digest, data))
        expect_equal(seen, hashlib.sha256(data).hexdigest(), "digest of 5 MB")
        expect(back == data[::-1], "5 MB did not come back unchanged")


@check()
def of_many_calls_each_has_its_own_result(stage: Stage) -> None:
    with stage.executor() as executor:
        futures = [executor.submit(operator.mul, number, number) for number in range(300)]
        wrong = [number for number, future in enumerate(futures) if stage.result(future) != number * number]
        expect_equal(wrong, [], "calls with the result of another call")


@check()
def equal_calls_are_all_run(stage: Stage) -> None:
    with stage.executor() as executor:
        results = [stage.result(future) for future in [executor.submit(something_new) for _ in range(5)]]
        expect_equal(len(set(results)), 5, "different results of a random function")


@check()
def several_threads_may_submit(stage: Stage) -> None:
    with stage.executor() as executor:
        futures: list[Future[int]] = []

        def submit(number: int) -> None:
            futures.extend([executor.submit(operator.neg, number) for _ in range(25)])

        threads = [threading.Thread(target=submit, args=(number,), daemon=True) for number in range(4)]
        for thread in threads:
            thread.start()
        stage.until(lambda: not any(thread.is_alive() for thread in threads), "end of submit() in four threads")
        counts = sorted(stage.result(future) for future in futures)
        expect_equal(counts, [-3] * 25 + [-2] * 25 + [-1] * 25 + [0] * 25, "results")


@check()
def map_keeps_the_order_of_its_input(stage: Stage) -> None:
    with stage.executor() as executor:
        results = executor.map(sleep_and_return, (0.1, 0.05, 0, 0), range(4))
        expect_equal(stage.soon("map", lambda: list(results)), [0, 1, 2, 3], "results")


@check()
def map_ends_with_the_shortest_of_its_inputs(stage: Stage) -> None:
    with stage.executor() as executor:
        results = executor.map(operator.add, [1, 2, 3], [10, 20])
        expect_equal(stage.soon("map", lambda: list(results)), [11, 22], "results")


@check()
def map_raises_an_exception_where_its_result_would_be(stage: Stage) -> None:
    with stage.executor() as executor:
        results = iter(executor.map(invert, [2, 1, 0, 4]))
        expect_equal(stage.soon("map", lambda: [next(results), next(results)]), [0.5, 1.0], "results before it")
        expect_raises(ZeroDivisionError, lambda: stage.soon("map", lambda: next(results)), "the third result")


@check(background=True)
def map_keeps_its_time_out(stage: Stage) -> None:
    with stage.executor() as executor:
        gate = str(stage.gate)
        patient = Blocked(gate, 2 * stage.timeout_s)  # runs longer than the wait below, so it cannot decide the outcome
        results = executor.map(operator.methodcaller("run"), [patient], timeout=0.05)
        expect_raises(TimeoutError, lambda: stage.soon("map", lambda: list(results)), "map with a time-out")


@check(pickles=True)
def what_cannot_be_pickled_is_an_error_and_harms_no_other_call(stage: Stage) -> None:
    with stage.executor() as executor:
        for what, function, args in (("an argument", echo, (threading.Lock(),)), ("a result", unpicklable, ())):
            error = _error_of(stage, executor, function, args)
            expect(error is not None, f"a call with {what} that cannot be pickled: no exception")
            expect_equal(stage.result(executor.submit(echo, 1)), 1, "result of the next call")


def _error_of(
    stage: Stage, executor: Executor, function: Callable[..., Any], args: tuple[Any, ...]
) -> BaseException | None:
    """The error, whether raised by `submit` or set in the future."""
    try:
        future = executor.submit(function, *args)
    except Exception as error:
        return error
    stage.wait(future, "a call that cannot be pickled")
    return future.exception(0)
