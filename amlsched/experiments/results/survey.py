"""Find and count the repetitions in a folder of results. Nothing here creates or changes a file."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._spelling import meant_file
from amlsched._surroundings import expanded
from amlsched.errors import ConfigError, ExperimentError
from amlsched.experiments._config import expand
from amlsched.experiments._config.axes import DEBUG_FOLDER
from amlsched.experiments._config.values import is_list, is_mapping, jsonable
from amlsched.experiments._running.summary import Summary
from amlsched.experiments._storage import claims, layout, record_file
from amlsched.experiments._storage.record import Record, State
from amlsched.experiments.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

logger = logging.getLogger(__name__)

__all__ = [
    "OWN",
    "Found",
    "about",
    "existing_folder",
    "leaves",
    "run_config",
    "survey",
    "summarized",
]

_PATH = "it is the `path` key of the config"


@dataclass(frozen=True, slots=True)
class Found:
    """A repetition in a folder of results.

    Attributes:
        name: Name of the experiment; in a copied, moved or renamed folder, the path of that folder.
        run: Name of the run; in such a folder, prefixed with that path.
        rep: Index of the repetition.
        folder: Its folder.
        params: The parameters of its run.
        record: Its record.
        origin: Name of the experiment that wrote a copied, moved or renamed folder; otherwise empty.
    """

    name: str
    run: str
    rep: int
    folder: Path
    params: dict[Any, Any]
    record: Record
    origin: str = ""

    @property
    def has_lost_worker(self) -> bool:
        """Whether it runs by its record, and its worker is known to be gone."""
        return self.record.state is State.RUNNING and claims.holder(self.folder) is None


_OWN: dict[str, Callable[[Found], Any]] = {
    "name": lambda found: found.name,
    "r": lambda found: found.rep,
    "run": lambda found: found.run,
    "state": lambda found: found.record.state.value,
    "seconds": lambda found: found.record.seconds,
    "seed": lambda found: None if found.record.state is State.PENDING else found.record.seed,
    "folder": lambda found: str(found.folder),
}
OWN = tuple(_OWN)
"""Columns that `load` always returns, in their order; parameters and metrics stand behind `state`."""


def existing_folder(results: str | Path) -> Path:
    """An existing folder of results.

    Raises:
        ExperimentError: There is no such folder.
    """
    folder = expanded(results, f"results folder {results}")
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "there is no such folder"
        raise ExperimentError(f"results folder {folder}", problem, meant_file(folder) or _PATH)
    return folder


def survey(results: str | Path) -> Iterator[Found]:
    """Yield every repetition in a folder of results: those of its configs, started or not, then others with a record.

    A folder that was copied, moved or renamed is listed under its own path, and never counted with the original. Its
    missing repetitions are not listed, because no run will create them. A folder with several links is listed once.

    Args:
        results: The folder for the results, the `path` of a config; or the folder of one experiment in it.

    Raises:
        ExperimentError: There is no such folder, or it contains no results of amlsched.
    """
    folder = existing_folder(results)
    own = (folder / layout.RESOLVED_CONFIG).is_file()
    places = [folder] if own else sorted(file.parent for file in folder.glob(f"*/{layout.RESOLVED_CONFIG}"))
    places.sort(key=lambda place: place.is_symlink())  # the folder itself before the links to it
    base = (folder.parent if own else folder).absolute()  # not resolved: a link has its own name
    listed: set[str] = set()
    seen: set[str] = set()
    for place in places:
        real = os.path.realpath(place)
        if real not in listed:
            listed.add(real)
            for found in _of_config(place.absolute(), base):
                seen.add(real + str(found.folder)[len(str(place.absolute())) :])
                yield found
    for place in _repetition_folders(folder):
        real = os.path.realpath(place)
        if real not in seen:
            seen.add(real)
            record = record_file.read(place)
            if record.state is not State.PENDING:
                yield _found_by_record(place.absolute(), record, base)
    if not seen:
        raise ExperimentError(f"results folder {folder}", "contains no repetitions of amlsched", _PATH)


def _of_config(place: Path, base: Path) -> Iterator[Found]:
    """The repetitions of the resolved config in an experiment's folder."""
    file = place / layout.RESOLVED_CONFIG
    try:
        plan = Plan(file)
        paths = {experiment.name: plan.path(experiment) for experiment in plan.experiments}
    except ConfigError as error:  # not ours, or damaged; its repetitions are found by their records
        if next(_repetition_folders(place), None) is not None:
            logger.warning("%s\n  The repetitions in %s are only listed by their records", error, place)
        return
    if any("_path_relative_to" not in experiment.config for experiment in plan.experiments):
        return  # a config of the user, which happens to be here
    for experiment in plan.experiments:
        path = paths[experiment.name]
        written_for = layout.resolved_config_folder(path, experiment)
        moved = os.path.relpath(written_for, path) != os.path.relpath(place, path)
        label = _label(place, base) if moved else experiment.name
        for run in expand.expand(experiment):
            home = place / os.path.relpath(layout.run_folder(path, run), written_for) / "log"
            begun = home.is_dir()
            of_run = jsonable(run.params)
            for index in plan.indices(run):
                folder = home / layout.repetition_name(index)
                known = plan.known(run, index, folder) if begun else Record()
                if moved and known.state is State.PENDING:
                    continue
                own = run.at(index)
                wanted = of_run if own is run else jsonable(own.params)
                # After a change of the config that its records were kept under, they are what was run.
                ran_with = known.params if known.attempts and jsonable(known.params) != wanted else own.params
                name = _relabelled(run.name, experiment.name, label)
                yield Found(label, name, index, folder, ran_with, known, experiment.name if moved else "")


def _found_by_record(place: Path, record: Record, base: Path) -> Found:
    """A repetition that no config here has."""
    run = record.run or place.parent.parent.name
    name = record.name or run
    home = place.parent.parent
    nested = [] if run == name else [run]
    at_home = home.parent if nested and home.name == run else home
    if at_home in (base, base.parent):  # asked for the folder of a run
        return Found(name, run, record.rep, place, record.params, record)
    if place.name != layout.repetition_name(record.rep):
        label = run_label = _label(place, base)
    elif nested and home.name != run:
        label = run_label = _label(home, base)
    else:
        label = _label(at_home, base)
        run_label = _relabelled(run, name, label)
    return Found(label, run_label, record.rep, place, record.params, record, name if label != name else "")


def _label(place: Path, base: Path) -> str:
    """The path of a folder, relative to that of the results."""
    return os.path.relpath(place, base)


def _relabelled(run: str, name: str, label: str) -> str:
    """The name of a run, in a folder that may not be its experiment's."""
    if label == name:
        return run
    return label if run == name else f"{label}/{run}"


def _repetition_folders(folder: Path) -> Iterator[Path]:
    """The folders such as `log/rep_00` below a folder, at any depth, without descending into them."""
    for place, folders, _ in os.walk(folder):
        folders.sort()
        if Path(place).name == "log":
            yield from (Path(place, name) for name in folders if name.startswith("rep_"))
            folders.clear()
        elif Path(place).name == DEBUG_FOLDER and Path(place) != folder:
            folders.clear()


def summarized(found: Iterable[Found]) -> Summary:
    """Count repetitions by run and by state."""
    summary = Summary()
    elsewhere: dict[str, str] = {}
    for one in found:
        if one.origin and one.name not in elsewhere:
            elsewhere[one.name] = one.origin
            summary.notes.append(
                f"{one.name}: holds repetitions of {one.origin} (a copied, moved or renamed folder), counted apart"
            )
        summary.expect(one.run, 1)
        summary.add(one.run, one.rep, one.folder, one.record)
        if one.has_lost_worker:
            summary.notes.append(f"{one.run} rep {one.rep}: its worker is gone; the next run resumes it")
    return summary


def run_config(folder: Path, params: dict[Any, Any]) -> dict[str, Any]:
    """The config that runs the run of a repetition again, as an experiment of its own, without `name` and `path`.

    Args:
        folder: The folder of the repetition.
        params: The parameters of the run.

    Returns:
        The keys of its experiment that are set in the config next to its results, and the parameters; only these if
        there is no such config.
    """
    config: dict[str, Any] = {}
    for place in folder.parents[1:4]:  # log, the run, the experiment
        file = place / layout.RESOLVED_CONFIG
        if file.is_file():
            try:
                experiment = Plan(file).experiments[0]
            except ConfigError:
                break
            run = next(expand.expand(experiment))
            own = {key for key in experiment.config if not key.startswith("_")}
            config = {key: value for key, value in run.config.items() if key in own - {"name", "path"}}
            break
    return config | {"params": params}


def about(found: Found) -> dict[str, Any]:
    """The values of a repetition in the columns `OWN`."""
    return {name: value(found) for name, value in _OWN.items()}


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of nested mappings and lists, each with its path; an empty mapping or list is a leaf."""
    below: Iterable[tuple[Any, Any]] = ()
    if is_mapping(value):
        below = value.items()
    elif is_list(value):
        below = enumerate(value)
    if path and (not below or not value):
        yield path, value
        return
    for key, item in below:
        yield from leaves(item, (*path, str(key)))
