"""Arguments of a type or a value that they cannot have are errors at once, which name the argument and its value."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from amlsched import Scheduler
from amlsched.monitor import QueueMonitor
from amlsched.plugins import Comm, Limiter, PynisherPlugin, Retry, ThreadPoolCTLPlugin, WarningFilter
from amlsched.plugins.retry import exponential

if TYPE_CHECKING:
    from collections.abc import Callable

whatever: Any = None


def scheduler() -> Scheduler:
    return Scheduler.with_sequential()


def task() -> Any:
    return scheduler().task(abs)


CASES: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: exponential("a"), TypeError, "exponential(initial_s='a'): must be a number"),
    (lambda: exponential([1]), TypeError, "initial_s=[1]"),
    (lambda: exponential(True), TypeError, "initial_s=True"),
    (lambda: exponential(factor="2"), TypeError, "factor='2'"),
    (lambda: exponential(max_s=None), TypeError, "max_s=None"),
    (lambda: exponential(nan), ValueError, "initial_s=nan"),
    (lambda: exponential(inf), ValueError, "initial_s=inf"),
    (lambda: exponential(max_s=inf), ValueError, "max_s=inf"),
    (lambda: exponential(factor=0.5), ValueError, "factor=0.5"),
    (lambda: Retry("3"), ValueError, "attempts='3': must be a whole number"),
    (lambda: Retry(2, on="ValueError"), TypeError, "on='ValueError': must be exception types"),
    (lambda: Retry(2, on=lambda: True), TypeError, "can be called with the exception alone"),
    (lambda: Retry(2, backoff="1"), ValueError, "backoff='1': must be a number of seconds"),
    (lambda: Retry(2, backoff=[1, 2]), ValueError, "backoff=[1, 2]: must be"),
    (lambda: Retry(2, backoff=np.array([1, 2])), ValueError, "must be a number of seconds"),
    (lambda: Retry(2, backoff=exponential), TypeError, "call it, as in backoff=exponential(max_s=30)"),
    (lambda: Retry(2, backoff=lambda: 1.0), TypeError, "can be called with the number of failures alone"),
    (lambda: Retry(2, jitter="a"), ValueError, "jitter='a': must be between 0 and 1"),
    (lambda: Retry(2, jitter=True), ValueError, "jitter=True: must be"),
    (lambda: Retry(2, seed="a"), TypeError, "seed='a': must be a whole number, or None"),
    (lambda: Retry(2, memory_growth="2"), ValueError, "memory_growth='2': must be a number"),
    (lambda: Retry(2, memory_growth=2.0, memory_cap=5), ValueError, "memory_cap: 5 is not an amount"),
    (
        lambda: PynisherPlugin(walltime_limit="1 s"),
        TypeError,
        "walltime_limit='1 s': must be a number, or a number",
    ),
    (lambda: PynisherPlugin(walltime_limit=("1", "s")), TypeError, "walltime_limit=('1', 's')"),
    (lambda: PynisherPlugin(cputime_limit=True), TypeError, "cputime_limit=True"),
    (lambda: PynisherPlugin(memory_limit=(1,)), TypeError, "memory_limit=(1,)"),
    (lambda: PynisherPlugin(memory_limit=(1, 2)), ValueError, "the unit must be one of B, KB, MB, GB"),
    (lambda: PynisherPlugin(memory_limit=inf), ValueError, "memory_limit=inf"),
    (lambda: Limiter(max_calls="2"), ValueError, "max_calls='2'"),
    (lambda: ThreadPoolCTLPlugin("2"), TypeError, "max_threads='2': must be a whole number"),
    (lambda: ThreadPoolCTLPlugin({"blas": "2"}), TypeError, "max_threads['blas']='2': must be a whole number"),
    (lambda: WarningFilter("nope"), ValueError, "invalid action: 'nope'"),
    (lambda: WarningFilter("ignore", "("), ValueError, "arguments are those of warnings.filterwarnings"),
    (lambda: Comm.Plugin(whatever), ValueError, "parameter_name=None: must be the name of a parameter"),
    (lambda: Comm.Plugin("a b"), ValueError, "parameter_name='a b'"),
    (lambda: QueueMonitor(whatever), TypeError, "QueueMonitor needs a Scheduler, not None"),
    (lambda: QueueMonitor(scheduler(), max_records="10"), TypeError, "max_records='10': must be a whole number"),
    (lambda: QueueMonitor(scheduler()).df(n_workers="2"), TypeError, "n_workers='2': must be a whole number"),
    (lambda: QueueMonitor(scheduler()).df(n_workers=0), ValueError, "n_workers=0: must be at least 1"),
    (lambda: task().map([1], max_in_flight="2"), TypeError, "max_in_flight='2': must be a whole number"),
    (lambda: task().map([1], 5), TypeError, "takes one iterable per parameter, but argument 2 is 5"),
    (lambda: scheduler().task(abs, plugins=5), TypeError, "plugins=5: must be a Plugin or an iterable of them"),
    (lambda: scheduler().task(abs, plugins=Limiter), TypeError, "call it, as in Limiter(…)"),
    (lambda: task().on_result(print, every="2"), TypeError, "every='2': must be a whole number"),
    (lambda: task().on_result(print, max_calls=1.5), TypeError, "max_calls=1.5"),
    (lambda: task().on_result(print, when=5), TypeError, "when=5: must be a function"),
    (lambda: scheduler().stop(exception="x"), TypeError, "exception='x'): must be an exception"),
    (lambda: scheduler().stop(exception=ValueError), TypeError, "must be an exception, such as ValueError('why')"),
    (lambda: Scheduler(scheduler().executor, terminate=5), TypeError, "terminate=5: must be True, False or a function"),
    (lambda: Scheduler.with_sequential(receipts="yes"), TypeError, "receipts='yes': must be True or False"),
]  # type: ignore[arg-type, call-overload]


@pytest.mark.parametrize(("make", "kind", "words"), CASES, ids=[words for _, _, words in CASES])
def test_a_wrong_argument_is_named(make: Callable[[], object], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as raised:
        make()
    assert type(raised.value) is kind
    assert words in str(raised.value)


def test_numbers_of_numpy_are_numbers() -> None:
    seen = [wait(3) for wait in (exponential(np.float32(0.5)), exponential(np.int64(1), factor=np.float64(3)))]
    assert seen == [2.0, 9.0]
    Retry(2, backoff=np.float32(0.5), jitter=np.float16(0.5), seed=np.int64(7), memory_growth=np.float32(1.5))
    QueueMonitor(scheduler(), max_records=np.int64(100))
    task().on_result(print, every=np.int64(2))
