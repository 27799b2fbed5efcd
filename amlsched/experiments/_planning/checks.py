"""Find what would go wrong in a run: everything, for `amlsched config check`; or the first error, before a run."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._files import file_bytes
from amlsched.batch_systems import SYSTEMS, commands
from amlsched.batch_systems.slurm import SLURM
from amlsched.errors import AmlschedError, BatchSystemError, ConfigError, ExperimentError, NotPicklableError
from amlsched.experiments._arrays.cluster_options import array_options
from amlsched.experiments._code import copy
from amlsched.experiments._config.expand import count, expand
from amlsched.experiments._config.reporting import add_once
from amlsched.experiments._config.resolve import Resolved, resolve
from amlsched.experiments._planning import jobs
from amlsched.experiments._planning.config_changes import differences, hashes
from amlsched.experiments._storage import layout, record_file
from amlsched.experiments._storage.record import Record, State
from amlsched.experiments.target import Target, check_config_picklable, is_iterative
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from amlsched.experiments._config.document import Source
    from amlsched.experiments._config.expand import Debug, Run
    from amlsched.experiments._config.resolve import ResolvedExperiment
    from amlsched.experiments.plan import Plan

__all__ = ["Checked", "check", "check_run"]

_SHOWN_RUNS = 5
_SHOWN_CHANGES = 20
_MANY_RUNS = 100_000
_IN_THIS_PROCESS = ("sequential", "threads")
"""Executors that run calls in this process, without pickling them."""


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
    experiments: list[ResolvedExperiment] = field(default_factory=list["ResolvedExperiment"])
    debug: Debug = ""

    def report(self, fault: AmlschedError) -> None:
        """Add an error, unless it is already there: one in a DEFAULT is found in all of its experiments."""
        add_once(self.faults, fault)

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
    section = resolved.cluster
    if checked.faults or section is None:
        return []
    try:
        array_options(section, SYSTEMS[section.get("system", "slurm")], resolved)
    except ConfigError as fault:
        return [str(fault)]
    return []


def _check_target(text: str, checked: Checked) -> None:
    try:
        target = Target.parse(text)
        made = target.load()
    except AmlschedError as fault:
        checked.report(fault)
        return
    for missing in _missing_iterations(made, checked.experiments):
        checked.report(missing)
    try:
        _check_picklable(target, checked.experiments)
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


def _names_told_apart(experiment: ResolvedExperiment) -> list[str]:
    """A note if runs of an experiment are not named as by cw2."""
    changed: list[str] = []
    for run in islice(expand(experiment), _MANY_RUNS):
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


# --------------------------------------------------------------------------------------------------------- before a run


def check_run(target: Target, plan: Plan, executor: str, *, keep_changed: bool) -> None:
    """Import the experiment, and check that the plan can run with it here.

    Args:
        target: The experiment.
        plan: The repetitions.
        executor: Name of the executor.
        keep_changed: Whether to accept repetitions that were run with other settings under the same name.

    Raises:
        CodeCopyError: A copy of the code was made for this job, but the experiment was not imported from it.
        ConfigError: The config does not suit the experiment.
        ExperimentError: The experiment cannot be imported or sent to workers, a results folder cannot be written, or
            repetitions were run with other settings.
    """
    copy.check_runs_from(target.module())
    made = target.load()
    if not plan.debug:
        for fault in _missing_iterations(made, plan.experiments):
            raise fault
    if executor not in _IN_THIS_PROCESS:
        _check_picklable(target, plan.experiments)
    if not plan.debug and not keep_changed:
        _check_unchanged(plan)
    for path in plan.paths:
        _check_writable(path)


def _check_writable(path: Path) -> None:
    """Create the folder, and try to write to it.

    Raises:
        ExperimentError: It cannot be created or written.
    """
    probe = path / f".amlsched-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        where = f"results folder {path}"
        raise ExperimentError(
            where, f"cannot be written: {error.strerror}", "set path in the config, or --results"
        ) from error


def _check_picklable(target: Target, experiments: Iterable[ResolvedExperiment]) -> None:
    target.check_picklable()
    for experiment in experiments:
        check_config_picklable(experiment.name, experiment.config)


def _missing_iterations(made: Callable[[], Any], experiments: Iterable[ResolvedExperiment]) -> Iterator[ConfigError]:
    """An error for each experiment without `iterations`, if the target is an IterativeExperiment."""
    if not is_iterative(made):
        return
    for experiment in experiments:
        if experiment.config.get("iterations") is None:
            problem = f"{getattr(made, '__name__', made)} is an IterativeExperiment, but the key iterations is missing"
            yield ConfigError(experiment.place(), problem, "add iterations: 10")


def _check_unchanged(plan: Plan) -> None:
    """Check that no repetition was run with other settings under the same name.

    Repetitions that will run again anyway are not checked.

    Raises:
        ExperimentError: Some were; the message shows what differs.
    """
    runs: dict[tuple[str, ...], list[str]] = {}
    count = 0
    for path, run in plan.runs():
        for known in _changed(plan, path, run):
            count += 1
            names = runs.setdefault(tuple(differences(known, run.at(known.rep))), [])
            if run.name not in names[-1:]:
                names.append(run.name)
    if not runs:
        return
    lines = [f"{counted(count, 'repetition', 'were')} run with other settings under the same name"]
    for changes, names in list(runs.items())[:_SHOWN_RUNS]:
        lines.append(f"  {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}:")
        lines += [f"    {line}" for line in changes[:_SHOWN_CHANGES]]
    if len(runs) > _SHOWN_RUNS:
        lines.append(f"  … and {sum(map(len, list(runs.values())[_SHOWN_RUNS:]))} more runs")
    remedy = "-o runs them again, --keep-changed leaves them as they are, another name keeps both"
    raise ExperimentError(str(plan.config), "\n".join(lines) + "\n", remedy)


def _changed(plan: Plan, path: Path, run: Run) -> Iterator[Record]:
    if not layout.run_folder(path, run).is_dir():
        return
    hash_at = hashes(run)
    for index in plan.indices(run):
        folder = layout.repetition_folder(path, run, index)
        try:
            if hash_at(index).encode() in file_bytes(folder / layout.RECORD, wait_s=0):
                continue  # without parsing the record: for 100,000 of them that takes seconds
        except OSError:
            continue
        known = record_file.read(folder)
        if (
            known.state is not State.UNKNOWN
            and known.config_hash != hash_at(index)
            and not plan.is_rerun(run, known.state)
        ):
            yield known
