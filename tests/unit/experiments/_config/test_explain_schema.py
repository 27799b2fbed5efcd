"""The JSON schema for editors: valid itself, takes every example, refuses what the reader refuses."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from amlsched.cli import main
from amlsched.experiments._config.explain import json_schema
from amlsched.experiments._config.yaml import read

ROOT = Path(__file__).parents[4]
FILES = sorted([*ROOT.glob("examples/**/*.yml"), *ROOT.glob("examples/**/*.yaml")])


def faults(document: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(json_schema()).iter_errors(document)]


def test_the_command_prints_a_valid_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json_schema()
    jsonschema.Draft202012Validator.check_schema(printed)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_example_fits(file: Path) -> None:
    for tree in read(file.read_text(), file.name):
        assert faults(tree.value) == []


def test_there_are_examples() -> None:
    assert FILES


GOOD = [
    "name: e",
    "name: DEFAULT\npath: out\nrepetitions: 3\nparams: {a: {b: [1]}}\nseed: null",
    "name: e\ngrid: {a: [1], b: {c: [x]}}\nlist--2: {a: [1]}\nablative_x: null\nablative_baseline: true",
    "name: e\nrepetitions: ${env:REPS}\npath: ${env:HOME}/x",
    "name: e\nwandb: {project: x}\nmy_logger: {level: 3}\n_private: 1\nx-anchors: [1]",
    "name: e\nverbosity: 2\nextra_keys: [verbosity]",
    "name: e\ngpus_per_rep: 0.5\nscheduler: mp",
    "name: slurm\npartition: main\ntime: 1:30:00\nsbatch_args: {gres: gpu:1}\nsh_lines: [ls]",
    "name: SLURM_horeka\ntime: 30\nmem-per-cpu: 2000",
    "name: my_slurm_x\ngrid: {a: [1]}",
    "name: e\nnum_checkpoints: 5\nseed: auto\nlrs: [1, 2]\nmodel: {size: [1], name: x}",
    "name: e\nsweep: {lr: [1, 2]}\nloggers: [sweep]",
    "name: e\nreps_in_parallel: -1\nscheduler: {name: cosine}",
    'name: SLURM\nnodes: 1\naccount: ""\nnum_parallel_jobs: 0',
]
BAD = [
    "path: out",
    "name: 3",
    "name: e\nrepetitions: 0",
    "name: e\nrepetitions: three",
    "name: e\nrepetitions: null",
    "name: e\nrepetitons: 3",
    "name: e\ngrid: {a: 1}",
    "name: e\ngrid: {a: {b: 1}}",
    "name: e\ngrid: {a: []}",
    "name: e\ngridsize: 3",
    "name: e\nparams: [1]",
    "name: e\nlisten_port: 80",
    "name: SLURM\npartiton: x",
    "name: SLURM\nnum_parallel_jobs: -1",
    "name: e\ngird: {a: [1]}",
    "name: e\nlsit: 3",
    "name: e\nParams: {}",
    "name: e\nparms: {}",
    "name: e\nsweep: {opt: {lr: [1, 2]}, bs: [1]}",
    "name: SLURM\ncpus_per_task: 4",
    "name: SLURM\ngrid: {a: [1]}",
    "name: SLURM\nscheduler: fast",
]


@pytest.mark.parametrize("text", GOOD)
def test_good_documents_fit(text: str) -> None:
    assert faults(read(text, "f.yml")[0].value) == []


@pytest.mark.parametrize("text", BAD)
def test_bad_documents_do_not_fit(text: str) -> None:
    assert faults(read(text, "f.yml")[0].value)
