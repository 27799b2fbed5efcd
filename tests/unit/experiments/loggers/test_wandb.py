"""Rows of repetitions in runs of wandb, without a network."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from amlsched.errors import ConfigError, MissingExtraError
from amlsched.experiments import ExperimentRun, IterativeExperiment, WandBLogger
from tests.unit.plugins.test_wandb import nothing_outside, recorded

assert nothing_outside  # a fixture
needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")


class Fakes:
    """Stands in for wandb: notes what it is told."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.rows: list[tuple[dict[str, Any], int | None]] = []
        self.artifacts: list[tuple[str, list[str], list[str]]] = []
        self.finished = 0

    def module(self) -> types.ModuleType:
        made = types.ModuleType("wandb")
        made.__spec__ = importlib.util.spec_from_loader("wandb", None)
        fakes = self

        class Run:
            def log(self, row, step=None):
                fakes.rows.append((dict(row), step))

            def log_artifact(self, artifact, aliases):
                fakes.artifacts.append((artifact.name, artifact.files, aliases))

            def finish(self):
                fakes.finished += 1

        class Artifact:
            def __init__(self, name, **_options):
                self.name, self.files = name, []

            def add_file(self, place):
                self.files.append(Path(place).name)

        def init(**options):
            fakes.begun.append(options)
            return Run()

        made.run, made.init, made.Artifact = None, init, Artifact  # type: ignore[attr-defined]
        made.Histogram = lambda np_histogram: ("histogram", np_histogram)  # type: ignore[attr-defined]
        made.teardown = lambda: None  # type: ignore[attr-defined]
        made.Settings = lambda **options: options  # type: ignore[attr-defined]
        return made


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    made = Fakes()
    monkeypatch.setitem(sys.modules, "wandb", made.module())
    return made


def config(**section: Any) -> dict[str, Any]:
    return {"name": "e", "_experiment_name": "e__lr0.1", "params": {"lr": 0.1}, "wandb": {"project": "p"} | section}


def test_a_repetition_is_a_run_with_its_name_and_parameters(fakes: Fakes, tmp_path: Path) -> None:
    logger = WandBLogger(ignore_keys=["ts"])
    logger.initialize(config(entity="us", group="g", disable_stats=True), 3, str(tmp_path))
    logger.process({"loss": 1.0, "ts": "now", "iter": 0})
    logger.finalize()
    [begun] = fakes.begun
    wanted = {
        "project": "p",
        "name": "e_lr0.1_rep_03",
        "job_type": "e_lr0.1",
        "config": {"lr": 0.1},
        "dir": str(tmp_path),
    }
    assert wanted.items() <= begun.items()
    assert (begun["entity"], begun["group"], begun["mode"]) == ("us", "g", "online")
    assert begun["settings"] == {"x_disable_stats": True}
    assert fakes.rows == [({"loss": 1.0, "iter": 0}, 0)]
    assert fakes.finished == 1


def test_the_section_says_how_often_and_whether(fakes: Fakes, tmp_path: Path) -> None:
    logger = WandBLogger()
    logger.initialize(config(log_interval=2, histogram=["h"], enabled=False, job_type="j"), 0, str(tmp_path))
    for n in range(4):
        logger.process({"iter": n, "h": [n]})
    logger.finalize()
    assert (fakes.begun[0]["mode"], fakes.begun[0]["job_type"]) == ("disabled", "j")
    assert fakes.rows == [({"iter": n, "h": ("histogram", [n])}, n) for n in (0, 2)]


def test_a_user_s_own_iter_need_be_no_number_of_steps(fakes: Fakes, tmp_path: Path) -> None:
    logger = WandBLogger()
    logger.initialize(config(log_interval=2), 0, str(tmp_path))
    for iteration in ("first", 0.5, None):
        logger.process({"iter": iteration})
    logger.finalize()
    assert [step for _, step in fakes.rows] == [None] * 3


def test_a_model_is_kept_from_the_folder_that_the_config_names(fakes: Fakes, tmp_path: Path) -> None:
    logger, given = WandBLogger(), config(log_model=True, model_name="net")
    logger.initialize(given, 1, str(tmp_path))
    Path(given["save_model_dir"]).mkdir()
    (Path(given["save_model_dir"]) / "weights.bin").touch()
    logger.finalize()
    assert fakes.artifacts == [("net", ["weights.bin"], ["latest", "finished-rep-1"])]
    assert fakes.finished == 1


def test_without_a_section_nothing_is_logged_there(fakes: Fakes, tmp_path: Path, caplog) -> None:
    logger, given = WandBLogger(), config()
    del given["wandb"]
    logger.initialize(given, 0, str(tmp_path))
    logger.process({"iter": 0})
    logger.finalize()
    assert fakes.begun == []
    assert "nothing is logged" in caplog.text


def test_without_a_project_it_is_an_error(fakes: Fakes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wandb has no project"):
        WandBLogger().initialize(config(project=None), 0, str(tmp_path))


def test_without_wandb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("amlsched.experiments.loggers.wandb.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"amlsched\[wandb\]"):
        WandBLogger()


class Losses(IterativeExperiment):
    def iterate(self, cw_config, rep, n):
        return {"loss_of_the_epoch": n / 10}


@needs_wandb
def test_rows_of_an_experiment_are_in_the_files_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yml").write_text(
        "{name: e, path: out, repetitions: 2, iterations: 2, wandb: {project: p, mode: offline, disable_stats: true}}"
    )
    summary = ExperimentRun(Losses, "config.yml", executor="sequential", loggers=[WandBLogger()]).run()
    assert summary.complete, summary.failed
    for rep in range(2):
        recorded(tmp_path / f"out/e/log/rep_0{rep}", 1, b"loss_of_the_epoch", f"e_rep_0{rep}".encode())
