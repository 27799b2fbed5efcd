"""Folders of experiments that were copied, renamed or linked: a folder is what lies in it, and nothing counts twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from amlsched.cli import main
from amlsched.experiments import ExperimentRun, Plan, load
from amlsched.experiments._storage.record import State
from amlsched.experiments.results import plot
from amlsched.experiments.results.survey import summarized, survey

CONFIG = "{name: train, path: results, repetitions: 2, grid: {lr: [0.1, 0.2]}}"
RESULTS = Path("results")
ALL = [("train__l0.1", 0), ("train__l0.1", 1), ("train__l0.2", 0), ("train__l0.2", 1)]


def train(params: dict[str, Any], rep: int, log: Any) -> None:
    for n in range(3):
        log(loss=n + rep)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yml").write_text(CONFIG)
    run()


def run(**options: Any) -> int:
    return ExperimentRun(train, Plan("c.yml", **options), executor="sequential").run().ran


def listed(folder: str | Path = RESULTS) -> dict[str, list[tuple[str, int]]]:
    """The repetitions that are done, by experiment; there must be no others."""
    found: dict[str, list[tuple[str, int]]] = {}
    for one in survey(folder):
        assert one.record.state is State.COMPLETED
        found.setdefault(one.name, []).append((one.run, one.rep))
    frame = load(folder)
    assert list(frame.index) == [(name, rep) for name, places in found.items() for _, rep in places]
    summary = summarized(survey(folder))
    assert summary.total == summary.done == sum(map(len, found.values()))
    assert all(tally.total == 2 for tally in summary.tallies.values())
    return found


def below(name: str) -> list[tuple[str, int]]:
    return [(f"{name}/{one}", rep) for one, rep in ALL]


def test_a_copy_of_an_experiment_is_shown_beside_it_and_never_summed(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(RESULTS / "train", RESULTS / "train_backup")
    assert listed() == {"train": ALL, "train_backup": below("train_backup")}
    table = load(RESULTS).summary("params.lr", ["loss"])
    assert list(zip(table["name"], table["lr"], table["n"], strict=True)) == [
        ("train", 0.1, 2),
        ("train", 0.2, 2),
        ("train_backup", 0.1, 2),
        ("train_backup", 0.2, 2),
    ]
    assert "name" not in load(RESULTS).experiment("train").summary("params.lr", ["loss"]).columns
    assert run() == 0
    assert main(["status", "results"]) == 0
    assert "train_backup: holds repetitions of train" in capsys.readouterr().err


def test_curves_of_a_copy_are_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(RESULTS / "train", RESULTS / "copy")
    labels: list[str] = []
    monkeypatch.setattr(plot, "_draw", lambda curves, look, axes: labels.extend(one.label for one in curves))
    plot.plot_curves(RESULTS, "loss", "curves.png", by="params.lr")
    assert sorted(labels) == ["copy, lr = 0.1", "copy, lr = 0.2", "train, lr = 0.1", "train, lr = 0.2"]


def test_a_renamed_experiment_has_what_it_had_and_nothing_waits(capsys: pytest.CaptureFixture[str]) -> None:
    (RESULTS / "train").rename(RESULTS / "train_old")
    assert listed() == {"train_old": below("train_old")}
    assert run() == 4
    assert listed() == {"train": ALL, "train_old": below("train_old")}


def test_the_folder_of_a_renamed_experiment_can_be_asked_for() -> None:
    (RESULTS / "train").rename(RESULTS / "train_old")
    assert listed(RESULTS / "train_old") == {"train_old": below("train_old")}


def test_an_experiment_without_expansions_is_told_from_its_copy() -> None:
    Path("c.yml").write_text("{name: plain, path: results, repetitions: 2}")
    run()
    shutil.copytree(RESULTS / "plain", RESULTS / "other")
    found = listed()
    assert found["plain"] == [("plain", 0), ("plain", 1)]
    assert found["other"] == [("other", 0), ("other", 1)]


def test_a_link_to_a_folder_elsewhere_is_the_experiment_as_for_run() -> None:
    Path("disk").mkdir()
    (RESULTS / "train").rename("disk/t2")
    (RESULTS / "train").symlink_to("../disk/t2")
    assert listed() == {"train": ALL}
    assert run() == 0


@pytest.mark.parametrize("name", ["a_link", "z_link"])
def test_a_link_beside_its_folder_is_not_counted_again(name: str) -> None:
    (RESULTS / name).symlink_to("train")
    assert listed() == {"train": ALL}


def test_a_linked_results_folder_is_read_under_its_own_name() -> None:
    RESULTS.rename("disk")
    RESULTS.symlink_to("disk")
    assert listed() == {"train": ALL}
    assert run() == 0


def test_a_copy_below_another_folder_is_shown_by_its_path() -> None:
    shutil.copytree(RESULTS / "train", RESULTS / "old" / "train")
    assert listed() == {"train": ALL, "old/train": below("old/train")}


def test_a_results_folder_in_a_results_folder_is_shown_by_its_path() -> None:
    shutil.copytree(RESULTS, "copy")
    shutil.move("copy", RESULTS / "copy")
    assert listed() == {"train": ALL, "copy/train": below("copy/train")}


def test_a_copied_run_is_shown_by_its_own_name() -> None:
    shutil.copytree(RESULTS / "train/train__l0.1", RESULTS / "train/l0.1_backup")
    place = "train/l0.1_backup"
    assert listed() == {"train": ALL, place: [(place, 0), (place, 1)]}
    assert list(load(RESULTS).summary("params.lr", ["loss"])["n"]) == [2, 2, 2]


def test_a_copied_run_does_not_pass_for_another(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(RESULTS / "train/train__l0.2")
    shutil.copytree(RESULTS / "train/train__l0.1", RESULTS / "train/train__l0.2")
    states = [(one.run, one.record.state.value) for one in survey(RESULTS)]
    assert states[2:] == [("train__l0.2", "unknown")] * 2
    assert "the record of train__l0.1 rep 0, copied or moved here" in summarized(survey(RESULTS)).failed[0][2]
    assert list(load(RESULTS).summary("params.lr", ["loss"])["n"]) == [2]


def test_a_copied_repetition_does_not_pass_for_another() -> None:
    log = RESULTS / "train/train__l0.1/log"
    shutil.copytree(log / "rep_00", log / "rep_02")
    place = "train/train__l0.1/log/rep_02"
    assert [(one.name, one.rep) for one in survey(RESULTS)][-1] == (place, 0)
    Path("c.yml").write_text(CONFIG.replace("repetitions: 2", "repetitions: 3"))
    summary = ExperimentRun(train, Plan("c.yml"), executor="sequential").run()
    assert (summary.ran, summary.states[State.UNKNOWN]) == (1, 1)
    assert summary.failed[0][2].endswith("(remove the folder, or run with --rerun unknown)")
    assert [one.record.state.value for one in survey(RESULTS) if one.rep == 2] == ["unknown", "completed"]
    assert run(rerun=["unknown"]) == 1
    assert summarized(survey(RESULTS)).complete


def test_a_link_from_one_repetition_to_another_is_counted_once() -> None:
    log = RESULTS / "train/train__l0.1/log"
    (log / "rep_07").symlink_to("rep_00")
    assert sum(map(len, listed().values())) == 4


def test_a_copy_whose_config_is_gone_is_shown_by_its_path() -> None:
    shutil.copytree(RESULTS / "train", RESULTS / "copy")
    (RESULTS / "copy/config.yml").unlink()
    assert listed() == {"train": ALL, "copy": below("copy")}


def test_what_was_run_is_shown_with_the_settings_that_it_was_run_with() -> None:
    Path("c.yml").write_text("{name: kept, path: results, params: {lr: 0.1}}")
    run()
    Path("c.yml").write_text("{name: kept, path: results, repetitions: 2, params: {lr: 0.5}}")
    ExperimentRun(train, Plan("c.yml"), executor="sequential", keep_changed=True).run()
    assert list(load(RESULTS).experiment("kept")["lr"]) == [0.1, 0.5]
