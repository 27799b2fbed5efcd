"""Runs that are not in the config: those that a search adds while it is running."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from amlsched.errors import ExperimentError
from amlsched.experiments._config.axes import Alternative, distinct_name, setting_label
from amlsched.experiments._config.document import as_config
from amlsched.experiments._config.expand import Run
from amlsched.experiments._config.values import identity, is_mapping, nested
from amlsched.experiments._storage import layout, record_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from amlsched.experiments._config.axes import KeyPath
    from amlsched.experiments._config.resolve import ResolvedExperiment
    from amlsched.experiments.plan import Plan

__all__ = ["SearchRuns"]


class SearchRuns:
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
