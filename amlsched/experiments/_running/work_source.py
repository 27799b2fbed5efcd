"""The repetitions that a run of experiments has to run: those of the config, and those that a search adds."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from amlsched.errors import ExperimentError
from amlsched.experiments._config.axes import Alternative, distinct_name, setting_label
from amlsched.experiments._config.document import as_config
from amlsched.experiments._config.expand import Run
from amlsched.experiments._config.values import identity, is_mapping, nested
from amlsched.experiments._planning.config_changes import differences
from amlsched.experiments._planning.jobs import JobNumbers, JobThrottle
from amlsched.experiments._running.summary import Tally
from amlsched.experiments._storage import layout, record_file
from amlsched.experiments._storage.record import State
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from amlsched.experiments._config.axes import KeyPath
    from amlsched.experiments._config.resolve import ResolvedExperiment
    from amlsched.experiments._running.repetition import Repetition
    from amlsched.experiments._running.summary import Outcomes
    from amlsched.experiments.plan import Plan, Planned

__all__ = ["WorkSource"]

_ORPHANS_END_S = 10.0
"""By this time, workers whose driver was killed have exited."""


class WorkSource:
    """Finds the repetitions to run, and hands them out as their jobs have free slots.

    Args:
        plan: The plan.
        initial: Whether the runs of the config run too.
        outcomes: Gets the repetitions that are not run.
        repetition: Makes what a worker gets, from a planned repetition and the number of its job.
    """

    def __init__(
        self, plan: Plan, initial: bool, outcomes: Outcomes, repetition: Callable[[Planned, int], Repetition]
    ) -> None:
        self._plan = plan
        self._outcomes = outcomes
        self._repetition = repetition
        self._throttle: JobThrottle[Repetition] = JobThrottle(iter(()))
        self._search = _SearchRuns(plan, initial)
        self._served: Collection[str] = ()
        self._n_added = 0
        self._duplicates: dict[Path, list[Planned]] = {}  # of those handed out or added: the same ones, added again
        self._running_elsewhere: dict[Planned, int] = {}  # with the number of the job
        self.added: deque[Repetition] = deque()
        """What a search has added, and was not handed out yet."""

    def planned(self) -> Iterator[Repetition]:
        """Yield, lazily, the repetitions of the plan to run, and count the others on the way."""
        summary, changed = self._outcomes.summary, 0
        numbers = JobNumbers(self._plan.bundle)
        for path, run in self._plan.runs():
            summary.tallies[run.name] = Tally(run.name, len(self._plan.indices(run)))
            numbers.enter(run)
            for planned in self._plan.repetitions(run, path):
                if planned.todo:
                    yield self._repetition(planned, numbers.job(planned.index))
                elif planned.known.state is State.RUNNING:
                    self._running_elsewhere[planned] = numbers.job(planned.index)
                else:
                    self.skip(planned)
                    changed += planned.changed
        if changed:
            summary.notes.append(
                f"{counted(changed, 'repetition', 'were')} run with other settings under the same name, and are kept: "
                "-o runs them again"
            )

    def until_orphans_end(self) -> Iterator[float]:
        """Yield seconds to wait while workers are running whose driver was killed: they exit soon."""
        deadline = time.monotonic() + _ORPHANS_END_S
        while any(map(self._is_orphaned, self._running_elsewhere)) and time.monotonic() < deadline:
            yield _ORPHANS_END_S / 50

    def orphans(self) -> Iterator[Repetition]:
        """Yield repetitions that were running in another run when this one started, and no longer are."""
        for planned, job in list(self._running_elsewhere.items()):
            again = self._plan.again(planned)
            if again.known.state is State.RUNNING and not again.todo:
                continue
            del self._running_elsewhere[planned]
            if again.todo:
                yield self._repetition(again, job)
            else:
                self.skip(again)

    def add(
        self,
        experiment: ResolvedExperiment,
        params: Mapping[str, Any],
        repetitions: Iterable[int] | None,
        iterations: int | None,
        keep_changed: bool,
    ) -> str:
        """Add a run of a search; see `ExperimentRun.submit`."""
        path = self._plan.path(experiment).resolve()
        indices = None if repetitions is None else list(repetitions)
        run = self._search.run_with(experiment, params, iterations, path, indices)
        for index in range(run.repetitions) if indices is None else indices:
            planned = self._plan.repetition(run, index, path)
            if planned.changed and not planned.todo and not keep_changed:
                changes = "; ".join(differences(planned.known, run.at(index)))
                raise ExperimentError(run.name, f"was run with other settings under the same name: {changes}", "use -o")
            self._n_added += 1
            self._outcomes.summary.expect(run.name, 1)
            if planned.folder in self._duplicates:
                self._duplicates[planned.folder].append(planned)
            elif planned.todo:
                self._duplicates[planned.folder] = []
                self.added.append(self._repetition(planned, -self._n_added))
            elif planned.known.state is State.RUNNING:
                self._running_elsewhere[planned] = -self._n_added
            else:
                self.skip(planned)
        return run.name

    def begin(self, work: Iterator[Repetition], experiments: Collection[str]) -> Repetition | None:
        """Begin to hand out this work, and what a search adds to these experiments; the first repetition, if any."""
        self._throttle = JobThrottle(work)
        self._served = experiments
        return self._handed_out(self._throttle.take()) or self.take()

    def take(self) -> Repetition | None:
        """The next repetition to run; `None` if there is none, or no job has a free slot."""
        others: deque[Repetition] = deque()
        while self.added:
            one = self.added.popleft()
            if one.record.name in self._served:
                self._throttle.add(one)
            else:
                others.append(one)
        self.added = others
        return self._handed_out(self._throttle.take())

    def give_back(self, repetition: Repetition) -> None:
        """Free the slot of a repetition that was handed out."""
        self._throttle.give_back(repetition)

    def finished(self, repetition: Repetition) -> None:
        """Count what was added again while this repetition ran."""
        for duplicate in self._duplicates.pop(repetition.folder, ()):
            self.skip(self._plan.again(duplicate))

    def skip(self, planned: Planned) -> None:
        """Count a repetition that is not run now."""
        self._outcomes.skipped(planned, self._repetition)

    def skip_running_elsewhere(self) -> None:
        """Count the repetitions that other runs are still running."""
        for planned in self._running_elsewhere:
            self.skip(planned)

    def _handed_out(self, repetition: Repetition | None) -> Repetition | None:
        if repetition is not None:
            self._duplicates.setdefault(repetition.folder, [])
        return repetition

    def _is_orphaned(self, planned: Planned) -> bool:
        again = self._plan.again(planned)
        attempts = again.known.attempts
        running = again.known.state is State.RUNNING and not again.todo
        return running and bool(attempts) and attempts[-1].driver.alive() is False


class _SearchRuns:
    """Creates the runs of a search with unique names.

    Names do not distinguish all settings, such as "1" from 1; then the later run has a suffix made from its settings.

    Args:
        plan: The plan that the search belongs to.
        initial: Whether the runs of the config run too.
    """

    def __init__(self, plan: Plan, initial: bool) -> None:
        self._plan = plan
        self._known: dict[str, Any] | None = None if initial else {}

    def run_with(
        self,
        experiment: ResolvedExperiment,
        params: Mapping[str, Any],
        iterations: int | None,
        path: Path,
        indices: Sequence[int] | None = None,
    ) -> Run:
        """The run of an experiment with these parameters; the same parameters always give the same run and folder.

        Args:
            experiment: The experiment, whose own parameters are the defaults.
            params: Parameters, nested as in a config; scalars and arrays of numpy and similar libraries are converted
                to numbers and lists.
            iterations: Replaces that of the config, and becomes part of the name.
            path: The folder for the results.
            indices: The requested repetitions; `None` for all.

        Raises:
            ConfigError: A config cannot hold a value.
            ExperimentError: Two keys have the same text.
        """
        given: dict[Any, Any] = as_config(params, f"{experiment.name}: params")
        choices = tuple(Alternative(((place, value),), setting_label(place, value)) for place, value in nested(given))
        labels = [choice.label for choice in choices]
        if iterations is not None:
            experiment = replace(experiment, config=experiment.config | {"iterations": iterations})
            labels.append(f"i{iterations}")
        name = "__".join([experiment.name, "_".join(labels)]) if labels else experiment.name
        run = Run(experiment, distinct_name(name, choices, set()), choices, self._plan.debug)
        _check_key_texts(run.params, f"{experiment.name}: params")
        if self._is_of_another(run, path, range(run.repetitions) if indices is None else indices):
            run.name = distinct_name(name, choices, {run.name})
        self._names[run.name] = identity(run.params)
        return run

    @property
    def _names(self) -> dict[str, Any]:
        """The parameters of the runs of this driver, by name."""
        if self._known is None:
            self._known = {run.name: identity(run.params) for _, run in self._plan.runs()}
        return self._known

    def _is_of_another(self, run: Run, path: Path, indices: Sequence[int]) -> bool:
        """Whether a run with other parameters, of this driver or an earlier one, has this name."""
        if run.name in self._names:
            return bool(self._names[run.name] != identity(run.params))
        for index in indices:
            ran_with = record_file.read(layout.repetition_folder(path, run, index)).params
            for place, value in run.settings if ran_with else ():
                if identity(_at(ran_with, place)) != identity(value):
                    return True
        return False


def _at(params: Any, place: KeyPath) -> Any:
    for part in place:
        params = (
            next((value for key, value in params.items() if str(key) == str(part)), None)
            if is_mapping(params)
            else None
        )
    return params


def _check_key_texts(params: dict[Any, Any], where: str) -> None:
    """Raise if two keys have the same text, as in a config, which could not be read again."""
    texts: dict[str, Any] = {}
    for key, value in params.items():
        if str(key) in texts:
            raise ExperimentError(
                where, f"the keys {texts[str(key)]!r} and {key!r} have the same text", "rename one of them"
            )
        texts[str(key)] = key
        if is_mapping(value):
            _check_key_texts(value, f"{where}[{key!r}]")
