"""`amlsched init`: create an experiment and its config, which run at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amlsched.cli._output import OK, add_command, folder
from amlsched.errors import ExperimentError

if TYPE_CHECKING:
    import argparse

    from amlsched.cli._output import Commands

__all__ = ["add_to"]

_FUNCTION = '''"""An experiment: amlsched calls `train` once for each repetition."""

import random


def train(params, rep, log):
    """Train a model, and log how good it is.

    Args:
        params: The parameters of this run, from `params` and `grid` in train.yml.
        rep: The index of the repetition: 0, 1, ...
        log: Logs a row of values. `log.seed` is the seed of this repetition.
    """
    error = random.Random(log.seed).random()  # replace this and the next lines by your training
    for n in range(params["epochs"]):
        error *= 1 - params["learning_rate"]
        log(iter=n, error=error)
'''
_CLASS = '''"""An experiment: amlsched creates a `Train` for each repetition, and calls `iterate` for each iteration."""

import random

from amlsched.experiments import IterativeExperiment


class Train(IterativeExperiment):
    """Replace what the methods do by your training."""

    def initialize(self, config, rep, logger):
        """Prepare a repetition. `config` holds all keys of train.yml, with the parameters of this run."""
        self.error = random.Random(config["_seed"]).random()

    def iterate(self, config, rep, n):
        """Train for one iteration, and return the values to log."""
        self.error *= 1 - config["params"]["learning_rate"]
        return {"error": self.error}

    # To resume where a repetition was interrupted, save and load what it needs: see `save_state` and `load_state`
    # in the documentation, under "Checkpoints".
'''
_CONFIG = """# amlsched run {target} train.yml
name: train
path: results            # the folder for the results
repetitions: 3           # of each run, each with another seed
{iterations}params:                  # the same in all runs
{epochs}  momentum: 0.9
grid:                    # a run for each combination of these values
  learning_rate: [0.3, 0.1, 0.03]
"""
_SLURM = """---
# For Slurm: amlsched run {target} train.yml -s
name: SLURM
job-name: train
# partition: gpu         # if your cluster needs one
time: 30                 # minutes, for each element of the array
num_parallel_jobs: 10    # elements that run at a time
cpus-per-task: 1
mem-per-cpu: 2G
"""


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, init, "create an experiment and its config, which run at once")
    parser.add_argument("folder", metavar="DIR", type=folder, nargs="?", default=Path(), help="(default: this folder)")
    text = "a class with one method for each iteration, instead of a function"
    parser.add_argument("--class", dest="as_class", action="store_true", help=text)
    parser.add_argument("--slurm", action="store_true", help="with a SLURM section, for amlsched run -s")


def init(arguments: argparse.Namespace) -> int:
    """Create train.py, an experiment, and train.yml, its config. Both are short, commented, and run at once."""
    import shlex

    place: Path = arguments.folder
    target = "train.py:Train" if arguments.as_class else "train.py:train"
    config = _CONFIG.format(
        target=target,
        iterations="iterations: 5            # calls of `iterate` in each repetition\n" if arguments.as_class else "",
        epochs="" if arguments.as_class else "  epochs: 5\n",
    )
    if arguments.slurm:
        config += _SLURM.format(target=target)
    files = {place / "train.py": _CLASS if arguments.as_class else _FUNCTION, place / "train.yml": config}
    if place.exists() and not place.is_dir():
        raise ExperimentError(str(place), "is a file", "name a folder, such as amlsched init first")
    for file in files:
        if file.exists():
            raise ExperimentError(str(file), "exists already", "amlsched init OTHER_FOLDER, or move it away")
    place.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    print(f"Created {' and '.join(map(str, files))}. Next:\n")
    if place != Path():
        print(f"cd {shlex.quote(str(place))}")
    for command, about in (
        (f"amlsched run {target} train.yml", "runs 3 runs of 3 repetitions"),
        ("amlsched best results --metric error", "the best run, and its parameters"),
        ("amlsched plot results --metric error --out curves.png", "learning curves"),
        *((f"amlsched run {target} train.yml -s --dry-run", "what would be submitted"),) * arguments.slurm,
    ):
        print(f"{command:<55}  # {about}")
    return OK
