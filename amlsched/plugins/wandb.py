"""Runs each call in its own run of Weights & Biases."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from amlsched.errors import MissingExtraError
from amlsched.executors.user_function import call_function
from amlsched.task import Plugin
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WandbParams", "WandbPlugin"]

Mode = Literal["online", "offline", "disabled"]


@dataclass(frozen=True)
class WandbParams:
    """Arguments of `wandb.init`, by the same names.

    Attributes:
        dir: Where files are written, in a subfolder `wandb`.
        mode: `"offline"` writes files that `wandb sync` uploads later, and needs no network; `"disabled"` does nothing.
        reinit: `None` for a separate run if another one is open, otherwise for one that `wandb.log` uses.
        options: Other arguments of `wandb.init`.
    """

    project: str | None = None
    group: str | None = None
    job_type: str | None = None
    entity: str | None = None
    tags: list[str] | None = None
    notes: str | None = None
    reinit: bool | str | None = None
    resume: bool | str | None = None
    mode: Mode = "online"
    dir: str | Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def modify(self, **changes: Any) -> WandbParams:
        """A copy with other values."""
        return replace(self, **changes)

    def run(self, name: str, config: Mapping[str, Any] | None = None) -> Any:
        """Start a `wandb.Run`. Finish it, or use it as a context manager.

        Args:
            name: Its name.
            config: Its settings.
        """
        wandb: Any = import_module("wandb")
        arguments = {key: value for key, value in vars(self).items() if value is not None and key != "options"}
        if self.reinit is None and (wandb.run is not None or threading.current_thread() is not threading.main_thread()):
            arguments["reinit"] = "create_new"
        if self.dir is not None:
            Path(self.dir).mkdir(parents=True, exist_ok=True)
        return wandb.init(name=name, config=None if config is None else dict(config), **arguments, **self.options)


class WandbPlugin(Plugin):
    """Runs each call of the task in its own run of Weights & Biases, in its worker.

    The run is named after the function and the number of the call, and its config is the arguments of the call. If the
    result is a number, or a mapping that contains numbers, it becomes the summary. If the call raises, the run fails.

    The function can use its run by `wandb.run` and `wandb.log`. If calls run in threads, or a run is already open in
    the program, it can only use the run by its parameter `parameter_name`.

    If the first argument of a call is a trial, with `name` and `config`, these are used instead, its `extras["wandb"]`
    is the run during the call, and a returned report provides the summary by its `summary` and a table by its `df()`.

    Args:
        project: The project.
        group: Groups the runs.
        entity: The user or team that owns the runs.
        dir: Where files are written, in a subfolder `wandb`; `None` for the current folder.
        mode: `"online"`, `"offline"` to write files for `wandb sync` without network, or `"disabled"`.
        job_type: Type of the runs.
        tags: Tags of the runs.
        parameter_name: The function's parameter for its `wandb.Run`; `None` if it has none.
        modify: Called in the worker with the first argument of the call, or `None`, and the parameters of its run;
            returns the parameters to use.
        **options: Other arguments of `wandb.init`.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    name: ClassVar[str] = "wandb"

    def __init__(
        self,
        *,
        project: str,
        group: str | None = None,
        entity: str | None = None,
        dir: str | Path | None = None,  # noqa: A002  (wandb's name)
        mode: Mode = "online",
        job_type: str | None = None,
        tags: list[str] | None = None,
        parameter_name: str | None = None,
        modify: Callable[[Any, WandbParams], WandbParams] | None = None,
        **options: Any,
    ) -> None:
        if find_spec("wandb") is None:
            raise MissingExtraError("WandbPlugin", "wandb", "wandb")
        self.params = WandbParams(
            project=project,
            group=group,
            job_type=job_type,
            entity=entity,
            tags=tags,
            mode=mode,
            dir=Path(dir or ".").resolve(),
            options=options,
        )
        self.parameter_name = parameter_name
        self.modify = modify
        self._submitted = 0

    def trial_tracker(
        self, job_type: str = "trial", *, modify: Callable[[Any, WandbParams], WandbParams] | None = None
    ) -> WandbPlugin:
        """Create a plugin for another task, with the same project.

        Args:
            job_type: Type of its runs.
            modify: As of the constructor.
        """
        made = WandbPlugin(project=self.params.project or "", modify=modify, parameter_name=self.parameter_name)
        made.params = self.params.modify(job_type=job_type)
        return made

    def run(
        self,
        *,
        name: str,
        job_type: str | None = None,
        group: str | None = None,
        config: Mapping[str, Any] | None = None,
        tags: list[str] | None = None,
        resume: bool | str | None = None,
        notes: str | None = None,
    ) -> Any:
        """Start a `wandb.Run` for the program itself, such as one for the whole search. Finish it at the end.

        The arguments are those of `wandb.init`.
        """
        group = group if group is not None else self.params.group
        params = self.params.modify(job_type=job_type, group=group, tags=tags, resume=resume, notes=notes)
        return params.run(name, config)

    def pre_submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Wrap the function to run in a run of wandb."""
        self._submitted += 1
        return _InRun(fn, self._submitted, self.params, self.modify, self.parameter_name), args, kwargs

    def reset(self) -> None:
        """Number the calls from 1 again."""
        self._submitted = 0

    def __str__(self) -> str:
        return f"{self.name}: {counted(self._submitted, 'run')} in project {self.params.project} ({self.params.mode})"


class _InRun:
    """Sent to the worker in place of the function."""

    def __init__(
        self,
        function: Callable[..., Any],
        number: int,
        params: WandbParams,
        modify: Callable[[Any, WandbParams], WandbParams] | None,
        parameter_name: str | None,
    ) -> None:
        self.function, self.number, self.params = function, number, params
        self.modify, self.parameter_name = modify, parameter_name
        functools.update_wrapper(self, function, assigned=("__name__", "__qualname__"), updated=())

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        trial = args[0] if args else None
        params = self.params if self.modify is None else self.modify(trial, self.params)
        name, config = _name_and_config(self, self.number, args, kwargs)
        with params.run(name, config) as run:
            if self.parameter_name is not None:
                kwargs = {**kwargs, self.parameter_name: run}
            extras = getattr(trial, "extras", None)
            if not isinstance(extras, MutableMapping):
                result = call_function(self.function, args, kwargs)
            else:
                notes = cast("MutableMapping[str, Any]", extras)
                notes["wandb"] = run
                try:
                    result = call_function(self.function, args, kwargs)
                finally:
                    notes.pop("wandb", None)  # the trial is sent back, but a run cannot be
            _log_result(run, result)
        return result


def _name_and_config(
    function: Callable[..., Any], number: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    trial = args[0] if args else None
    name, config = getattr(trial, "name", None), getattr(trial, "config", None)
    if isinstance(name, str) and isinstance(config, Mapping):
        return name, {**config}
    try:
        arguments = dict(inspect.signature(function).bind_partial(*args, **kwargs).arguments)
    except (TypeError, ValueError):  # a builtin, or arguments that the function does not accept
        arguments = {**{str(i): value for i, value in enumerate(args)}, **kwargs}
    return f"{getattr(function, '__name__', 'call')}-{number}", {key: _plain(value) for key, value in arguments.items()}


def _plain(value: object) -> object:
    """The value in a form that a config can show."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in cast("Mapping[Any, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in cast("list[object]", value)]
    return f"<{type(value).__name__}>"


def _log_result(run: Any, result: Any) -> None:
    table = getattr(result, "df", None)
    summary = getattr(result, "summary", result)
    if callable(table) and summary is not result:
        run.log({"table": import_module("wandb").Table(dataframe=table())})
    if isinstance(summary, Number):
        run.summary.update({"result": summary})
    elif isinstance(summary, Mapping):
        named = cast("Mapping[str, Any]", summary)
        run.summary.update({key: value for key, value in named.items() if isinstance(value, Number)})
