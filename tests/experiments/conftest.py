"""A project as a user has it: an experiment, a config, and the command line in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run_command

EXPERIMENT = """
import os, signal, subprocess, sys, time
from pathlib import Path
from amlsched.experiments import ExperimentSurrender, IterativeExperiment


class Sums(IterativeExperiment):
    def initialize(self, cw_config, rep, logger):
        self.params = cw_config["params"]
        self.sum = 0.1
        print("hello from", rep)
        print("trouble in", rep, file=sys.stderr)
        subprocess.run(["echo", "child of", str(rep)], check=True)

    def iterate(self, cw_config, rep, n):
        if self.params.get("fails") == rep and not Path("mended").exists():
            raise ValueError("this one fails")
        if self.params.get("dies") == rep:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.params.get("exits") == rep:
            sys.exit(3)
        if self.params.get("surrenders") == rep and n == 1:
            raise ExperimentSurrender({"sum": -1.0})
        time.sleep(self.params.get("sleep", 0))
        self.sum = (self.sum * 3.7 * (1 + cw_config["_seed"] % 1000) + n) % 1
        return {"sum": self.sum, "n": n}

    def finalize(self, surrender=None, crash=False):
        print("goodbye", "crash" if crash else surrender)


class Incomplete(IterativeExperiment):
    pass


def local():
    class Local(Sums):
        pass

    return Local


Local = local()


def function(params, rep, log):
    print("function", rep)
    for _ in range(2):
        log(value=params["a"] * rep)


def not_an_experiment():
    pass
"""

CONFIG = """
name: DEFAULT
path: results
repetitions: 2
iterations: 3
---
name: sums
params: {b: 2}
grid: {a: [1, 2]}
"""


@dataclass
class Project:
    """The folder of a project."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def config(self, text: str) -> None:
        (self.folder / "config.yml").write_text(text)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The command line, in a process group of its own, in a new interpreter."""
        process = subprocess.Popen(
            [sys.executable, "-m", "amlsched", *words],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same to its end, in a process that is forked."""
        return run_command(words, self.folder, self.groups, timeout=60)

    def run(self, *words: str, target: str = "experiment.py:Sums") -> subprocess.CompletedProcess[str]:
        return self.call("run", target, "config.yml", "--max-workers", "2", *words)

    def records(self) -> dict[str, dict[str, Any]]:
        """The records, by the folder of the repetition."""
        found = sorted((self.folder / "results").rglob("log/rep_*/record.json"))
        return {str(path.parent.relative_to(self.folder / "results")): json.loads(path.read_text()) for path in found}

    def states(self) -> list[str]:
        return [record["state"] for record in self.records().values()]

    def completions(self) -> list[int]:
        """How often each repetition was completed."""
        return [[a["outcome"] for a in r["attempts"]].count("completed") for r in self.records().values()]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    (tmp_path / "config.yml").write_text(CONFIG)
    project = Project(tmp_path)
    yield project
    for group in [*project.groups, *(process.pid for process in project.started)]:
        with contextlib.suppress(ProcessLookupError):  # also what a driver that died may have left behind
            os.killpg(group, signal.SIGKILL)
    for process in project.started:
        process.communicate()


def wait_until(condition: Callable[[], object], deadline_s: float = 30) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def members(group: int) -> list[str]:
    """The processes of a process group, by their command lines; zombies do not count."""
    found: list[str] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX" and int(fields[2]) == group:
                found.append((stat.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it ended meanwhile
            continue
    return found
