"""Find everything that would go wrong in a run of a config, before anything runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.arrays import SYSTEMS, commands
from amlsched.arrays.slurm import SLURM
from amlsched.errors import AmlschedError, BatchSystemError, ConfigError, ExperimentError, NotPicklableError
from amlsched.experiments import jobs, layout
from amlsched.experiments.expand import count, expand
from amlsched.experiments.resolve import Resolved, resolve
from amlsched.experiments.target import Target, check_config_picklable, is_iterative
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from amlsched.experiments.expand import Debug
    from amlsched.experiments.mappings import Source
    from amlsched.experiments.resolve import Experiment

__all__ = ["Checked", "check", "missing_iterations"]

_MANY_RUNS = 100_000


@dataclass(slots=True)
class Checked:
    """The result of a check.

    Attributes:
        faults: The errors that would stop a run, without duplicates.
        notes: Hints about what works but may not be intended.
        experiments: The experiments without errors of their own.
    """

    faults: list[AmlschedError] = field(default_factory=list[AmlschedError])
    notes: list[str] = field(default_factory=list[str])
    experiments: list[Experiment] = field(default_factory=list["Experiment"])
    debug: Debug = ""

    def report(self, fault: AmlschedError) -> None:
        """Add an error, unless it is already there: one in a DEFAULT is found in all of its experiments."""
        if str(fault) not in map(str, self.faults):
            self.faults.append(fault)

    @property
    def n_jobs(self) -> int:
        """How many jobs the experiments without errors make."""
        return jobs.count(self)

    @property
    def n_repetitions(self) -> int:
        """How many repetitions the experiments without errors have."""
        return sum(count(one) * next(expand(one)).repetitions for one in self.experiments)


def check(
    config: Source,
    target: str | None = None,
    *,
    select: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Checked:
    """Find everything that would go wrong in a run of a config, without running or writing anything.

    Args:
        config: The config, as for `Plan`.
        target: The experiment to import and check as well, such as `train.py:Digits`.
        select: Names of experiments; none for all.
        overrides: Values that override those of the file.

    Raises:
        MissingExtraError: PyYAML is not installed.
    """
    checked = Checked()
    try:
        resolved = resolve(config, select, overrides=overrides, report=checked.report)
    except ConfigError as fault:  # the rest cannot be read
        checked.report(fault)
        return checked
    checked.experiments = resolved.experiments
    if target is not None:
        _check_target(target, checked)
    for folder in dict.fromkeys(map(layout.output_folder, resolved.experiments)):
        if problem := _not_writable(folder):
            checked.report(ExperimentError(f"results folder {folder}", problem, "set path in the config"))
    for wrong in (*resolved.sections.faults, *resolved.sections.other_faults):
        checked.report(wrong)
    checked.notes += [*resolved.notes, *resolved.sections.notes, *resolved.differences]
    for experiment in resolved.experiments:
        checked.notes += _names_told_apart(experiment)
    if resolved.cluster is not None:
        checked.notes += _section_notes(resolved, checked)
        checked.notes += _array_notes(checked.n_jobs)
    return checked


def _section_notes(resolved: Resolved, checked: Checked) -> list[str]:
    """A note if an environment or template of the section is missing here; it may exist on the cluster."""
    from amlsched.experiments.submit import asked

    section = resolved.cluster
    if checked.faults or section is None:
        return []
    try:
        asked(section, SYSTEMS[section.get("system", "slurm")], resolved)
    except ConfigError as fault:
        return [str(fault)]
    return []


def missing_iterations(made: Callable[[], Any], experiments: Iterable[Experiment]) -> Iterator[ConfigError]:
    """An error for each experiment without `iterations`, if the target is an IterativeExperiment.

    Args:
        made: What `Target.load` returned.
        experiments: The experiments.
    """
    if not is_iterative(made):
        return
    for experiment in experiments:
        if experiment.config.get("iterations") is None:
            problem = f"{getattr(made, '__name__', made)} is an IterativeExperiment, but the key iterations is missing"
            yield ConfigError(experiment.place(), problem, "add iterations: 10")


def _check_target(text: str, checked: Checked) -> None:
    try:
        target = Target.parse(text)
        made = target.load()
    except AmlschedError as fault:
        checked.report(fault)
        return
    for missing in missing_iterations(made, checked.experiments):
        checked.report(missing)
    try:
        target.check_picklable()
        for experiment in checked.experiments:
            check_config_picklable(experiment.name, experiment.config)
    except (ExperimentError, NotPicklableError) as fault:
        checked.report(fault)


def _not_writable(folder: Path) -> str:
    """Why this folder cannot be written, whether it exists yet or not; empty if it can."""
    place = Path(os.path.abspath(folder))  # noqa: PTH100  (a symbolic link may point anywhere)
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"cannot be created: {place} is a file"
    return "" if os.access(place, os.W_OK | os.X_OK) else f"cannot be written: no permission to write to {place}"


def _names_told_apart(experiment: Experiment) -> list[str]:
    """A note if runs of an experiment are not named as by cw2."""
    changed: list[str] = []
    for number, run in enumerate(expand(experiment)):
        if number >= _MANY_RUNS:
            break
        plain = "_".join(choice.label for choice in run.choices)
        if run.choices and not run.name.endswith(plain):
            changed.append(run.name)
    if not changed:
        return []
    reason = "because the name is already taken or is not valid for a folder"
    text = f"{counted(len(changed), 'run', 'have')} a suffix, {reason}"
    return [f"{experiment.place()}: {text}: {changed[0]}" + (", …" if len(changed) > 1 else "")]


def _array_notes(n_jobs: int) -> list[str]:
    """A note if the batch system accepts no array of this many jobs."""
    if shutil.which(SLURM.submit[0]) is None:
        return []
    try:
        most = commands.largest(SLURM)
    except BatchSystemError as error:
        return [f"the maximum size of an array is unknown: {error}"]
    if most is None or n_jobs <= most:
        return []
    return [f"{n_jobs} jobs do not fit in one array, which may have {most} here: several arrays will be submitted"]
