"""Mistakes on the command line: each is one message, with what was probably meant, before any work is done."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from amlsched.cli import main
from amlsched.errors import ExperimentError
from amlsched.experiments._running.experiment_run import ExperimentRun
from amlsched.scheduler import Scheduler

EXPERIMENT = """
def train(params, rep, log):
    for i in range(2):
        log(loss=params["lr"] * i, accuracy=rep)

class Model:
    pass
"""
CONFIG = "{name: DEFAULT, path: results, repetitions: 2}\n---\n{name: digits, grid: {lr: [1, 2]}}\n"
RUN = ("run", "train.py:train", "train.yml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "train.py").write_text(EXPERIMENT)
    (tmp_path / "train.yml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def done(folder: Path) -> Path:
    """With all repetitions done."""
    assert main([*RUN, "--executor", "sequential", "-q"]) == 0
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one message that these words end with."""
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (out, len(lines)) == ("", 2 if lines[0].startswith("usage: ") else 1), err
    return err


MISTAKES = [
    (
        "rnu",
        "there is no command 'rnu' (did you mean run? there are: init, run, status, logs, cancel, results, best, pl",
    ),
    ("STATUS", "there is no command 'STATUS' (did you mean status? there are: init, run, "),
    ("config chekc train.yml", "usage: amlsched config ACTION", "no action 'chekc' (did you mean check?"),
    ("run", "usage: amlsched run TARGET CONFIG [options]", "required: TARGET, CONFIG"),
    (
        "run train.py:train train.yml --resutls x",
        "usage: amlsched run ",
        "no option --resutls (did you mean --results?)",
    ),
    ("run --resutls x train.py:train", "no option --resutls (did you mean --results?)"),
    ("run train.py:train train.yml more", "unexpected argument: more"),
    ("run train.py:train train.yml more words", "unexpected arguments: more words"),
    (
        "run -e digits train.py:train train.yml",
        "-e took all of these: digits train.py:train train.yml. Write TARGET and",
    ),
    ("run train.py:train train.yml -e digts", "no experiment 'digts' (did you mean digits?"),
    ("run train.py:train train.yml --rerun fialed", "--rerun fialed: is neither a state", "(did you mean failed?"),
    ("run train.py:train train.yml --logger wandbb", "no such logger (did you mean wandb?"),
    ("run train.py:train train.yml --submit slrum", "argument --submit: there is no 'slrum' (did you mean slurm?"),
    (
        "run train.py:train train.yml --max-workers 0",
        "argument --max-workers: must be a whole number of at least 1, not '0'",
    ),
    ("run train.py:train train.yml --grace nan", "argument --grace: must be a number of seconds, 0 or more, not 'nan'"),
    ("run train.py:train train.yml --executor proceses", "no executor 'proceses' (did you mean processes?"),
    ("run train.py:train train.yml --executor proceses -s", "--executor proceses: is for a program that waits"),
    ("run train.py:train train.yml --executor proceses --dry-run", "no executor 'proceses'"),
    (
        "run train.py:train train.yml --executor-option max_worker=2",
        "'processes': has no option 'max_worker' (did you mean max_w",
    ),
    (
        "run train.py:train train.yml --executor dask --executor-option n_worker=2",
        "no option 'n_worker' (did you mean n_workers?",
    ),
    ("run train.py:train train.yml --executor-option max_workers=0", "executor: max_workers=0: must be at least 1"),
    ("run train.py:train train.yml --executor loky --executor-option context=x", "executor: loky: AttributeError: "),
    ("run train.py:train train.yml --executor-option nonsense", "--executor-option nonsense: is not KEY=VALUE"),
    ("run train.yml train.py:train", "swapped? Write train.py:train train.yml"),
    ("config check train.py:train train.yml", "swapped? Write train.yml train.py:train"),
    ("run train.yml train.yml", "train.yml: is a YAML file, not an experiment"),
    ("run train.py train.yml", "does not name the class or function", "write train.py:NAME; it has: train, Model"),
    ("run trian.py:train train.yml", "no such file: trian.py (did you mean train.py?)"),
    ("run trian:train train.yml", "no module trian (did you mean train.py?)"),
    ("run train.py:trian train.yml", "has no 'trian' (did you mean train?"),
    ("run train.py:train trian.yml", "trian.yml: there is no such file (did you mean train.yml?)"),
    ("status resuts", "results folder resuts: there is no such folder (did you mean results?)"),
    ("status train.yml", "results folder train.yml: is a file"),
    ("results results --metric acuracy", "acuracy: is not a column of these results (did you mean accuracy?"),
    ("results results --by params.lrr", "params.lrr: is not a column of these results (did you mean lr?"),
    ("results results --by lr --metric acuracy", "is not a logged column of numbers (did you mean accuracy?"),
    ("results results --sort los", "--sort los: is not a column (did you mean loss?"),
    ("results results -e digts", "-e digts: there is no such experiment (did you mean digits?"),
    ("results results --where params.lrr=1", "params.lrr: is not a column of these results (did you mean lr?"),
    ("plot results --metric acuracy --out x.png", "'acuracy' is not a column of numbers there (did you mean accuracy?"),
    ("plot results --metric loss --out x.png --band intervall", "there is no 'intervall' (did you mean interval?"),
    ("doctor --executor proceses", "no executor 'proceses' (did you mean processes?"),
    ("doctor --executor threads --timeout -1", "argument --timeout: must be a number of seconds, 0 or more, not '-1'"),
]


@pytest.mark.usefixtures("done")
def test_mistakes_are_told_also_where_nothing_is_left_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    for words, *parts in MISTAKES:
        message = told(capsys, *words.split())
        assert [part for part in parts if part not in message] == [], f"amlsched {words}: {message}"


@pytest.mark.parametrize(
    "words", ["--executor-option max_workers=0", "--executor nope", "--logger nope", "--rerun nope"]
)
def test_nothing_is_done_after_a_mistake(folder: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    before = sorted(folder.iterdir())
    told(capsys, *RUN, *words.split())
    assert [one for one in sorted(folder.iterdir()) if one.name != "__pycache__"] == before


@pytest.mark.usefixtures("done")
def test_names_may_come_before_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--dry-run", "-e", "digits", "--", "train.py:train", "train.yml"]) == 0
    assert "4 repetitions, 0 to run" in capsys.readouterr().out
    assert "--dry-run must come before --" in told(capsys, "run", "--", "train.py:train", "train.yml", "--dry-run")


@pytest.mark.parametrize(
    ("executor", "options", "message"),
    [
        ("proceses", {}, "there is no executor 'proceses' (did you mean processes? there are: dask, "),
        ("jobqueue", {}, "there is no executor 'jobqueue' (there are: dask, "),
        (
            "threads",
            {"max_worker": 1},
            "'threads': has no option 'max_worker' (did you mean max_workers? its options: ",
        ),
        ("loky", {"max_worker": 1}, "'loky': has no option 'max_worker' (did you mean max_workers?"),
        (
            "slurm",
            {"n_workers": 2, "walltime": "1:00", "start_timout": 5},
            "'slurm': has no option 'start_timout' (did you mean start_timeout?",
        ),
        ("sequential", {"max_workers": 1}, "'sequential': has no option 'max_workers' (its options: retries_on_loss"),
        ("slurm", {}, "'slurm': missing a required argument: 'n_workers' (its options: n_workers"),
    ],
)
def test_the_name_of_an_executor_and_its_options_from_python(
    folder: Path, executor: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as by_name:  # noqa: PT011  (the text is compared below)
        Scheduler.from_name(executor, **options)
    assert message in str(by_name.value)
    run = ExperimentRun("train.py:train", folder / "train.yml", executor=executor, **options)
    with pytest.raises(ExperimentError) as by_run:
        run.run()
    assert message in str(by_run.value)
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            "{name: SLRUM, path: r, partition: cpu}\n---\n{name: a, path: r}",
            "the name 'SLRUM' makes this an experiment (did you mean SLURM?",
        ),
        ("{name: SLUMR_x, path: r, time: 1}\n---\n{name: a, path: r}", "train.yml:1 (document 1, key name)"),
        (
            "{name: DEFUALT, path: r}\n---\n{name: a, path: r}",
            "the name 'DEFUALT' makes this an experiment (did you mean DEFAULT?",
        ),
    ],
)
def test_a_document_with_a_misspelt_name_is_not_run(
    folder: Path, capsys: pytest.CaptureFixture[str], documents: str, message: str
) -> None:
    (folder / "train.yml").write_text(documents)
    assert message in told(capsys, *RUN)


def test_experiments_may_have_names_that_are_near_to_those_words(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "train.yml").write_text("{name: DEFAULT, path: r}\n---\n{name: defaults}\n---\n{name: slum}\n")
    assert main(["config", "check", "train.yml"]) == 0
    assert "2 experiments" in capsys.readouterr().out


NONSENSE = {
    "AMLSCHED_TERM_GRACE_S": "soon",
    "AMLSCHED_END_TIME": "nan",
    "SLURM_JOB_END_TIME": "soon",
    "SLURM_RESTART_COUNT": "twice",
    "AMLSCHED_SLOT": "x",
    "AMLSCHED_CODE_COPY": "nothing",
}


@pytest.mark.usefixtures("folder")
def test_nonsense_in_variables_that_say_more_about_a_job_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in NONSENSE.items():
        monkeypatch.setenv(name, value)
    assert main([*RUN, "--executor", "processes", "--max-workers", "1", "-q"]) == 0
    out, err = capsys.readouterr()
    assert ("4 repetitions: 4 completed." in out, err) == (True, "")


@pytest.mark.parametrize(
    ("name", "value", "words", "message"),
    [
        ("AMLSCHED_CODE_COPY", "a:/nowhere", (), "/nowhere: is not a complete code copy"),
        ("SLURM_NTASKS", "x", ("--executor", "slurm_allocation"), "SLURM_NTASKS is 'x', but Slurm sets it to a whole"),
        ("SLURM_CPUS_PER_TASK", "9" * 99, ("--executor", "slurm_allocation"), "SLURM_CPUS_PER_TASK is '9999"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_nonsense_in_variables_that_are_needed_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    words: tuple[str, ...],
    message: str,
) -> None:
    if words:
        pytest.importorskip("distributed")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv(name, value)
    assert message in told(capsys, *RUN, *words)


class Typed(io.StringIO):
    """A terminal on which this text is typed."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "runs"), [("y\n", True), ("yes\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_very_many_repetitions_are_confirmed_on_a_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: str, runs: bool
) -> None:
    monkeypatch.setattr("amlsched.cli.run.MANY", 3)
    monkeypatch.setattr("sys.stdin", Typed(typed))
    monkeypatch.setattr("sys.stderr", Typed())
    words = [*RUN, "--executor", "sequential", "-q"]
    assert main(words) == (0 if runs else 2)
    assert "train.yml has 4 repetitions (2 runs). Run them? [y/N] " in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("add --yes" in sys.stderr.getvalue()) is not runs  # type: ignore[attr-defined]
    assert (folder / "results").exists() is runs
    if runs:  # what is resumed was confirmed before
        monkeypatch.setattr("sys.stdin", Typed("n\n"))
        assert main([*words, "--rerun", "all"]) == 0
    assert main([*words, "--yes", "--results", "elsewhere"]) == 0


@pytest.mark.usefixtures("folder")
def test_very_many_repetitions_are_noted_where_nobody_can_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amlsched.cli.run.MANY", 3)
    monkeypatch.setattr("amlsched.cli.config.MANY", 3)
    assert main(["config", "check", "train.yml"]) == 0
    assert "note: these are many repetitions" in capsys.readouterr().out
    assert main([*RUN, "--executor", "sequential"]) == 0
    assert "note: train.yml has 4 repetitions (2 runs)\n" in capsys.readouterr().err


def test_a_terminal_gets_the_head_of_a_dry_run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "train.yml").write_text(f"{{name: digits, path: results, repetitions: 2, grid: {{lr: {[*range(60)]}}}}}")
    assert main([*RUN, "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 61
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for executor in ([], ["--executor", "sequential", "-q", "-j", "50"]):
        if executor:  # some are done, also among those that are not shown
            assert main([*RUN, *executor]) == 0
            capsys.readouterr()
        assert main([*RUN, "--dry-run"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 42
        assert lines[40] == "… and 20 more runs (a file or a pipe gets all: | less)"
        assert lines[41] == f"120 repetitions, {119 if executor else 120} to run. Results: results"


@pytest.mark.usefixtures("folder")
def test_a_metric_that_no_repetition_logged_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # also where nothing remains to run
        assert main([*RUN, "--executor", "sequential", "--metric", "acuracy", "--metric", "loss"]) == 0
        err = capsys.readouterr().err
        assert err == (
            "--metric acuracy: no repetition logged such a number (did you mean accuracy? there are: loss, accuracy)\n"
        )
