"""Runs that no config lists: those that a search asks for while it goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from amlsched.errors import ExperimentError
from amlsched.experiments.axes import Alternative
from amlsched.experiments.expand import Run
from amlsched.experiments.mappings import as_config
from amlsched.experiments.names import distinct_name, setting_label
from amlsched.experiments.plain import is_mapping

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from amlsched.experiments.axes import Path
    from amlsched.experiments.expand import Debug
    from amlsched.experiments.resolve import Experiment

__all__ = ["run_with"]


def run_with(experiment: Experiment, params: Mapping[str, Any], iterations: int | None, debug: Debug) -> Run:
    """The run of an experiment with these parameters; the same parameters always give the same run, and folder.

    Args:
        experiment: The experiment, whose own parameters hold for all that is not given.
        params: Parameters, nested as in a config; scalars and arrays of numpy and the like are numbers and lists in it.
        iterations: Instead of those of the config; they become part of the name.
        debug: How it is made short.

    Raises:
        ConfigError: A value is none that a config can hold.
        ExperimentError: Two keys read alike.
    """
    given: dict[Any, Any] = as_config(params, f"{experiment.name}: params")
    choices = tuple(Alternative(((path, value),), setting_label(path, value)) for path, value in _leaves(given))
    labels = [choice.label for choice in choices]
    if iterations is not None:
        experiment = replace(experiment, config=experiment.config | {"iterations": iterations})
        labels.append(f"i{iterations}")
    name = "__".join([experiment.name, "_".join(labels)]) if labels else experiment.name
    run = Run(experiment, distinct_name(name, choices, set()), choices, debug)
    _refuse_twins(run.params, f"{experiment.name}: params")
    return run


def _refuse_twins(params: dict[Any, Any], where: str) -> None:
    """As a config does, which would not be the same when it is read again."""
    texts: dict[str, Any] = {}
    for key, value in params.items():
        if str(key) in texts:
            raise ExperimentError(where, f"the keys {texts[str(key)]!r} and {key!r} read alike", "rename one of them")
        texts[str(key)] = key
        if is_mapping(value):
            _refuse_twins(value, f"{where}[{key!r}]")


def _leaves(params: Mapping[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in params.items():
        if isinstance(value, dict) and value:
            yield from _leaves(cast("dict[str, Any]", value), (*above, key))
        else:
            yield (*above, key), value
