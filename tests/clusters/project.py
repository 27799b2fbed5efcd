"""A project as a user has it on a cluster, and what its arrays did."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.commands import run_command

EXPERIMENT = """
import os, time
from pathlib import Path


def experiment(params, rep, log):
    Path("pids").mkdir(exist_ok=True)
    Path("pids", f"{params.get('a')}_{rep}_{os.getpid()}").touch()
    for n in range(params["steps"]):
        log(n=n, value=n * params.get("a", 1))
        if n == 0:
            while Path("wait").exists():
                time.sleep(0.05)
"""

ITERATIVE = """
import json, time
from pathlib import Path
from amlsched.experiments import IterativeExperiment

EVERY = 5


class Counts(IterativeExperiment):
    def iterate(self, cw_config, rep, n):
        with open(f"steps_{rep}", "a") as file:
            file.write(f"{n}\\n")
        time.sleep(cw_config["params"]["pause"])
        self.sum = getattr(self, "sum", 0) + n
        return {"n": n, "sum": self.sum}

    def save_state(self, cw_config, rep, n):
        if n % EVERY == EVERY - 1:
            path = Path(cw_config["_checkpoint_dir"], "state.json")
            path.with_suffix(".new").write_text(json.dumps([n, self.sum]))
            path.with_suffix(".new").replace(path)

    def load_state(self, cw_config, rep):
        n, self.sum = json.loads(Path(cw_config["_checkpoint_dir"], "state.json").read_text())
        return n
"""

#: An array of repetitions that take some seconds each, for `Project.config`.
COUNTS = """
name: SLURM
job-name: amlsched-test
time: {time}
mem-per-cpu: 300
{section}
---
name: counts
path: results
repetitions: {repetitions}
iterations: 40
params: {{pause: 0.2}}
"""

CONFIG = """
name: SLURM
job-name: amlsched-test
time: 10
mem-per-cpu: 300
{section}
---
name: sums
path: results
repetitions: 2
params: {{steps: 3}}
grid: {{a: [1, 2]}}
"""


@dataclass
class Project:
    """The folder of a project."""

    folder: Path
    flags: tuple[str, ...] = ("-s",)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def wait(self) -> Path:
        """While this file is there, repetitions wait after their first row."""
        return self.folder / "wait"

    def config(self, section: str = "", text: str = CONFIG) -> None:
        (self.folder / "config.yml").write_text(text.format(section=section))

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "amlsched", *words],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.variables},
        )

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_command(words, self.folder, [], timeout=110, **self.variables)

    def submit(self, *words: str, target: str = "experiment.py:experiment") -> str:
        """Submit what is left, and return what that said."""
        done = self.call("run", target, "config.yml", *self.flags, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def status(self) -> str:
        done = self.call("status", "results")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for path in sorted(self.results.rglob("log/rep_*/record.json")):
            found.append(json.loads(path.read_text()))
        return found

    def states(self) -> list[str]:
        return [record["state"] for record in self.records()]

    def completions(self) -> list[int]:
        """How often each repetition was completed."""
        return [[attempt["outcome"] for attempt in record["attempts"]].count("completed") for record in self.records()]

    def rows(self, column: str) -> list[list[str]]:
        """What each repetition logged."""
        found: list[list[str]] = []
        for path in sorted(self.results.rglob("log/rep_*/rep_*.csv")):
            # A repetition that starts from scratch meanwhile puts its earlier rows aside.
            with contextlib.suppress(FileNotFoundError), path.open(newline="") as file:
                found.append([row[column] for row in csv.DictReader(file)])
        return found

    def pids(self) -> list[int]:
        return [int(path.name.rpartition("_")[2]) for path in (self.folder / "pids").glob("*")]

    def arrays(self) -> list[str]:
        """The ids of what was submitted, oldest first."""
        parts = sorted(self.results.glob("_arrays/*/part_*.json"))
        return [json.loads(part.read_text())["job"] for part in parts]
