"""Runs of wandb around calls, without a network."""

from __future__ import annotations

import importlib.util
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from amlsched import MissingExtraError, Scheduler
from amlsched.plugins import WandbPlugin
from amlsched.plugins.wandb import WandbParams

needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for variable in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DISABLE_GIT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("WANDB__DISABLE_STATS", "true")
    monkeypatch.setenv("WANDB__DISABLE_MACHINE_INFO", "true")
    yield
    if importlib.util.find_spec("wandb") is not None:
        import wandb

        wandb.teardown()


def recorded(folder: Path, n: int, *texts: bytes) -> list[bytes]:
    """The files of the `n` runs, in each of which these texts stand.

    A service of wandb writes the files, and ends them a moment after the run.
    """
    deadline = time.monotonic() + 60
    while True:
        files = [path.read_bytes() for path in folder.glob("wandb/offline-run-*/run-*.wandb")]
        if len(files) == n and all(text in file for file in files for text in texts):
            return files
        assert time.monotonic() < deadline, f"of {texts} in each of {n} files, there are {files}"
        time.sleep(0.01)


def train(rate: float, seed: int = 0) -> dict[str, Any]:
    import wandb

    wandb.log({"loss_of_the_epoch": rate})
    if rate < 0:
        raise ValueError("no luck")
    return {"best_loss": rate, "note": "not a number", "run": wandb.run.id}


def train_in_thread(rate: float, *, run: Any) -> str:
    run.log({"loss_of_the_epoch": rate})
    return str(run.id)


def run_all(scheduler: Scheduler, function: Any, plugin: WandbPlugin, rates: list[Any]) -> list[Any]:
    task = scheduler.task(function, plugins=plugin)
    ends: list[Any] = []
    task.on_result(lambda _, result: ends.append(result))
    task.on_exception(lambda _, error: ends.append(error))
    scheduler.on_start(lambda: [task.submit(rate) for rate in rates])
    scheduler.run(on_exception="continue")
    return ends


@needs_wandb
@pytest.mark.parametrize("executor", ["sequential", "processes"])
def test_each_call_has_a_run_of_its_own(executor: str, tmp_path: Path) -> None:
    plugin = WandbPlugin(project="p", mode="offline", dir=tmp_path, group="some-group", tags=["some-tag"])
    results = run_all(Scheduler.from_name(executor), train, plugin, [0.5, 0.25])
    assert len({result["run"] for result in results}) == 2
    texts = (b"rate", b"loss_of_the_epoch", b"best_loss", b"some-group", b"some-tag")
    files = recorded(tmp_path, 2, *texts)
    assert sorted(name for name in (b"train-1", b"train-2") if any(name in file for file in files)) == [
        b"train-1",
        b"train-2",
    ]


@needs_wandb
def test_calls_in_threads_reach_their_run_by_a_keyword(tmp_path: Path) -> None:
    plugin = WandbPlugin(project="p", mode="offline", dir=tmp_path, parameter_name="run")
    results = run_all(Scheduler.with_threads(2), train_in_thread, plugin, [0.5, 0.25, 0.125])
    assert len(set(results)) == 3
    assert len(recorded(tmp_path, 3, b"loss_of_the_epoch")) == 3


@needs_wandb
def test_a_call_that_raises_makes_a_failed_run_and_keeps_its_exception(tmp_path: Path) -> None:
    plugin = WandbPlugin(project="p", mode="offline", dir=tmp_path)
    (error,) = run_all(Scheduler.with_sequential(), train, plugin, [-1.0])
    assert isinstance(error, ValueError)
    (file,) = recorded(tmp_path, 1, b"loss_of_the_epoch")
    assert b"best_loss" not in file


@needs_wandb
def test_a_run_of_the_program_stays_open_beside_those_of_calls(tmp_path: Path) -> None:
    plugin = WandbPlugin(project="p", mode="offline", dir=tmp_path, parameter_name="run")
    with plugin.run(name="the-search", config={"budget": 3}) as search:
        results = run_all(Scheduler.with_sequential(), train_in_thread, plugin, [0.5])
        search.summary.update({"best_of_all": 1})
    assert results != [search.id]
    files = recorded(tmp_path, 2, b"_runtime")
    assert [b"best_of_all" in file and b"budget" in file for file in files].count(True) == 1


@dataclass
class Report:
    trial: Any
    summary: dict[str, Any]

    def df(self) -> Any:
        import pandas as pd

        return pd.DataFrame([self.summary])


@dataclass
class Trial:
    name: str
    config: dict[str, Any]
    extras: dict[str, Any] = field(default_factory=dict)


def evaluate(trial: Trial) -> Report:
    trial.extras["wandb"].log({"loss_of_the_epoch": 1})
    return Report(trial, {"cost_of_trial": 3.0})


def name_the_job(trial: Trial, params: WandbParams) -> WandbParams:
    return params.modify(job_type=f"job-of-{trial.name}")


@needs_wandb
def test_a_trial_gives_name_and_config_and_its_report_the_summary(tmp_path: Path) -> None:
    plugin = WandbPlugin(project="p", mode="offline", dir=tmp_path).trial_tracker("trial", modify=name_the_job)
    (report,) = run_all(Scheduler.with_sequential(), evaluate, plugin, [Trial("the-trial", {"depth_of_the_tree": 3})])
    assert report.trial.extras == {}
    texts = (b"the-trial", b"job-of-the-trial", b"depth_of_the_tree", b"cost_of_trial", b"table")
    assert len(recorded(tmp_path, 1, *texts)) == 1


@needs_wandb
def test_a_disabled_plugin_writes_nothing(tmp_path: Path) -> None:
    plugin = WandbPlugin(project="p", mode="disabled", dir=tmp_path)
    assert len(run_all(Scheduler.with_sequential(), train, plugin, [0.5])) == 1
    assert recorded(tmp_path, 0) == []


@needs_wandb
def test_the_numbers_of_the_calls_reset_in_child_with_each_run_of_the_scheduler() -> None:
    plugin = WandbPlugin(project="p", mode="disabled")
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(train, plugins=plugin)
    scheduler.on_start(lambda: task.submit(1.0))
    for _ in range(2):
        scheduler.run()
        assert str(plugin) == "wandb: 1 run in project p (disabled)"


@needs_wandb
def test_what_a_config_cannot_show_is_named_by_its_type() -> None:
    from amlsched.plugins.wandb import _plain

    assert _plain({"a": [1, (2.0, None)], "b": object(), "c": "d"}) == {
        "a": [1, [2.0, None]],
        "b": "<object>",
        "c": "d",
    }


@needs_wandb
def test_a_wrapped_function_travels_and_keeps_its_name(tmp_path: Path) -> None:
    plugin = WandbPlugin(project="p", mode="offline", dir=tmp_path)
    wrapped, _, _ = plugin.pre_submit(train, 0.5)
    assert pickle.loads(pickle.dumps(wrapped)).__name__ == "train"


def test_without_wandb_the_plugin_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amlsched.plugins.wandb.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"WandbPlugin needs wandb: pip install 'amlsched\[wandb\]'"):
        WandbPlugin(project="p")
