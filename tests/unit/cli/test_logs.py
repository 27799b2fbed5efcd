"""What repetitions printed, shown by `amlsched logs`."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from amlsched.cli import main
from amlsched.experiments import ExperimentRun

CONFIG = """
name: talk
path: results
repetitions: 2
grid: {a: [1, 2]}
"""


def experiment(params: dict[str, Any], rep: int, log: Any) -> None:
    if params["a"] == 2:
        return
    print(f"first of {rep}\nsecond of {rep}\nthird of {rep}")
    if rep == 1:
        print("trouble", file=sys.stderr)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("config.yml").write_text(CONFIG)
    ExperimentRun(experiment, "config.yml", executor="sequential").run()
    return tmp_path / "results"


@pytest.mark.parametrize("place", ["results/talk__a1", "results/talk/talk__a1", "results/talk/talk__a1/"])
def test_a_run_is_found_by_its_name_and_by_its_folder(
    results: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    assert main(["logs", place]) == 0
    assert capsys.readouterr().out == (
        "==> talk__a1 rep 0, out.log <==\nfirst of 0\nsecond of 0\nthird of 0\n\n"
        "==> talk__a1 rep 1, out.log <==\nfirst of 1\nsecond of 1\nthird of 1\n\n"
        "==> talk__a1 rep 1, err.log <==\ntrouble\n"
    )


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["results/talk__a1", "--rep", "0"], "first of 0\nsecond of 0\nthird of 0\n"),
        (["results/talk/talk__a1/log/rep_00"], "first of 0\nsecond of 0\nthird of 0\n"),
        (["results/talk__a1", "--rep", "0", "-n", "2"], "second of 0\nthird of 0\n"),
        (["results/talk__a1", "--rep", "0", "-n", "9"], "first of 0\nsecond of 0\nthird of 0\n"),
    ],
)
def test_one_repetition_is_shown_without_a_title(
    results: Path, capsys: pytest.CaptureFixture[str], words: list[str], shown: str
) -> None:
    assert main(["logs", *words]) == 0
    assert capsys.readouterr().out == shown


def test_a_run_that_printed_nothing_says_so(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "results/talk__a2"]) == 0
    assert capsys.readouterr() == ("", "Nothing was printed so far (state: completed)\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["results/talk_a1"], "did you mean talk__a1?"),
        (["results"], "holds 2 runs (name one of them, such as results/talk__a1)"),
        (["nowhere/talk__a1"], "there is no such folder"),
        (["results/talk__a1", "--rep", "7"], "talk__a1 has no such repetition"),
        (["results/talk__a1", "-n", "0"], "must be a whole number of at least 1"),
    ],
)
def test_what_is_not_there_is_one_message(
    results: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["logs", *words]) == 2
    assert message in capsys.readouterr().err


def test_following_prints_what_is_added_until_the_repetition_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yml").write_text("{name: slow, path: results}")
    begun, go = threading.Event(), threading.Event()

    def waits(params: dict[str, Any], rep: int, log: Any) -> None:
        print("before", flush=True)
        begun.set()
        assert go.wait(120)
        print("after")

    run = threading.Thread(target=lambda: ExperimentRun(waits, "config.yml", executor="threads").run())
    run.start()
    assert begun.wait(60)
    words = [sys.executable, "-m", "amlsched", "logs", "-f", "results/slow"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "==> slow rep 0, out.log <==\n"
        assert follower.stdout.readline() == "before\n"
        go.set()
        out, err = follower.communicate(timeout=60)
    run.join(60)
    assert (out, err, follower.returncode) == ("after\n", "slow rep 0: completed\n", 0)
