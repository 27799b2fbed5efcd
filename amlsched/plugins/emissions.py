"""Estimates the carbon emissions of calls, by codecarbon."""

from __future__ import annotations

import functools
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from amlsched.errors import MissingExtraError
from amlsched.executors.user_function import call_function
from amlsched.task import Plugin

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EmissionsTrackerPlugin"]


class EmissionsTrackerPlugin(Plugin):
    """Runs each call of the task under a tracker of codecarbon, in its worker.

    With `country_iso_code`, this is codecarbon's offline tracker, which needs no network. Without it, codecarbon asks a
    service on the Internet where the machine is.

    The tracker measures the whole machine. If several calls run on it, each is charged with all of them, unless
    `tracking_mode="process"` is given.

    Args:
        *args: Arguments of `codecarbon.EmissionsTracker`.
        **kwargs: Its keyword arguments, and those of `codecarbon.OfflineEmissionsTracker`. By default, `project_name`
            is the name of the function, and `allow_multiple_runs` is true.

    Raises:
        MissingExtraError: codecarbon is not installed.
    """

    name: ClassVar[str] = "emissions-tracker"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if find_spec("codecarbon") is None:
            raise MissingExtraError("EmissionsTrackerPlugin", "codecarbon", "emissions")
        self.codecarbon_args = args
        self.codecarbon_kwargs = {"allow_multiple_runs": True, **kwargs}

    def pre_submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Wrap the function to run under a tracker."""
        return _Tracked(fn, self.codecarbon_args, self.codecarbon_kwargs), args, kwargs

    def __str__(self) -> str:
        given = [
            *map(repr, self.codecarbon_args),
            *(f"{key}={value!r}" for key, value in self.codecarbon_kwargs.items()),
        ]
        return f"{self.name}: {', '.join(given)}"


class _Tracked:
    """Sent to the worker in place of the function."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        functools.update_wrapper(self, function, assigned=("__name__", "__qualname__"), updated=())

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        codecarbon = import_module("codecarbon")
        offline = self.kwargs.get("country_iso_code") is not None
        tracker = codecarbon.OfflineEmissionsTracker if offline else codecarbon.EmissionsTracker
        options = self.kwargs
        if not self.args and "project_name" not in options:
            options = {"project_name": getattr(self, "__name__", "amlsched"), **options}
        with tracker(*self.args, **options):
            return call_function(self.function, args, kwargs)
