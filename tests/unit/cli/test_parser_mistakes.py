"""Mistakes of a first hour: each is one message that names the place, the value and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amlsched.cli import main
from amlsched.experiments import ExperimentRun

CONFIG = """
name: train
path: results
repetitions: 2
params: {momentum: 0.9}
grid: {learning_rate: [0.1, 0.2]}
---
name: SLURM
time: 10
"""
EXPERIMENT = "def train(params, rep, log):\n    log(error=1)\n"


def experiment(params: dict[str, Any], rep: int, log: Any) -> None:
    log(error=params["learning_rate"], accuracy=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("project")
    (place / "train.py").write_text(EXPERIMENT)
    (place / "train.yml").write_text(CONFIG)
    (place / "nested.yml").write_text(CONFIG.replace("momentum: 0.9", "momentum: 0.9, grid: {lr: [1, 2]}"))
    (place / "indented.yml").write_text("name: a\n  path: b\n")
    (place / "memory.yml").write_text(f"{CONFIG}mem-per-cpu: lots\n")
    (place / "underscore.yml").write_text(f"{CONFIG}cpus_per_task: 4\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        ExperimentRun(experiment, "train.yml", executor="sequential").run()
    return place


RUN = "run train.py:train train.yml"
MISTAKES = (
    (f"{RUN} --executor proceses", "there is no executor 'proceses' (did you mean processes?"),
    ("run nowhere.py:train train.yml --executor Slurm", "there is no executor 'Slurm' (did you mean slurm?"),
    ("doctor --executor thread", "there is no executor 'thread' (did you mean threads?"),
    (f"{RUN} -s --executor slurm", "--executor slurm: is for a program that waits for its workers"),
    (f"{RUN} --submit --wait", "argument --submit: expected one argument"),
    (f"{RUN} --max-workers two", "--max-workers: must be a whole number of at least 1, not 'two'"),
    (f"{RUN} --keep-change --dry-rnu", "there is no option --dry-rnu (did you mean --dry-run?)"),
    (f"{RUN} --set params.momentun=1", "did you mean params.momentum?"),
    (f"{RUN} -e trian", "there is no experiment 'trian' (did you mean train?"),
    ("run train.py::train train.yml", "train.py::train: has two colons (write train.py:train)"),
    ("run train.yml train.py:train", "swapped? Write train.py:train train.yml"),
    ("run --metric error train.py:train train.yml", "--metric took all of these: error train.py:train train.yml"),
    ("run train.py:train nested.yml", "params.grid looks like an expansion: all of its values are lists"),
    ("run train.py:train indented.yml", "indented.yml:2: this is not YAML"),
    ("run train.py:train memory.yml -s", "mem-per-cpu is 'lots', which is not an amount of memory (such as 2G)"),
    ("run train.py:train underscore.yml -s", "did you mean cpus-per-task?"),
    ("status resluts", "results folder resluts: there is no such folder (did you mean results?)"),
    ("logs results/train__l0.3", "did you mean train__lr0."),
    ("logs results/train", "holds 2 runs (name one of them, such as results/train/train__lr0.1)"),
    ("best results", "--metric: name one of the metrics (there are: error, accuracy)"),
    ("best results --metric acc", "acc: is not a logged column of numbers (did you mean accuracy?"),
    ("plot results --out x.png", "--metric: name one of the metrics (there are: error, accuracy)"),
    ("plot results --metric eror --out x.png", "'eror' is not a column of numbers there (did you mean error?"),
    ("plot results --metric error --out x.png --facet lr --top 0", "--top: must be a whole number of at least 1"),
    ("plot results --metric error --out x.bmp2", "matplotlib cannot write .bmp2 files (use one of"),
    ("results results --by learnig_rate", "did you mean learning_rate?"),
    ("results results --rep 9", "(indices of repetitions: 0, 1)"),
    ("results results --where learning_rate=7", "values of learning_rate there: 0.1, 0.2"),
    ("init train.yml", "train.yml: is a file (name a folder"),
    ("init", "train.py: exists already"),
    ("completion tcsh", "there is no 'tcsh' (there are: bash, zsh, fish)"),
    ("bets results", "there is no command 'bets' (did you mean best?"),
)


@pytest.mark.parametrize(("line", "message"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_message(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert "Traceback" not in err
    assert [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts] == before
