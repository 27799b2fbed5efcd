"""Runs that no config lists: those that a search asks for while it goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from amlsched.errors import ExperimentError
from amlsched.experiments import layout, records
from amlsched.experiments.axes import Alternative
from amlsched.experiments.expand import Run
from amlsched.experiments.mappings import as_config
from amlsched.experiments.names import distinct_name, setting_label
from amlsched.experiments.plain import identity, is_mapping, nested

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from amlsched.experiments.axes import Path as KeyPath
    from amlsched.experiments.plan import Plan
    from amlsched.experiments.resolve import Experiment

__all__ = ["Names"]


class Names:
    """The runs of a search, each with a name of its own: where names drop what tells two settings apart, such as "1"
    from 1, the later one has a suffix that is made of its settings.

    Args:
        plan: What is run beside it.
        initial: Whether the runs of the config are run, too.
    """

    def __init__(self, plan: Plan, initial: bool) -> None:
        self._plan = plan
        self._known: dict[str, Any] | None = None if initial else {}

    def run_with(
        self,
        experiment: Experiment,
        params: Mapping[str, Any],
        iterations: int | None,
        path: Path,
        indices: Sequence[int] | None = None,
    ) -> Run:
        """The run of an experiment with these parameters; the same parameters always give the same run, and folder.

        Args:
            experiment: The experiment, whose own parameters hold for all that is not given.
            params: Parameters, nested as in a config; scalars and arrays of numpy and the like are numbers and lists
                in it.
            iterations: Instead of those of the config; they become part of the name.
            path: The folder for the results.
            indices: The repetitions that are asked for; `None` for all.

        Raises:
            ConfigError: A value is none that a config can hold.
            ExperimentError: Two keys read alike.
        """
        given: dict[Any, Any] = as_config(params, f"{experiment.name}: params")
        choices = tuple(Alternative(((place, value),), setting_label(place, value)) for place, value in nested(given))
        labels = [choice.label for choice in choices]
        if iterations is not None:
            experiment = replace(experiment, config=experiment.config | {"iterations": iterations})
            labels.append(f"i{iterations}")
        name = "__".join([experiment.name, "_".join(labels)]) if labels else experiment.name
        run = Run(experiment, distinct_name(name, choices, set()), choices, self._plan.debug)
        _refuse_twins(run.params, f"{experiment.name}: params")
        if self._is_of_another(run, path, range(run.repetitions) if indices is None else indices):
            run.name = distinct_name(name, choices, {run.name})
        self._names[run.name] = identity(run.params)
        return run

    @property
    def _names(self) -> dict[str, Any]:
        """What the runs of this driver have as parameters."""
        if self._known is None:
            self._known = {run.name: identity(run.params) for _, run in self._plan.runs()}
        return self._known

    def _is_of_another(self, run: Run, path: Path, indices: Sequence[int]) -> bool:
        """Whether the name is that of a run with other parameters, of this driver or an earlier one."""
        if run.name in self._names:
            return bool(self._names[run.name] != identity(run.params))
        for index in indices:
            ran_with = records.read(layout.repetition_folder(path, run, index)).params
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


def _refuse_twins(params: dict[Any, Any], where: str) -> None:
    """As a config does, which would not be the same when it is read again."""
    texts: dict[str, Any] = {}
    for key, value in params.items():
        if str(key) in texts:
            raise ExperimentError(where, f"the keys {texts[str(key)]!r} and {key!r} read alike", "rename one of them")
        texts[str(key)] = key
        if is_mapping(value):
            _refuse_twins(value, f"{where}[{key!r}]")
