"""`amlsched config check`: everything that would go wrong, not only the first."""

import os
from pathlib import Path

import pytest

from amlsched.cli import main
from amlsched.experiments._planning.checks import check

pytestmark = pytest.mark.usefixtures("folder")

EVERYTHING = """\
name: DEFAULT
path: out
repetitons: 3
params: {opt: adam}
---
params: {}
---
name: scalar
grid: {lr: 0.1, bs: []}
---
name: unequal
list: {a: [1, 2], b: [1]}
params:
  a: 1
  a: 2
---
name: twice
grid: {a: [1, 1], opt: {lr: [1]}}
reps_per_job: 0
---
name: ../up
---
name: SLURM_x
partiton: y
time: soon
---
name: lost
import_exp: nobody
---
name: circle
import_exp: circle
---
name: gridsize
gridsize: 3
---
name: variable
path: ${env:AMLSCHED_ABSENT}
wandb: !object {x: 1}
---
name: scalar
---
just a text
"""

EXPECTED = [
    "f.yml:15: the key a is given twice, first on line 14",
    "f.yml:38: the tag !object is not supported",
    "f.yml:6 (document 2): this document has no name",
    "f.yml:42 (document 13): a document must be a mapping",
    "f.yml:25 (document 7, key time): time is 'soon'",
    "f.yml:24 (document 7, key partiton): the key partiton is not known in a SLURM section",
    "f.yml:40 (document 12, key name): a second experiment 'scalar'",
    "f.yml:3 (document 1, key repetitons): the key repetitons is not known",
    "f.yml:9 (document 3, key grid.lr): 0.1 in a grid is not a list",
    "f.yml:9 (document 3, key grid.bs): the list is empty",
    "f.yml:12 (document 4, key list): the lists of list have unequal lengths",
    "f.yml:19 (document 5, key reps_per_job): reps_per_job is 0",
    "f.yml:18 (document 5, key grid.a): a = 1 is given twice",
    "f.yml:18 (document 5, key grid.opt.lr): params sets opt to 'adam'",
    "f.yml:21 (document 6, key name): the name '../up' starts with a dot",
    "f.yml:28 (document 8, key import_exp): there is no nobody",
    "f.yml:31 (document 9, key import_exp): these import each other in a cycle",
    "f.yml:34 (document 10, key gridsize): gridsize is 3, not a mapping",
    "f.yml:37 (document 11, key path): the environment variable AMLSCHED_ABSENT is not set",
]

TARGET = """
from amlsched.experiments import IterativeExperiment


class Steps(IterativeExperiment):
    def initialize(self, config, rep, logger): ...
    def iterate(self, config, rep, n): return {}


def wrong(): ...
"""


def written(text: str) -> str:
    Path("f.yml").write_text(text)
    return "f.yml"


def test_all_faults_of_a_file_are_found_each_once() -> None:
    found = [str(fault) for fault in check(written(EVERYTHING)).faults]
    for one in EXPECTED:
        assert sum(fault.startswith(one) for fault in found) == 1, (one, found)
    assert len(found) == len(EXPECTED), found


def test_the_command_tells_all_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", written("name: a\npath: out\nrepetitions: 0\niterations: x\n")]) == 2
    told = capsys.readouterr().out
    assert "f.yml:3 (document 1, key repetitions): repetitions is 0" in told
    assert "f.yml:4 (document 1, key iterations): iterations is 'x'" in told
    assert told.endswith("2 problems.\n")
    assert main(["config", "check", written("name: a\npath: out\nrepetitions: 3\nreps_per_job: 2\n")]) == 0
    assert capsys.readouterr().out == "No problems: 1 experiment, 3 repetitions, 2 jobs.\n"
    assert not Path("out").exists()


def test_the_target_is_looked_at_too() -> None:
    Path("steps_to_check.py").write_text(TARGET)
    file = written("name: a\npath: out\n---\nname: b\npath: out\niterations: 3\n---\nname: c\npath: out\n")
    faults = [str(fault) for fault in check(file, "steps_to_check.py:Steps").faults]
    assert len(faults) == 2
    assert "f.yml:1 (document 1): Steps is an IterativeExperiment, but the key iterations is missing" in faults[0]
    [fault] = check(file, "steps_to_check.py:wrong").faults
    assert "cannot be called as experiment(params, rep, log)" in str(fault)
    [fault] = check(file, "absent.py:Steps", select=["a"]).faults
    assert "there is no such file" in str(fault)


def test_a_folder_that_cannot_be_written_is_found_and_none_is_made() -> None:
    Path("taken").write_text("")
    [fault] = check(written("name: a\npath: taken/results\n")).faults
    assert "cannot be created" in str(fault)
    assert check(written("name: a\npath: some/where/new\n")).faults == []
    assert not Path("some").exists()


def test_a_folder_without_the_right_to_write_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("locked").mkdir()
    monkeypatch.setattr(os, "access", lambda place, _: Path(place).name != "locked")  # root may write anywhere
    [fault] = check(written("name: a\npath: locked/results\n")).faults
    assert "no permission to write" in str(fault)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("venv: nowhere/env", "venv is 'nowhere/env', but there is no file"),
        ("path_to_template: nowhere.sh", "path_to_template nowhere.sh cannot be read: No such file or directory"),
        ("path_to_template: .", "path_to_template . cannot be read: Is a directory"),
        ("path_to_template: bytes.sh", "path_to_template bytes.sh cannot be read: it is not UTF-8"),
    ],
)
def test_what_a_section_names_and_is_not_here_is_noted(line: str, told: str) -> None:
    Path("bytes.sh").write_bytes(b"\xff")
    found = check(written(f"name: a\npath: out\n---\nname: SLURM\npartition: cpu\n{line}\n"))
    assert (found.faults, len(found.notes), told in found.notes[0]) == ([], 1, True), found.notes


def test_names_that_are_told_apart_are_noted() -> None:
    found = check(written("name: a\npath: out\ngrid: {v: ['a b', ab, a/b]}\n"))
    assert found.faults == []
    [note] = found.notes
    assert "2 runs have a suffix" in note
    assert "a__vab-" in note


def test_an_array_that_is_too_large_is_noted_where_slurm_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = folder / "bin"
    commands.mkdir()
    for name, told in {"sbatch": "", "scontrol": "MaxArraySize            = 5"}.items():
        (commands / name).write_text(f"#!/bin/sh\necho '{told}'\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    text = "name: a\npath: out\nrepetitions: {}\n---\nname: SLURM\n"
    assert check(written(text.format(4))).notes == []
    [note] = check(written(text.format(6))).notes
    assert "6 jobs do not fit in one array, which may have " in note


def test_faults_of_the_command_line_are_found_too() -> None:
    found = check(written("name: a\npath: out\n"), overrides=["params", "repetitions=0", "name=x"])
    assert len(found.faults) == 3
    assert all(str(fault).startswith("command line (--set ") for fault in found.faults)


@pytest.mark.parametrize("text", ["a: [1", "", "\x01", "name: DEFAULT\n"])
def test_a_file_that_cannot_be_read_on_has_its_fault(text: str) -> None:
    assert len(check(written(text)).faults) == 1


NOTED = """\
name: DEFAULT
path: out
num_checkpoints: 5
params: {lr: 1e-3}
---
name: a
---
name: b
grid: {lr: [1, 2]}
"""


def test_a_run_tells_notes_once_and_what_yaml_1_1_reads_differently_when_it_is_new(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "t.py").write_text("def f(params, rep, log): log(lr=params['lr'])\n")

    def notes(*flags: str) -> list[str]:
        assert main(["run", "t.py:f", "f.yml", "--executor", "sequential", *flags]) == 0
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]

    written(NOTED)
    for flags in (["--dry-run"], []):
        other, own = notes(*flags)
        assert other.endswith('line 4: params.lr is 0.001 (YAML 1.1: "1e-3")')
        assert own.startswith("note: f.yml:3 (document 1, key num_checkpoints): ")
    assert notes() == [own]
    assert notes("-q", "-o") == []
    written(NOTED.replace("1e-3", "010"))
    assert len(notes("-o")) == 2
    written(NOTED.replace("path: out", "path: out\nextra_keys: [num_checkpoints]").replace("1e-3", "1"))
    assert notes("--keep-changed") == []


def test_a_job_that_is_run_by_its_number_is_named_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "t.py").write_text("def f(params, rep, log): print('ran', params)\n")
    written("name: e\npath: out\nrepetitions: 2\nreps_per_job: 3\ngrid: {a: [1, 2]}")
    for quiet in ([], ["-q"]):
        assert main(["run", "t.py:f", "f.yml", "--executor", "sequential", "-j", "1", *quiet]) == 0
        assert capsys.readouterr().out.startswith("job 1: e__a2 rep 1\n")
    assert not (folder / "out/e/e__a1/log").exists()
