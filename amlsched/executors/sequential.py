"""An executor that runs each call immediately in `submit`, for debugging and tests."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from amlsched.executors._orphans import require_reaper
from amlsched.executors.capabilities import Capabilities
from amlsched.executors.user_function import AlarmsEnd, call_function

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SequentialExecutor"]

P = ParamSpec("P")
R = TypeVar("R")


class SequentialExecutor(Executor):
    """Runs every call in the caller's thread, so that a debugger can stop in the function.

    In a `Scheduler`, the calls run one after the other between turns of its loop, in the order of submission. Used on
    its own, `submit` returns a future that is already done.
    """

    capabilities = Capabilities(inline=True)

    def __init__(self) -> None:
        self._closed = False
        self._release_reaper: Callable[[], object] | None = None

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run the function, and return a future that is already done.

        Raises:
            RuntimeError: The executor was shut down.
            KeyboardInterrupt: Ctrl-C was pressed while the function ran; it is raised rather than set in the future.
        """
        future: Future[R] = Future()
        self._begin()
        future.set_running_or_notify_cancel()
        try:
            with AlarmsEnd():
                result: R = call_function(fn, args, kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def execute(self, function: Callable[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> R:
        """Run the function, and return its result without a future.

        Raises:
            RuntimeError: The executor was shut down.
        """
        self._begin()
        with AlarmsEnd():
            return call_function(function, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls. There is never anything to wait for."""
        self._closed = True
        if self._release_reaper is not None:
            self._release_reaper()

    def _begin(self) -> None:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._release_reaper is None:
            self._release_reaper = require_reaper(self)
