"""Calls pickled where they are submitted, and outcomes pickled where they arise.

The standard library's and loky's pools of processes pickle a call in a thread of theirs: what cannot be pickled is
found out late, without the name of the argument, and what becomes of an argument meanwhile changes the call. And an
exception that cannot be loaded breaks the whole pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amlsched.errors import NotPicklableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["load_outcome", "pickled_call", "run_pickled"]


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
    import pickle  # here and below: not for `import amlsched`

    call = (function, args, dict(kwargs))
    if not by_value:
        try:
            return pickle.dumps(call, protocol=5)
        except Exception:  # whatever a __reduce__ raises: a lambda goes by value
            pass
    from amlsched.executors._calls import dump_by_value, pickled_by_value

    try:
        return pickled_by_value(call, protocol=5)
    except Exception:
        dump_by_value(function, args, kwargs)  # finds out which part it was, and says so
        raise


def run_pickled(call: bytes) -> bytes:
    """Run a call in the worker; what `load_outcome` makes a result or an exception of."""
    import pickle

    from amlsched.executors._calls import call_name, describe, exception_parts, pickled_by_value

    name = "the call"
    error: BaseException
    try:
        function, args, kwargs = pickle.loads(call)
    except Exception as reason:
        error = NotPicklableError(name, "an argument", f"its worker cannot load it: {describe(reason)}")
        return pickle.dumps((name, None, exception_parts(error)))
    name = call_name(function)
    try:
        result = function(*args, **kwargs)
    except BaseException as raised:  # the driver decides what it does
        return pickle.dumps((name, None, exception_parts(raised)))
    try:
        return pickle.dumps((name, result, None), protocol=5)
    except Exception:
        try:
            return pickled_by_value((name, result, None), protocol=5)
        except Exception as reason:
            error = NotPicklableError(name, "the result", describe(reason))
            return pickle.dumps((name, None, exception_parts(error)))


def load_outcome(outcome: bytes) -> tuple[Any, BaseException | None]:
    """Result or exception of a call that `run_pickled` ran."""
    import pickle

    from amlsched.executors._calls import describe, load_exception

    try:
        name, result, parts = pickle.loads(outcome)
    except Exception as reason:  # whatever the user's classes raise while they are loaded
        return None, NotPicklableError("the call", "the result", describe(reason))
    return (result, None) if parts is None else (None, load_exception(parts, name))
