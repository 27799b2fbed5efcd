"""Expand experiments to runs, lazily: every combination of their expansions, each with a unique name."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from amlsched.experiments._config.axes import Alternative, Axis, KeyPath, distinct_name, names_are_safe
from amlsched.experiments._config.document import key_text
from amlsched.experiments._config.keys import ALL_CPUS, VARIED, expansion_kind
from amlsched.experiments._config.resolve import ResolvedExperiment
from amlsched.experiments._config.values import copied, set_at
from amlsched.resources import cpus

__all__ = ["ONE_IN_DEBUG", "Debug", "Run", "count", "debug_mode", "expand"]

Debug = Literal["", "debug", "debugall"]

ONE_IN_DEBUG = ("repetitions", "iterations", "reps_in_parallel", "reps_per_job")
"""Keys of an experiment that are 1 in a debug run."""


@dataclass(slots=True, eq=False)  # not frozen: that would double the cost of each
class Run:
    """An experiment with one choice of its parameters. It is small, as it refers to its experiment for the rest.

    Args:
        experiment: The experiment.
        name: Name of the run and of its folder: cw2's `_experiment_name`; without expansions, the experiment's name.
        choices: The choice on each axis.
        debug: The debug mode, if any.
    """

    experiment: ResolvedExperiment
    name: str
    choices: tuple[Alternative, ...] = ()
    debug: Debug = ""

    @property
    def experiment_name(self) -> str:
        """Name of the experiment."""
        return self.experiment.name

    @property
    def settings(self) -> list[tuple[KeyPath, Any]]:
        """What the expansions set, as paths and values, in order; if a path occurs twice, the later one wins."""
        return [setting for choice in self.choices for setting in choice.settings]

    def at(self, index: int) -> "Run":
        """This run with the config of one of its repetitions, which a script for cw2 may have changed."""
        varied = self.experiment.config.get(VARIED)
        config = varied.get(self.name, {}).get(index) if varied else None
        if config is None:
            return self
        return Run(replace(self.experiment, config=config, axes=()), self.name, (), self.debug)

    @property
    def overrides(self) -> dict[str, Any]:
        """What the expansions set below `params`, such as `{"opt.lr": 0.1}`."""
        return {key_text(path): copied(value) for path, value in self.settings}

    @property
    def params(self) -> dict[Any, Any]:
        """The experiment's parameters, overridden by this run's; a new mapping each time."""
        params: dict[Any, Any] = copied(self.experiment.config.get("params") or {})
        for path, value in self.settings:
            set_at(params, path, copied(value))
        return params

    @property
    def config(self) -> dict[str, Any]:
        """All keys of the experiment except its expansions, with this run's params; a new mapping each time."""
        config = {
            key: copied(value)
            for key, value in self.experiment.config.items()
            if expansion_kind(key) is None and key != VARIED
        }
        config["params"] = self.params
        if self.debug:
            config.update(dict.fromkeys(ONE_IN_DEBUG, 1))
        own = config.get("seed")  # text is for the user's own use
        seed = own if isinstance(own, str) else self.seed
        return config | {"repetitions": self.repetitions, "seed": seed, "_debug": bool(self.debug)}

    @property
    def repetitions(self) -> int:
        """How many repetitions it has, each with another seed."""
        number: int | None = 1 if self.debug else self.experiment.config.get("repetitions")
        return number or 1

    @property
    def iterations(self) -> int | None:
        """Iterations of each repetition; `None` if not set."""
        return self._number("iterations")

    @property
    def reps_per_job(self) -> int:
        """How many repetitions are bundled into one job."""
        return self._number("reps_per_job") or 1

    @property
    def reps_in_parallel(self) -> int:
        """How many repetitions of a job run at a time."""
        number = self._number("reps_in_parallel") or 1
        return max(1, len(cpus())) if number == ALL_CPUS else number

    @property
    def seed(self) -> int:
        """The experiment's seed, from which the seeds of the repetitions are derived."""
        seed = self.experiment.config.get("seed")
        return seed if isinstance(seed, int) else 0

    def _number(self, key: str) -> int | None:
        number: int | None = 1 if self.debug else self.experiment.config.get(key)
        return number


def expand(experiment: ResolvedExperiment, debug: Debug = "") -> Iterator[Run]:
    """Yield the runs of an experiment in cw2's order: the first expanding key varies slowest.

    Names are cw2's: the experiment's name, `__`, and the short forms of the settings, joined by `_`
    (`digits__lr0.1_bs32`). If two runs would share a name, or a name is not valid for a folder, see
    `axes.distinct_name`.

    Args:
        experiment: A resolved experiment.
        debug: `debug`: only the first combination, one repetition, one iteration; `debugall`: the same for all
            combinations.
    """
    debug = debug_mode(experiment.config, debug)
    axes = _shortened(experiment.axes, debug)
    if not axes:
        yield Run(experiment, experiment.config.get("_experiment_name") or experiment.name, (), debug)
        return
    start = experiment.name + ("_" if "__" in experiment.name else "__")
    labels = [[choice.label for choice in axis.alternatives] for axis in axes]
    safe = names_are_safe(start, labels)  # checked once, as there may be very many runs
    taken: set[str] = set()
    every = itertools.product(*(axis.alternatives for axis in axes))
    for choices, label in zip(every, map("_".join, itertools.product(*labels)), strict=True):
        name = start + label
        if safe and name not in taken:
            taken.add(name)
        else:
            name = distinct_name(name, choices, taken)
        yield Run(experiment, name, choices, debug)


def count(experiment: ResolvedExperiment, debug: Debug = "") -> int:
    """How many runs `expand` yields, without expanding."""
    axes = _shortened(experiment.axes, debug_mode(experiment.config, debug))
    return math.prod(len(axis.alternatives) for axis in axes)


def debug_mode(config: Mapping[str, Any], asked: Debug) -> Debug:
    """The debug mode of an experiment: the given one, or that of the `_debug` key, which a resolved config has."""
    if asked:
        return asked
    own = config.get("_debug")
    return own if own in ("debug", "debugall") else "debugall" if own else ""


def _shortened(axes: tuple[Axis, ...], debug: Debug) -> tuple[Axis, ...]:
    return tuple(Axis(axis.key, axis.alternatives[:1]) for axis in axes) if debug == "debug" else axes
