"""Where each value of a config comes from, and `amlsched config explain`."""

from pathlib import Path

import pytest

from amlsched.cli import main
from amlsched.experiments._config.expand import expand
from amlsched.experiments._config.explain import explained, settings
from amlsched.experiments._config.resolve import resolve

BASE = """\
name: DEFAULT
iterations: 7
---
name: parent
params: {depth: 3}
"""
FILE = """\
name: DEFAULT
path: ${env:WHERE:out}
repetitions: 3
params:
  opt: {name: adam, lr: 1}
---
name: e
import_path: base.yml
import_exp: parent
reps_per_job: 4
params:
  bs: 32
grid:
  opt: {lr: [0.1, 1e-5]}
ablative: {depth: [4]}
---
name: SLURM
partition: main
"""


@pytest.fixture
def file(folder: Path) -> Path:
    Path("base.yml").write_text(BASE)
    Path("f.yml").write_text(FILE)
    return Path("f.yml")


def test_each_value_has_its_file_line_and_kind(file: Path) -> None:
    [one] = resolve(file, overrides=["params.bs=5", "params.new=x"]).experiments
    assert [(value.key, value.value, value.origin) for value in explained(one)] == [
        ("iterations", 7, "base.yml:2, imported from DEFAULT"),
        ("params.depth", 3, "base.yml:5, imported from parent"),
        ("params.opt.name", "adam", "f.yml:5, DEFAULT"),
        ("params.opt.lr", 1, "f.yml:5, DEFAULT; replaced by grid.opt.lr"),
        ("params.bs", 5, "command line, --set params.bs=5"),
        ("params.new", "x", "command line, --set params.new=x"),
        ("path", "out", "f.yml:2, DEFAULT, with environment variables"),
        ("repetitions", 3, "f.yml:3, DEFAULT"),
        ("reps_per_job", 4, "f.yml:10"),
        ("grid.opt.lr", [0.1, 1e-5], "f.yml:14"),
        ("ablative.depth", [4], "f.yml:15"),
        ("_import_path_archive", "base.yml", "f.yml:8"),
        ("_import_exp_archive", "parent", "f.yml:9"),
        ("seed", 0, "built in"),
        ("reps_in_parallel", 1, "built in"),
    ]
    assert [settings(run) for run in expand(one)] == [
        {"grid.opt.lr": 0.1, "ablative.depth": 4},
        {"grid.opt.lr": 1e-5, "ablative.depth": 4},
    ]


def test_the_command_shows_values_runs_folders_jobs_and_the_section(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "explain", str(file), "-e", "e", "--set", "params.bs=5"]) == 0
    told = capsys.readouterr().out
    words = " ".join(told.split())
    assert "e (f.yml:7 (document 2))" in words
    assert "params.bs 5 command line, --set params.bs=5" in words
    assert "2 runs × 3 repetitions" in words
    assert "e__opt.l0.1_d4 grid.opt.lr = 0.1, ablative.depth = 4 out/e/e__opt.l0.1_d4" in words
    assert "2 jobs:" in words
    assert "job 0: e__opt.l0.1_d4 rep 0-2, e__opt.l1e-05_d4 rep 0 (1 at a time)" in words
    assert "job 1: e__opt.l1e-05_d4 rep 1-2" in words
    assert "partition main" not in words.split("jobs:")[0]
    assert 'partition "main" f.yml:18' in words
    assert not Path("out").exists()


def test_a_debug_run_is_explained_as_it_would_be(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["config", "explain", str(file), "--set", "reps_in_parallel=1"]
    assert main([*words, "--debug"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "iterations 7 base.yml:2, imported from DEFAULT; 1 with --debug" in told
    assert "repetitions 3 f.yml:3, DEFAULT; 1 with --debug" in told
    assert "grid.opt.lr [0.1, 1e-05] f.yml:14; only the first combination with --debug" in told
    assert "reps_in_parallel 1 command line, --set reps_in_parallel=1 seed" in told
    assert "1 run × 1 repetition," in told
    assert "e__opt.l0.1_d4 grid.opt.lr = 0.1, ablative.depth = 4 out/_debug/e/e__opt.l0.1_d4" in told
    assert "1 job: job 0: e__opt.l0.1_d4 rep 0" in told
    assert main([*words, "--debugall"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "repetitions 3 f.yml:3, DEFAULT; 1 with --debugall" in told
    assert "grid.opt.lr [0.1, 1e-05] f.yml:14 ablative" in told
    assert "2 runs × 1 repetition," in told
    assert "2 jobs: job 0: e__opt.l0.1_d4 rep 0 job 1: e__opt.l1e-05_d4 rep 0" in told


def test_a_long_list_is_cut_unless_all_is_asked_for(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = ["--set", f"grid.x={list(range(50))}", "--set", "reps_per_job=1"]
    assert main(["config", "explain", str(file), *many]) == 0
    told = capsys.readouterr().out
    assert "… and 80 more runs" in told
    assert "… and 280 more jobs" in told
    assert main(["config", "explain", str(file), *many, "--all"]) == 0
    assert "job 299:" in capsys.readouterr().out


def test_a_wrong_config_is_told_as_elsewhere(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", str(file), "-e", "x"]) == 2
    assert "there is no experiment 'x'" in capsys.readouterr().err
