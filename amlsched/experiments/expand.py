"""Experiments to runs: every combination of their expansions, lazily, each with a name of its own."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from amlsched.experiments.axes import Alternative, Axis, Path
from amlsched.experiments.keys import ALL_CPUS, VARIED, expansion_kind
from amlsched.experiments.load import key_text
from amlsched.experiments.names import distinct_name, names_are_safe
from amlsched.experiments.plain import copied, set_at
from amlsched.experiments.resolve import Experiment
from amlsched.resources import cpus

__all__ = ["ONE_IN_DEBUG", "Debug", "Run", "count", "debug_mode", "expand"]

Debug = Literal["", "debug", "debugall"]

ONE_IN_DEBUG = ("repetitions", "iterations", "reps_in_parallel", "reps_per_job")
"""Keys of an experiment that are 1 in a debug run."""


@dataclass(slots=True, eq=False)  # not frozen: that would double the cost of each
class Run:
    """One setting of the parameters of an experiment. It is small: all that its experiment says stays there.

    Args:
        experiment: The experiment.
        name: Name of the run, and of its folder: cw2's `_experiment_name`; without expansions, the experiment's name.
        choices: What it takes on each axis.
        debug: How it was made short, if it was.
    """

    experiment: Experiment
    name: str
    choices: tuple[Alternative, ...] = ()
    debug: Debug = ""

    @property
    def experiment_name(self) -> str:
        """Name of the experiment."""
        return self.experiment.name

    @property
    def settings(self) -> list[tuple[Path, Any]]:
        """What the expansions set, as paths and values, in order; where a path stands twice, the later counts."""
        return [setting for choice in self.choices for setting in choice.settings]

    def at(self, index: int) -> "Run":
        """This run as one of its repetitions has it: a script of cw2 may change the config of each by itself."""
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
        """The parameters: those of the experiment, overridden by this run's; a new mapping each time."""
        params: dict[Any, Any] = copied(self.experiment.config.get("params") or {})
        for path, value in self.settings:
            set_at(params, path, copied(value))
        return params

    @property
    def config(self) -> dict[str, Any]:
        """All keys of the experiment but its expansions, with this run's params; a new mapping each time."""
        config = {
            key: copied(value)
            for key, value in self.experiment.config.items()
            if expansion_kind(key) is None and key != VARIED
        }
        config["params"] = self.params
        if self.debug:
            config.update(dict.fromkeys(ONE_IN_DEBUG, 1))
        own = config.get("seed")  # a text is the user's own
        seed = own if isinstance(own, str) else self.seed
        return config | {"repetitions": self.repetitions, "seed": seed, "_debug": bool(self.debug)}

    @property
    def repetitions(self) -> int:
        """How often it is run, each time with another seed."""
        number: int | None = 1 if self.debug else self.experiment.config.get("repetitions")
        return number or 1

    @property
    def iterations(self) -> int | None:
        """Iterations of each repetition; `None` if the experiment does not say."""
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
        """The experiment's seed, from which those of the repetitions derive."""
        seed = self.experiment.config.get("seed")
        return seed if isinstance(seed, int) else 0

    def _number(self, key: str) -> int | None:
        number: int | None = 1 if self.debug else self.experiment.config.get(key)
        return number


def expand(experiment: Experiment, debug: Debug = "") -> Iterator[Run]:
    """The runs of an experiment, one after the other, in cw2's order: the first expanding key varies slowest.

    Names are cw2's: the experiment's, `__`, and the short forms of what is set, joined by `_` (`digits__lr0.1_bs32`).
    Where two runs would share a name, or a name cannot be a folder's, see `names.distinct_name`.

    Args:
        experiment: A resolved experiment.
        debug: `debug`: only the first combination, one repetition, one iteration; `debugall`: all combinations.
    """
    debug = debug_mode(experiment.config, debug)
    axes = _shortened(experiment.axes, debug)
    if not axes:
        yield Run(experiment, experiment.config.get("_experiment_name") or experiment.name, (), debug)
        return
    start = experiment.name + ("_" if "__" in experiment.name else "__")
    labels = [[choice.label for choice in axis.alternatives] for axis in axes]
    safe = names_are_safe(start, labels)  # looked at once, as there may be very many runs
    taken: set[str] = set()
    every = itertools.product(*(axis.alternatives for axis in axes))
    for choices, label in zip(every, map("_".join, itertools.product(*labels)), strict=True):
        name = start + label
        if safe and name not in taken:
            taken.add(name)
        else:
            name = distinct_name(name, choices, taken)
        yield Run(experiment, name, choices, debug)


def count(experiment: Experiment, debug: Debug = "") -> int:
    """How many runs `expand` gives, without expanding."""
    axes = _shortened(experiment.axes, debug_mode(experiment.config, debug))
    return math.prod(len(axis.alternatives) for axis in axes)


def debug_mode(config: Mapping[str, Any], asked: Debug) -> Debug:
    """How an experiment is made short: as asked, or else as its own `_debug` says (a resolved config has that)."""
    if asked:
        return asked
    own = config.get("_debug")
    return own if own in ("debug", "debugall") else "debugall" if own else ""


def _shortened(axes: tuple[Axis, ...], debug: Debug) -> tuple[Axis, ...]:
    return tuple(Axis(axis.key, axis.alternatives[:1]) for axis in axes) if debug == "debug" else axes
