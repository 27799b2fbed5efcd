"""Why runs end, and what exceptions do to them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from amlsched import ExitState, Scheduler
from amlsched.errors import SchedulerNotRunningError
from amlsched.exit_state import Policy


def test_there_is_a_code_for_each_reason_that_amltk_knows() -> None:
    assert {"STOPPED", "TIMEOUT", "EXHAUSTED", "CANCELLED", "UNKNOWN", "EXCEPTION"} <= set(ExitState.Code.__members__)


def test_codes_are_printed_and_pickled_by_their_public_name() -> None:
    assert str(ExitState.Code.TIMEOUT) == "Code.TIMEOUT"
    assert repr(ExitState.Code.TIMEOUT).startswith("<Code.TIMEOUT")
    assert pickle.loads(pickle.dumps(ExitState.Code.TIMEOUT)) is ExitState.Code.TIMEOUT


@pytest.mark.parametrize("key", [BaseException, KeyboardInterrupt, "ValueError"])
def test_a_wrong_type_is_an_invalid_key(key: Any) -> None:
    with pytest.raises(ValueError, match="Invalid key"):
        Policy({key: "raise"})


def test_exit_states_are_equal_where_code_and_exception_are() -> None:
    error = ValueError()
    assert ExitState(ExitState.Code.EXCEPTION, error) == ExitState(ExitState.Code.EXCEPTION, exception=error)
    assert ExitState(ExitState.Code.STOPPED) != ExitState(ExitState.Code.TIMEOUT)
    assert ExitState(code=ExitState.Code.STOPPED).exception is None


@pytest.mark.parametrize("mode", ["raise", "end", "continue"])
def test_one_mode_is_for_every_exception(mode: Any) -> None:
    assert Policy(mode)(ValueError()) == mode


@pytest.mark.parametrize("on_exception", ["continue", "end", {Exception: "continue"}], ids=str)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()], ids=repr)
def test_what_is_no_exception_is_always_raised(on_exception: Any, error: BaseException) -> None:
    assert Policy(on_exception)(error) == "raise"


@pytest.mark.parametrize(
    ("error", "mode"),
    [(KeyError(), "end"), (IndexError(), "continue"), (LookupError(), "continue"), (ValueError(), "raise")],
    ids=repr,
)
def test_the_first_type_that_matches_decides_and_none_means_raise(error: Exception, mode: str) -> None:
    policy = Policy({KeyError: "end", LookupError: "continue", IndexError: "raise"})
    assert policy(error) == mode


@pytest.mark.parametrize(
    ("on_exception", "named"),
    [
        ("ignore", "'ignore'"),
        (None, "None"),
        ({ValueError: "ignore"}, "'ignore'"),
        ({KeyboardInterrupt: "continue"}, "KeyboardInterrupt"),
        ({BaseException: "continue"}, "BaseException"),
        ({"ValueError": "continue"}, "'ValueError'"),
        ({ValueError(): "continue"}, "ValueError"),
    ],
    ids=str,
)
def test_a_mode_or_a_type_that_is_not_allowed_is_refused_by_its_name(on_exception: Any, named: str) -> None:
    with pytest.raises(ValueError, match="on_exception") as caught:
        Policy(on_exception)
    assert named in str(caught.value)


def test_an_unhashable_mode_is_refused_as_any_other() -> None:
    with pytest.raises(ValueError, match="on_exception"):
        Policy([])  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ExitState.Code)
def test_each_exit_state_is_printed_as_a_sentence(code: ExitState.Code) -> None:
    assert str(ExitState(code)).startswith("The run ")
    assert str(ExitState(code)).endswith(".")
    assert str(ExitState(code, ValueError("bad"))).endswith(": ValueError: bad")
    assert repr(ExitState(code)).startswith("ExitState(code=<Code.")


def test_a_run_that_nobody_submits_to_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(abs)
    assert str(scheduler.run()) == "The run finished: no calls remained."
    assert [record.getMessage() for record in caplog.records] == [
        "The run ended without a single call: submit calls in a callback of on_start"
    ]
    with pytest.raises(SchedulerNotRunningError, match="abs cannot be submitted: the run of the scheduler has ended; "):
        task.submit(1)
    caplog.clear()
    decided = scheduler.on_start(lambda: None)  # a callback that submits nothing may mean to
    scheduler.run()
    assert decided is not None
    assert caplog.records == []
