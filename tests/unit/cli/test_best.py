"""The best run, its config, and tables for papers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

from amlsched.cli import main
from amlsched.experiments import ExperimentRun, Plan, load

CONFIG = """
name: nets
path: results
repetitions: 4
params: {width: 8, opt: {name: sgd}}
grid: {lr: [0.1, 0.2, 0.3, 0.4]}
"""
ACCURACY = {
    0.1: [0.5, 0.6, 0.5, 0.6],
    0.2: [0.9, 0.8, 0.9, 0.8],
    0.3: [0.9, 0.7, 0.8, 0.9],
    0.4: [0.99, math.nan, 1, 1],
}


def experiment(params: dict[str, Any], rep: int, log: Any) -> None:
    log(accuracy=ACCURACY[params["lr"]][rep], loss=1 - ACCURACY[params["lr"]][rep], note="a_b & c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("project")
    (place / "config.yml").write_text(CONFIG)
    ExperimentRun(experiment, Plan(place / "config.yml", results=place / "results"), executor="sequential").run()
    return place


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_the_best_run_is_compared_to_the_others_by_welch(here: Path) -> None:
    ranking = load("results").ranking("accuracy")
    assert list(ranking["run"]) == ["nets__l0.2", "nets__l0.3", "nets__l0.1", "nets__l0.4"]
    assert list(ranking["clearly_worse"])[:3] == [False, False, True]
    assert math.isnan(ranking["mean"].iloc[3])  # it has a NaN, though its other values are the highest
    for row, lr in ((1, 0.3), (2, 0.1)):
        interval = stats.ttest_ind(ACCURACY[lr], ACCURACY[0.2], equal_var=False).confidence_interval(0.95)
        low, high = ranking["difference_low"].iloc[row], ranking["difference_high"].iloc[row]
        # The degrees of freedom are rounded down, so the interval is never too narrow.
        assert low <= interval.low + 1e-9
        assert interval.high <= high + 1e-9
        assert high - low <= 1.1 * (interval.high - interval.low)


def test_lower_is_better_if_asked_for(here: Path) -> None:
    assert next(iter(load("results").ranking("loss", minimize=True)["run"])) == "nets__l0.2"
    assert next(iter(load("results").ranking("loss", "params.lr")["lr"])) == 0.1


def test_best_prints_the_run_its_interval_and_those_that_may_be_as_good(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["best", "results", "--metric", "accuracy"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "Highest accuracy: nets__l0.2 (--min takes the lowest)"
    assert lines[1] == "  0.85 ± 0.092  (4 repetitions; 95 % interval of the mean: 0.7581 to 0.9419)"
    assert "Not clearly worse: 1 of 2 others." in lines
    assert lines[-1].split()[:3] == ["nets__l0.3", "4", "0.825"]
    assert "nets__l0.4" in err


def test_the_direction_follows_from_the_name_and_from_the_options(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, first in (
        (["loss"], "Lowest loss: nets__l0.2 (--max takes the highest)"),
        (["loss", "--max"], "Highest loss: nets__l0.1"),
        (["accuracy", "--min"], "Lowest accuracy: nets__l0.1"),
        (["accuracy", "--by", "params.lr"], "Highest accuracy: lr = 0.2 (--min takes the lowest)"),
    ):
        assert main(["best", "results", "--metric", *words]) == 0
        assert capsys.readouterr().out.splitlines()[0] == first


def test_its_config_runs_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best", "results", "--metric", "accuracy", "--config", "best.yml"]) == 0
    config = yaml.safe_load((here / "best.yml").read_text())
    assert config == {
        "name": "best_nets__l0.2",
        "path": "results",
        "repetitions": 4,
        "params": {"width": 8, "opt": {"name": "sgd"}, "lr": 0.2},
    }
    again = ExperimentRun(experiment, Plan("best.yml", results="again"), executor="sequential").run()
    assert (again.done, again.total) == (4, 4)
    capsys.readouterr()
    assert main(["best", "results", "--metric", "accuracy", "--config", "-"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == config


def test_one_repetition_has_no_interval(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best", "results", "--metric", "accuracy", "--rep", "0"]) == 0
    out = capsys.readouterr().out
    assert "1 repetition, so no interval" in out
    assert "Not clearly worse: 3 of 3 others." in out
    assert "one repetition" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["accuracy", "--where", "lr=0.4"], "every group has a value of accuracy that is missing or not finite"),
        (["acuracy"], "did you mean accuracy?"),
        (["note"], "is not a logged column of numbers"),
        (["accuracy", "--by", "params.rl"], "is not a column of these results"),
        (["accuracy", "--min", "--max"], "not allowed with"),
    ],
)
def test_what_cannot_be_compared_is_one_message(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["best", "results", "--metric", *words]) == 2
    assert message in capsys.readouterr().err


def test_tables_for_papers_have_the_best_in_bold(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["results", "results", "--by", "run", "--metric", "accuracy", "loss"]
    assert main([*words, "--markdown", "-"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "| lr | accuracy | loss |"
    assert rows[3] == "| 0.2 | **0.85 ± 0.058** | **0.15 ± 0.058** |"
    assert rows[5].startswith("| 0.4 | 0.9967 ± 0.0058 (3 of 4) |")  # never bold, though its other values are the best
    assert main([*words, "--max", "loss", "--min", "accuracy", "--latex", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == r"\begin{tabular}{rrr}"
    assert r"0.1 & \textbf{0.55 $\pm$ 0.058} & \textbf{0.45 $\pm$ 0.058} \\" in lines
    assert lines[-1] == r"\end{tabular}"


def test_text_in_latex_is_escaped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "results", "--latex", "-", "--rep", "0"]) == 0
    assert r"nets\_\_l0.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--min", "loss"], "add --by"),
        (["--by", "run", "--max", "los"], "did you mean loss?"),
    ],
)
def test_a_direction_needs_a_metric_of_the_table(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["results", "results", *words, "--markdown", "-"]) == 2
    assert message in capsys.readouterr().err


def test_several_metrics_are_given_together_or_one_by_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for words in (["--metric", "loss", "accuracy"], ["--metric", "loss", "--metric", "accuracy"]):
        assert main(["results", "results", "--by", "run", *words]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]
    assert {"loss", "accuracy"} <= set(found[0].split())
