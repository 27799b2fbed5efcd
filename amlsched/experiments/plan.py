"""The plan of a run: the repetitions of a config, with their records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from amlsched._spelling import did_you_mean
from amlsched._surroundings import expanded
from amlsched.errors import ExperimentError
from amlsched.experiments._config import expand
from amlsched.experiments._config.resolve import resolve
from amlsched.experiments._config.values import jsonable
from amlsched.experiments._planning import jobs
from amlsched.experiments._planning.config_changes import hashes
from amlsched.experiments._storage import claims, layout, record_file
from amlsched.experiments._storage.record import Record, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from amlsched.experiments._config.document import Source
    from amlsched.experiments._config.expand import Debug, Run
    from amlsched.experiments._config.resolve import ResolvedExperiment

__all__ = ["Plan", "Planned"]

_KEYWORDS = ("all", "failed", "unknown", "cancelled", "preempted", "completed", "surrendered")


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A repetition of the plan.

    Attributes:
        run: The run that it belongs to.
        index: Its index.
        results: The folder for all results of its experiment, absolute.
        folder: Its own folder.
        known: Its record.
        todo: Whether to run it now.
        note: Why it is skipped, if that is worth mentioning.
        changed: Whether it was run with other settings than the current config's.
    """

    run: Run
    index: int
    results: Path
    folder: Path
    known: Record
    todo: bool
    note: str = ""
    changed: bool = False

    @property
    def iterations(self) -> int | None:
        """Iterations that it is to run; `None` if not set."""
        return self.run.iterations

    def __str__(self) -> str:
        return f"{self.run.name} rep {self.index}"


class Plan:
    """The repetitions of a config.

    They are generated lazily: a plan of 100,000 runs takes no more memory than one of ten.

    Args:
        config: The config file; or its content: a mapping for a single document, or a list of mappings, also those of
            OmegaConf. Paths in it are then relative to the working folder.
        select: Name or names of experiments; none for all.
        debug: `""`, `"debug"` or `"debugall"`.
        results: The folder for the results, instead of the config's `path`.
        rerun: What to run again although it has ended: states, `all`, or names of experiments or runs.
        job: The number of the only job to plan, from 0; `None` for all.
        overrides: Values that override those of the file, as for `amlsched run --set`: `params.lr=0.1`.
        root: Relative folders of results are relative to it; empty for the working folder.
        prefix: Prefix of the names of the experiments.

    Raises:
        ConfigError: The config is invalid.
        ExperimentError: A name in `rerun` is neither a state nor a name in the config, or there is no such job.
    """

    def __init__(
        self,
        config: Source,
        *,
        select: Iterable[str] = (),
        debug: Debug = "",
        results: str | Path | None = None,
        rerun: Iterable[str] = (),
        job: int | None = None,
        overrides: Iterable[str] = (),
        root: str | Path = "",
        prefix: str = "",
    ) -> None:
        self.debug: Debug = debug
        self.overrides = _as_tuple(overrides)
        self.resolved = resolve(config, _as_tuple(select), overrides=self.overrides)
        self.config = self.resolved.file
        self.experiments: list[ResolvedExperiment] = [_prefixed(one, prefix) for one in self.resolved.experiments]
        self._root = Path(root)
        self._results = None if results is None else expanded(results, f"results folder {results}")
        self.rerun = frozenset(_as_tuple(rerun))
        self._job = job
        self.bundle: jobs.Bundle | None = None
        self._check_rerun()
        self._choose_job()

    def _choose_job(self) -> None:
        if self._job is not None:
            self.bundle = jobs.bundle(self, self._job)

    def replace(self, experiments: Iterable[ResolvedExperiment]) -> None:
        """Replace the experiments by others of the same names, which must have the same runs."""
        self.experiments = list(experiments)
        self._choose_job()

    def path(self, experiment: ResolvedExperiment) -> Path:
        """The folder for the results of an experiment, as written by the user."""
        return self._root / (self._results or layout.output_folder(experiment))

    @property
    def paths(self) -> list[Path]:
        """The folders for the results, without duplicates."""
        return list(dict.fromkeys(self.path(experiment) for experiment in self.experiments))

    def runs(self) -> Iterator[tuple[Path, Run]]:
        """The runs, each with the absolute folder for the results."""
        for experiment in self.experiments:
            if self.bundle is not None and self.bundle.experiment != experiment.name:
                continue
            path = self.path(experiment).resolve()
            for run in expand.expand(experiment, self.debug) if self.bundle is None else self.bundle.runs:
                yield path, run

    def indices(self, run: Run) -> Sequence[int]:
        """The indices of the planned repetitions of a run."""
        return range(run.repetitions) if self.bundle is None else self.bundle.indices(run)

    def count(self) -> tuple[int, int]:
        """The number of runs and the number of repetitions."""
        if self.bundle is not None:
            return len(self.bundle.runs), len(self.bundle.members)
        n_runs = n_repetitions = 0
        for experiment in self.experiments:
            count = expand.count(experiment, self.debug)
            n_runs += count
            n_repetitions += count * next(expand.expand(experiment, self.debug)).repetitions
        return n_runs, n_repetitions

    def repetitions(self, run: Run, path: Path) -> Iterator[Planned]:
        """The repetitions of a run, with their current records."""
        folder = layout.run_folder(path, run)
        begun, hash_at = folder.is_dir(), hashes(run)
        for index in self.indices(run):
            place = layout.repetition_folder(path, run, index)
            known = self.known(run, index, place) if begun else Record()
            yield self._planned(run, index, path, place, known, hash_at(index) if known.config_hash else "")

    def repetition(self, run: Run, index: int, path: Path) -> Planned:
        """One repetition of a run, with its current record."""
        place = layout.repetition_folder(path, run, index)
        return self._planned(run, index, path, place, self.known(run, index, place), hashes(run)(index))

    def again(self, planned: Planned) -> Planned:
        """The repetition with its current record."""
        return self.repetition(planned.run, planned.index, planned.results)

    def known(self, run: Run, index: int, folder: Path) -> Record:
        """The record in the folder of a repetition; its state is `unknown` if it belongs to another repetition."""
        record = record_file.read(folder)
        if not record.attempts or (record.rep == index and record.run == run.name):
            return record
        if record.rep == index and jsonable(record.params) == jsonable(run.at(index).params):
            return record  # the experiment or its expansions were renamed, and the folder with them
        problem = f"{folder / layout.RECORD}: the record of {record.run} rep {record.rep}, copied or moved here"
        problem += " (remove the folder, or run with --rerun unknown)"
        return Record(state=State.UNKNOWN, attempts=record.attempts, problem=problem)

    def starts_from_scratch(self, planned: Planned) -> bool:
        """Whether `rerun` makes a repetition start from scratch, even if it has saved a checkpoint."""
        return bool(self.rerun & {"all", planned.run.experiment_name, planned.run.name})

    def is_rerun(self, run: Run, state: State) -> bool:
        """Whether `rerun` includes the repetitions of a run that are in this state."""
        return bool(self.rerun & {"all", state.value, run.experiment_name, run.name})

    def _planned(self, run: Run, index: int, results: Path, folder: Path, known: Record, made_of: str) -> Planned:
        asked = self.is_rerun(run, known.state)
        changed = bool(known.config_hash) and known.config_hash != made_of
        todo, note = known.state is State.PENDING or asked, ""
        if known.state is State.RUNNING:
            owner = claims.holder(folder)
            todo = owner is None
            note = "" if owner is None else f"is running in process {owner.process.pid} on {owner.process.host}"
        elif known.state in (State.CANCELLED, State.PREEMPTED):
            todo = True
        elif known.state is State.UNKNOWN and not todo:
            note = known.problem
        if changed and known.state is not State.RUNNING and not asked:
            todo = bool(self.debug)  # a debug run runs again when the config has changed
        return Planned(run, index, results, folder, known, todo, note, changed)

    def _check_rerun(self) -> None:
        names = self.rerun.difference(_KEYWORDS, (experiment.name for experiment in self.experiments))
        if not names:
            return
        missing = set(names)
        for _, run in self.runs():
            missing.discard(run.name)
            if not missing:
                return
        experiments = [experiment.name for experiment in self.experiments]
        listed = f"an experiment ({', '.join(experiments)})"
        remedy = f"{', '.join(_KEYWORDS[:2])}, or {listed}, or a run (amlsched run … --dry-run lists them)"
        remedy = did_you_mean(min(missing), [*_KEYWORDS, *experiments]) + remedy
        raise ExperimentError(
            f"--rerun {' '.join(sorted(missing))}", "is neither a state nor a name in this config", remedy
        )


def _as_tuple(texts: Iterable[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


def _prefixed(experiment: ResolvedExperiment, prefix: str) -> ResolvedExperiment:
    name = prefix + experiment.name
    return replace(experiment, name=name, config=experiment.config | {"name": name}) if prefix else experiment
