"""Pickles calls when they are submitted, and outcomes when they arise in the worker.

The process pools of the standard library and of loky pickle a call later, in a thread: an error about an argument comes
late, without its name, and changes to an argument meanwhile affect the call. And an exception that cannot be loaded
breaks the whole pool.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from amlsched.errors import NotPicklableError, WorkerStartError
from amlsched.executors.user_function import AlarmsEnd, call_function, call_name, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["load_outcome", "pickled_call", "refuse_calls", "run_pickled"]

_initializer_error: BaseException | None = None


def pickled_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, by_value: bool
) -> bytes:
    """Pickle a call for `run_pickled`.

    Args:
        function: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        by_value: Whether to send functions and classes of the main module by value, to workers that do not import it.

    Raises:
        NotPicklableError: It cannot be pickled; the message names the argument.
    """
    from amlsched.executors.pickling import dumps, names_main  # here and below, to keep `import amlsched` light

    call = (function, args, dict(kwargs))
    try:
        pickled = dumps(call, protocol=5)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a __reduce__ may raise anything; a lambda has to be pickled by value
        pass
    else:
        # cloudpickle takes five times as long, and differs only if the pickle refers to the main module by name.
        if not by_value or not names_main(pickled):
            return pickled
    from amlsched.executors.pickling import dump_by_value, pickled_by_value

    try:
        return pickled_by_value(call, protocol=5)
    except KeyboardInterrupt:
        raise
    except BaseException:
        dump_by_value(function, args, kwargs)  # raises an error that names the part
        raise


def run_pickled(call: bytes) -> bytes:
    """Run a call in the worker, and return its outcome for `load_outcome`."""
    import pickle

    from amlsched.executors.pickling import dumps

    function: Any = None
    try:
        function, args, kwargs = pickle.loads(call)
        if _initializer_error is not None:
            raise _start_error(function)
        with AlarmsEnd():
            result = call_function(function, args, kwargs)
    except BaseException as error:  # the driver handles it
        return _pickled_error(function, error)
    try:
        return dumps((result, None), protocol=5)
    except BaseException:  # a __reduce__ may raise anything, even SystemExit
        return _pickled_by_value(function, result)


def refuse_calls(reason: BaseException) -> None:
    """In a worker whose initializer raised: fail all of its calls from now on with a `WorkerStartError`."""
    global _initializer_error
    _initializer_error = reason


def load_outcome(outcome: bytes) -> tuple[Any, BaseException | None]:
    """Result or exception of a call from the output of `run_pickled`."""
    import pickle

    try:
        result, failure = pickle.loads(outcome)
    except BaseException as reason:  # the user's classes may raise anything, even SystemExit, when they are loaded
        return None, NotPicklableError("the call", "the result", describe(reason))
    if failure is None:
        return result, None
    from amlsched.executors.pickling import load_exception

    return None, load_exception(*failure)


def _start_error(function: Callable[..., Any]) -> WorkerStartError:

    error = WorkerStartError(
        call_name(function), f"did not start, its initializer raised {_initializer_error!r}", os.getpid()
    )
    error.__cause__ = _initializer_error
    return error


def _pickled_error(function: Callable[..., Any] | None, error: BaseException) -> bytes:
    import pickle

    from amlsched.executors.pickling import exception_parts

    if function is None:
        error = NotPicklableError(
            "the call", "the function or an argument", f"its worker cannot load it: {describe(error)}"
        )
    return pickle.dumps((None, (exception_parts(error), call_name(function))))


def _pickled_by_value(function: Callable[..., Any], result: object) -> bytes:
    from amlsched.executors.pickling import pickled_by_value, why_no_result

    try:
        return pickled_by_value((result, None), protocol=5)
    except BaseException as reason:
        error = NotPicklableError(call_name(function), "the result", why_no_result(result, reason))
        return _pickled_error(function, error)
