"""Calls pickled where they are submitted.

The standard library's and loky's pools of processes pickle a call in a thread of theirs: what cannot be pickled is
found out late, without the name of the argument, and what becomes of an argument meanwhile changes the call.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["pickled_call", "run_pickled"]


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


def run_pickled(call: bytes) -> Any:
    """What the function returns. Runs in the worker."""
    function, args, kwargs = pickle.loads(call)
    return function(*args, **kwargs)
