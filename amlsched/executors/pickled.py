"""Calls pickled where they are submitted, and outcomes pickled where they arise.

The standard library's and loky's pools of processes pickle a call in a thread of theirs: what cannot be pickled is
found out late, without the name of the argument, and what becomes of an argument meanwhile changes the call. And an
exception that cannot be loaded breaks the whole pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amlsched.errors import NotPicklableError, WorkerStartError
from amlsched.executors._user_function import AlarmsEnd, call_function

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["load_outcome", "pickled_call", "refuse_calls", "run_pickled"]

_why_refused: BaseException | None = None


def pickled_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, by_value: bool
) -> bytes:
    """What `run_pickled` runs.

    Args:
        function: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        by_value: Whether functions and classes of the main module travel as they are, for workers that do not
            import it.

    Raises:
        NotPicklableError: It names the argument.
    """
    from amlsched.executors._pickling import dumps, names_main  # here and below: not for `import amlsched`

    call = (function, args, dict(kwargs))
    try:
        pickled = dumps(call, protocol=5)
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever a __reduce__ raises: a lambda goes by value
        pass
    else:
        # cloudpickle takes five times as long, and differs only where the main module is referred to by its name.
        if not by_value or not names_main(pickled):
            return pickled
    from amlsched.executors._pickling import dump_by_value, pickled_by_value

    try:
        return pickled_by_value(call, protocol=5)
    except KeyboardInterrupt:
        raise
    except BaseException:
        dump_by_value(function, args, kwargs)  # finds out which part it was, and says so
        raise


def run_pickled(call: bytes) -> bytes:
    """Run a call in the worker; what `load_outcome` makes a result or an exception of."""
    import pickle

    from amlsched.executors._pickling import dumps

    function: Any = None
    try:
        function, args, kwargs = pickle.loads(call)
        if _why_refused is not None:
            raise _start_error(function)
        with AlarmsEnd():
            result = call_function(function, args, kwargs)
    except BaseException as error:  # the driver decides what it does
        return _pickled_error(function, error)
    try:
        return dumps((result, None), protocol=5)
    except BaseException:  # whatever a __reduce__ raises: it may exit, too
        return _pickled_by_value(function, result)


def refuse_calls(reason: BaseException) -> None:
    """In a worker whose initializer raised: every call that it gets from now on ends with a `WorkerStartError`."""
    global _why_refused
    _why_refused = reason


def load_outcome(outcome: bytes) -> tuple[Any, BaseException | None]:
    """Result or exception of a call that `run_pickled` ran."""
    import pickle

    try:
        result, failure = pickle.loads(outcome)
    except BaseException as reason:  # whatever the user's classes raise while they are loaded: they may exit
        from amlsched.executors._pickling import describe

        return None, NotPicklableError("the call", "the result", describe(reason))
    if failure is None:
        return result, None
    from amlsched.executors._pickling import load_exception

    return None, load_exception(*failure)


def _start_error(function: Callable[..., Any]) -> WorkerStartError:
    import os

    from amlsched.executors._pickling import call_name

    error = WorkerStartError(
        call_name(function), f"did not start, its initializer raised {_why_refused!r}", os.getpid()
    )
    error.__cause__ = _why_refused
    return error


def _pickled_error(function: Callable[..., Any] | None, error: BaseException) -> bytes:
    import pickle

    from amlsched.executors._pickling import call_name, describe, exception_parts

    if function is None:
        error = NotPicklableError(
            "the call", "the function or an argument", f"its worker cannot load it: {describe(error)}"
        )
    return pickle.dumps((None, (exception_parts(error), call_name(function))))


def _pickled_by_value(function: Callable[..., Any], result: object) -> bytes:
    from amlsched.executors._pickling import call_name, pickled_by_value, why_no_result

    try:
        return pickled_by_value((result, None), protocol=5)
    except BaseException as reason:
        error = NotPicklableError(call_name(function), "the result", why_no_result(result, reason))
        return _pickled_error(function, error)
