"""Folders, seeds, what an experiment class gets, and resolved configs that can be moved; cw2's traps 5 and 8."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amlsched.errors import ConfigError, MissingExtraError
from amlsched.experiments._config.expand import Debug, Run, expand
from amlsched.experiments._config.resolve import ResolvedExperiment, resolve
from amlsched.experiments._storage import layout

GRID = "repetitions: 2\niterations: 3\nparams: {a: 0}\ngrid: {lr: [0.1, 0.2]}\n"


def experiment(tmp_path: Path, text: str = GRID, path: str = "out") -> ResolvedExperiment:
    file = tmp_path / "f.yml"
    file.write_text(f"name: e\npath: {path}\n{text}")
    return resolve(file).experiments[0]


def first_run(tmp_path: Path, text: str = GRID, debug: Debug = "") -> Run:
    return next(expand(experiment(tmp_path, text), debug))


# ------------------------------------------------------------------------------------------------------------- folders


def test_folders_are_those_of_cw2(tmp_path: Path) -> None:
    run = first_run(tmp_path)
    assert layout.run_folder("out", run) == Path("out/e/e__l0.1")
    assert layout.log_folder("out", run) == Path("out/e/e__l0.1/log")
    assert layout.repetition_folder("out", run, 7) == Path("out/e/e__l0.1/log/rep_07")
    assert layout.repetition_folder("out", run, 123) == Path("out/e/e__l0.1/log/rep_123")
    assert layout.repetition_folder("out", first_run(tmp_path, ""), 0) == Path("out/e/log/rep_00")
    assert [layout.csv_name(7), layout.OUT_LOG, layout.ERR_LOG, layout.RECORD] == [
        "rep_7.csv",
        "out.log",
        "err.log",
        "record.json",
    ]


@pytest.mark.parametrize("debug", ["debug", "debugall"])
def test_debug_runs_have_a_folder_of_their_own(tmp_path: Path, debug: Debug) -> None:
    """Trap 8: they share the real ones in cw2, and the real run is then skipped."""
    run = first_run(tmp_path, debug=debug)
    assert layout.repetition_folder("out", run, 0) == Path("out/_debug/e/e__l0.1/log/rep_00")
    assert layout.experiment_folder("out", run.experiment, debug) == Path("out/_debug/e")
    assert layout.cw_config(run, 0, "out")["_basic_path"] == "out/_debug"


@pytest.mark.parametrize("name", ["..", ".", "", "a/../../b", "/etc", "a\0b"])
def test_no_name_leads_out_of_the_output_folder(tmp_path: Path, name: str) -> None:
    """Trap 5: the last check, of a run that was made by other means than `expand`."""
    run = Run(experiment(tmp_path), name)
    with pytest.raises(ConfigError, match="is not a valid name of a folder"):
        layout.run_folder("out", run)


@pytest.mark.parametrize("name", ["..", "a/b", "/etc"])
def test_a_given_name_of_a_run_may_not_lead_out_either(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="_experiment_name is .*, which is not a valid name of a folder"):
        experiment(tmp_path, f"_experiment_name: {name}\n")


def test_a_relative_path_starts_at_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert layout.output_folder(experiment(tmp_path)) == Path("out")
    assert layout.output_folder(experiment(tmp_path, path="/abs/out")) == Path("/abs/out")
    assert layout.output_folder(experiment(tmp_path, path="~/out")) == Path("/home/me/out")
    assert layout.output_folder(experiment(tmp_path, "_path_relative_to: file", "../out")) == tmp_path.parent / "out"


# --------------------------------------------------------------------------------------------------------------- seeds


def test_a_seed_is_made_of_the_experiments_seed_and_the_index_alone(tmp_path: Path) -> None:
    one, other = expand(experiment(tmp_path, GRID + "seed: 5\n"))
    seeds = [layout.repetition_seed(one, index) for index in range(20)]
    assert len(set(seeds)) == 20
    assert seeds == [layout.repetition_seed(other, index) for index in range(20)]
    children = np.random.SeedSequence(5).spawn(20)
    assert seeds == [int(child.generate_state(1)[0]) for child in children]
    assert all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    assert layout.repetition_seed(first_run(tmp_path), 0) != seeds[0]


def test_seeds_stay_the_same_in_every_version(tmp_path: Path) -> None:
    run = first_run(tmp_path)
    assert [layout.repetition_seed(run, index) for index in range(3)] == [3757552657, 673228719, 3241444873]


def test_without_numpy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy.random", None)
    with pytest.raises(MissingExtraError, match=re.escape("numpy: pip install 'amlsched[experiments]'")):
        layout.repetition_seed(first_run(tmp_path), 0)


# ----------------------------------------------------------------------------------------------------------- cw_config


def test_an_experiment_class_gets_what_cw2_gives_it(tmp_path: Path) -> None:
    run = first_run(tmp_path, GRID + "wandb: {project: x}\nreps_per_job: 2\n")
    assert layout.cw_config(run, 1, "out", [3, 4]) == {
        "name": "e",
        "params": {"a": 0, "lr": 0.1},
        "path": "out/e/e__l0.1",
        "log_path": "out/e/e__l0.1/log",
        "repetitions": 2,
        "iterations": 3,
        "reps_per_job": 2,
        "wandb": {"project": "x"},
        "seed": 0,
        "cpu_cores": {3, 4},
        "_basic_path": "out",
        "_nested_dir": "e",
        "_experiment_name": "e__l0.1",
        "_debug": False,
        "_rep_idx": 1,
        "_rep_log_path": "out/e/e__l0.1/log/rep_01",
        "_seed": layout.repetition_seed(run, 1),
    }


def test_without_expansions_the_nested_folder_is_empty(tmp_path: Path) -> None:
    config = layout.cw_config(first_run(tmp_path, ""), 0, "out")
    assert config["_nested_dir"] == ""
    assert config["_experiment_name"] == "e"
    assert config["cpu_cores"] is None
    assert "iterations" not in config


def test_a_config_that_an_experiment_changes_is_its_own(tmp_path: Path) -> None:
    run = first_run(tmp_path, "params: {l: [1]}\nwandb: {tags: [a]}\n")
    config = layout.cw_config(run, 0, "out")
    config["params"]["l"].append(2)
    config["wandb"]["tags"].append("b")
    assert layout.cw_config(run, 0, "out")["params"] == {"l": [1]}
    assert layout.cw_config(run, 0, "out")["wandb"] == {"tags": ["a"]}


# ---------------------------------------------------------------------------------------------------- resolved configs

INHERITED = """
name: DEFAULT
path: {out}
seed: 3
repetitions: 2
iterations: 4
params: {{opt: {{name: adam, lr: 1}}, text: "1e-3"}}
grid: {{opt: {{lr: [0.1, 1.0e-05]}}}}
---
name: parent
params: {{p: "no"}}
grid:
---
name: e
import_exp: parent
list1: {{a: [x y, xy], b: [1, 2]}}
ablative: {{beta: [1], batch: [1]}}
ablative_baseline: true
"""


def described(experiment: ResolvedExperiment, debug: Debug = "") -> list[tuple[Any, ...]]:
    """All that matters of its repetitions."""
    output = layout.output_folder(experiment)
    return [
        (layout.repetition_folder(output, run, index), run.params, run.iterations, layout.repetition_seed(run, index))
        for run in expand(experiment, debug)
        for index in range(run.repetitions)
    ]


@pytest.mark.parametrize("debug", ["", "debug", "debugall"])
def test_a_resolved_config_gives_the_same_repetitions(tmp_path: Path, debug: Debug) -> None:
    config = tmp_path / "conf.yml"
    config.write_text(INHERITED.format(out=tmp_path / "out"))
    [original] = resolve(config, "e").experiments
    file = layout.write_resolved(layout.output_folder(original), original, config, debug)
    assert file == tmp_path / "out" / ("_debug" if debug else "") / "e" / "config.yml"
    [again] = resolve(file).experiments
    assert described(again) == described(original, debug)
    assert len(described(again)) == {"": 24, "debug": 1, "debugall": 12}[debug]


def test_a_folder_can_be_moved_with_its_resolved_config(tmp_path: Path) -> None:
    original = experiment(tmp_path, path=str(tmp_path / "out"))
    layout.write_resolved(tmp_path / "out", original, "f.yml")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    [again] = resolve(tmp_path / "moved/e/config.yml").experiments
    assert layout.output_folder(again) == tmp_path / "moved"
    assert "out" not in (tmp_path / "moved/e/config.yml").read_text()


@pytest.mark.parametrize("debug", ["", "debugall"])
def test_a_single_run_can_be_written_and_taken_up_alone(tmp_path: Path, debug: Debug) -> None:
    config = tmp_path / "conf.yml"
    config.write_text(INHERITED.format(out=tmp_path / "out"))
    [original] = resolve(config, "e").experiments
    output = layout.output_folder(original)
    for run in expand(original, debug):
        file = layout.write_resolved(output, run, config)
        assert file == layout.run_folder(output, run) / "config.yml"
        [alone] = resolve(file).experiments
        [again] = expand(alone)
        assert (again.name, again.params, again.repetitions) == (run.name, run.params, run.repetitions)
        assert layout.output_folder(alone) == output
        assert layout.run_folder(output, again) == layout.run_folder(output, run)
        written = file.read_text()
        assert layout.write_resolved(output, alone, config) == file
        assert file.read_text() == written


def test_many_runs_in_one_file_are_each_found_again(tmp_path: Path) -> None:
    from amlsched.experiments._config.yaml import write

    runs = list(expand(experiment(tmp_path)))
    file = tmp_path / "all.yml"
    file.write_text(write([layout.resolved_config(run) for run in runs]))
    again = [run for one in resolve(file).experiments for run in expand(one)]
    assert [(run.name, run.params) for run in again] == [(run.name, run.params) for run in runs]


def test_a_config_that_cw2_wrote_gives_its_runs(tmp_path: Path) -> None:
    """One document a repetition, with the keys that cw2 adds."""
    document = """---
name: e
path: ./e/e__l{lr}
log_path: ./e/e__l{lr}/log
repetitions: 2
params: {{lr: {lr}}}
_basic_path: ./.
_experiment_name: e__l{lr}
_nested_dir: e
_debug: false
_rep_idx: {rep}
_rep_log_path: ./e/e__l{lr}/log/rep_0{rep}
"""
    file = tmp_path / "relative_f.yml"
    file.write_text("".join(document.format(lr=lr, rep=rep) for lr in (1, 2) for rep in (0, 1)))
    experiments = resolve(file).experiments
    folders = [str(folder) for one in experiments for folder, *_ in described(one)]
    assert folders == [f"e/e__l{lr}/log/rep_0{rep}" for lr in (1, 2) for rep in (0, 1)]


def test_an_unchanged_resolved_config_is_not_written_again(tmp_path: Path) -> None:
    file = layout.write_resolved(tmp_path / "out", experiment(tmp_path), "f.yml")
    before = file.stat()
    layout.write_resolved(tmp_path / "out", experiment(tmp_path), "f.yml")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    layout.write_resolved(tmp_path / "out", experiment(tmp_path, GRID + "seed: 2\n"), "f.yml")
    assert "seed: 2" in file.read_text()
    assert [one.name for one in file.parent.iterdir()] == ["config.yml"]
