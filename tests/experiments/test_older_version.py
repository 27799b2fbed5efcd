"""What version 0.1 wrote, before its modules moved, is read, resumed, extended and finished by this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import amlsched
from amlsched.cli import main
from amlsched.experiments import load

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_0_1"


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, as if it had been written here: two of four repetitions failed, and wait in an array."""
    folder = tmp_path / "older"
    shutil.copytree(FIXTURE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    here = {"@FOLDER@": str(folder), "@PYTHON@": sys.executable, "@PACKAGE@": str(Path(amlsched.__file__).parent)}
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".pkl":
            text = path.read_text("utf-8")
            for word, value in here.items():
                text = text.replace(word, value)
            path.write_text(text, "utf-8")
    monkeypatch.chdir(folder)
    return folder


def totals() -> dict[tuple[int, int], float]:
    """The last total of each repetition that is done, by its step and index."""
    done = load("results")
    done = done[done["state"] == "completed"]
    return dict(zip(zip(done["step"], done.index.get_level_values("r"), strict=True), done["total"], strict=True))


def test_its_results_are_read_resumed_and_extended(older: Path) -> None:
    shutil.rmtree("results/_arrays")
    assert totals() == {(1, 0): 2, (2, 0): 4}
    Path("fixed").touch()
    run = ["run", "counting.py:Counting", "config.yml", "--executor", "sequential", "--quiet"]
    assert main([*run, "--rerun", "failed"]) == 0
    assert totals() == {(1, 0): 2, (2, 0): 4, (1, 1): 2, (2, 1): 4}
    config = Path("config.yml")
    config.write_text(config.read_text("utf-8").replace("repetitions: 2", "repetitions: 3"), "utf-8")
    assert main(run) == 0
    assert sorted(totals()) == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]


def test_an_array_that_it_submitted_is_finished(older: Path) -> None:
    Path("fixed").touch()
    for element in range(2):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(element), "SLURM_ARRAY_JOB_ID": "4711"}
        script = "results/_arrays/0001/part_0.sh"
        done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert totals() == {(1, 0): 2, (2, 0): 4, (1, 1): 2, (2, 1): 4}
