"""What lies in a folder of results. Nothing here makes or changes a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.errors import ConfigError, ExperimentError, MissingExtraError
from amlsched.experiments import claims, layout, records
from amlsched.experiments.names import DEBUG_FOLDER
from amlsched.experiments.plan import Plan
from amlsched.experiments.record import Record, State
from amlsched.experiments.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from amlsched.experiments.frame import Results

__all__ = [
    "OWN",
    "Found",
    "about",
    "columns",
    "flattened",
    "iterations",
    "load",
    "pandas_for",
    "row",
    "survey",
    "tallied",
]

OWN = ("name", "r", "run", "state", "seconds", "seed", "folder")
"""Columns of `load` that are always there."""


@dataclass(frozen=True, slots=True)
class Found:
    """A repetition in a folder of results.

    Attributes:
        name: Name of the experiment.
        run: Name of the run.
        rep: Index of the repetition.
        folder: Its folder.
        params: The settings of its run.
        record: What its record says.
    """

    name: str
    run: str
    rep: int
    folder: Path
    params: dict[Any, Any]
    record: Record


def survey(results: str | Path) -> Iterator[Found]:
    """Every repetition of a folder of results: those of its configs, begun or not, then others that left a record.

    Args:
        results: The folder for the results, the `path` of a config; or the folder of one experiment in it.

    Raises:
        ExperimentError: There is no such folder, or nothing of amlsched in it.
    """
    folder = Path(results)
    if not folder.is_dir():
        raise ExperimentError(f"results folder {folder}", "there is no such folder", "it is the path in the config")
    seen: set[str] = set()
    for config in _configs(folder):
        for found in _of_config(config):
            seen.add(str(found.folder))
            yield found
    for place in _repetition_folders(folder):
        if str(place.resolve()) not in seen:
            seen.add(str(place))
            record = records.read(place)
            if record.state is not State.PENDING:
                run = record.run or place.parent.parent.name
                yield Found(record.name or run, run, record.rep, place, record.params, record)
    if not seen:
        raise ExperimentError(
            f"results folder {folder}", "has no repetition of amlsched in it", "it is the path in the config"
        )


def _configs(folder: Path) -> list[Path]:
    own = folder / layout.RESOLVED_CONFIG
    return [own] if own.is_file() else sorted(folder.glob(f"*/{layout.RESOLVED_CONFIG}"))


def _of_config(config: Path) -> Iterator[Found]:
    try:
        plan = Plan(config.resolve())
    except ConfigError:
        return  # not ours; what it left is found by its records
    if any("_path_relative_to" not in experiment.config for experiment in plan.experiments):
        return  # a config of the user's, which happens to lie here
    for path, run in plan.runs():
        params = run.params
        for planned in plan.repetitions(run, path):
            yield Found(run.experiment_name, run.name, planned.index, planned.folder, params, planned.known)


def _repetition_folders(folder: Path) -> Iterator[Path]:
    """Folders such as `log/rep_00`, below any other folder; nothing is looked for inside them."""
    for place, folders, _ in os.walk(folder):
        folders.sort()
        if Path(place).name == "log":
            yield from (Path(place, name) for name in folders if name.startswith("rep_"))
            folders.clear()
        elif Path(place).name == DEBUG_FOLDER and Path(place) != folder:
            folders.clear()


def tallied(found: Iterable[Found]) -> Summary:
    """The numbers of repetitions, by run and by state."""
    summary = Summary()
    for one in found:
        summary.expect(one.run, 1)
        summary.count(one.run, one.record.state, one.record.last, one.record.seconds, one.record.used)
        if one.record.state is State.RUNNING and claims.holder(one.folder) is None:
            summary.notes.append(f"{one.run} rep {one.rep}: its worker is gone; the next run takes it up")
        if one.record.state in (State.FAILED, State.UNKNOWN):
            summary.failed.append((f"{one.run} rep {one.rep}", one.folder, one.record.reason))
    return summary


def load(results: str | Path) -> Results:
    """The repetitions of a folder of results, one a row.

    Returns:
        A `pandas.DataFrame` with the index `(name, r)`: name of the experiment and index of the repetition. Columns:
        `run`, `state`; the parameters, nested ones joined by `_` as in `opt_lr`; the last value of each metric
        (`metric_last` where a parameter of any run has that name); `seconds`, `seed`, `folder`. What a repetition
        lacks is NaN or None. See `Results` for what it can do beyond pandas.

    Raises:
        ExperimentError: There is no such folder, or nothing of amlsched in it.
        MissingExtraError: pandas is not installed.
    """
    pandas_for("experiments.load")
    from amlsched.experiments.frame import table_of

    return table_of(survey(results))


def iterations(results: str | Path) -> pd.DataFrame:
    """All rows that the repetitions of a folder of results logged; the same as `load(results).iterations()`.

    Raises:
        ExperimentError: There is no such folder, or nothing of amlsched in it, or nothing was logged.
        MissingExtraError: pandas is not installed.
    """
    return load(results).iterations()


def row(found: Found) -> dict[str, Any]:
    """What is told of a repetition in one mapping: about it, its parameters, the last values that it logged."""
    settings, metrics = columns(found)
    known = about(found)
    return {**{name: known[name] for name in OWN[:4]}, **settings, **metrics, **{name: known[name] for name in OWN[4:]}}


def about(found: Found) -> dict[str, Any]:
    """What `load` tells of any repetition: the columns `OWN`."""
    seed = None if found.record.state is State.PENDING else found.record.seed
    values = (found.name, found.rep, found.run, found.record.state.value, found.record.seconds, seed, str(found.folder))
    return dict(zip(OWN, values, strict=True))


def columns(found: Found) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a repetition and the last values that it logged, by the names of their columns."""
    settings = {f"params_{key}" if key in OWN else key: value for key, value in flattened(found.params)}
    last = found.record.last.items()
    return settings, {f"{key}_last" if key in settings or key in OWN else key: value for key, value in last}


def flattened(mapping: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists, their keys joined by `_`, as cw2 does."""
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        nested: dict[Any, Any] | None = None
        if isinstance(value, dict):
            nested = value  # pyright: ignore[reportUnknownVariableType]
        elif isinstance(value, list):
            items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
            nested = dict(enumerate(items))
        if nested is not None:
            yield from flattened(nested, f"{name}_")
        else:
            yield name, value


def pandas_for(what: str) -> Any:
    """The module pandas, for what needs it."""
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise MissingExtraError(what, "pandas", "results") from error
    return pandas
