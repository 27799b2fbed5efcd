"""The digits experiment through a batch system: the same results as on this host."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clusters.site import Site
from tests.processes import until

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
CONFIG = """\
---
name: DEFAULT
path: results
repetitions: 2
iterations: 4
params:
  test_size: 0.3
  batch_size: 32
---
name: mlp
grid:
  learning_rate: [0.001, 0.01]
  hidden_size: [16]
"""


def rows(folder: Path) -> dict[str, list[dict[str, str]]]:
    """All rows of all repetitions, without the times at which they were written."""
    found = {}
    for path in folder.rglob("rep_*.csv"):
        with path.open(newline="") as file:
            found[str(path.relative_to(folder))] = [
                {key: value for key, value in row.items() if key != "ts"} for row in csv.DictReader(file)
            ]
    return found


def test_digits_give_the_same_through_jobs_as_locally(slurm: Site) -> None:
    pytest.importorskip("sklearn")
    (slurm.folder / "digits.yml").write_text(CONFIG)

    def run(executor: str, results: str, *options: str) -> dict[str, list[dict[str, str]]]:
        target = f"{EXAMPLE / 'digits.py'}:Digits"
        command = [sys.executable, "-m", "amlsched", "run", target, "digits.yml", "--quiet", "--results", results]
        done = subprocess.run(
            [*command, "--executor", executor, "--max-workers", "2", *options],
            cwd=slurm.folder,
            env=dict(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return rows(slurm.folder / results)

    local = run("sequential", "local")
    options = [f"--executor-option={key}={value}" for key, value in slurm.options().items()]
    assert len(local) == 4
    assert all(len(each) == 4 for each in local.values())
    assert run("slurm", "jobs-results", *options) == local
    until(lambda: not slurm.jobs(), 15)
