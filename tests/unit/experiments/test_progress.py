"""Progress of a run of experiments, and the tables."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amlsched import SequentialExecutor
from amlsched.display import table
from amlsched.display.table import duration, fitted, mean_and_deviation, number
from amlsched.executors.capabilities import WorkersNow
from amlsched.experiments import ExperimentRun, progress
from amlsched.experiments._running.summary import Ended
from amlsched.experiments._storage.record import ErrorNote, State
from amlsched.experiments.loggers.csv import CsvLogger
from amlsched.experiments.progress import LiveProgress, PlainProgress, last_row, progress_for

CONFIG = "{name: a, path: out, repetitions: 3, iterations: 7, params: {b: 1}}"


def experiment(params: dict[str, Any], rep: int, log: Any) -> None:
    if rep == 1:
        raise ValueError("no luck\nat all")
    log(loss=rep / 3, text="x", other=rep)


@dataclass
class Shown:
    name: str
    folder: Path = Path()

    def __str__(self) -> str:
        return self.name


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentRun:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "config.yml").write_text(CONFIG)
    return ExperimentRun(experiment, "config.yml", executor="sequential")


def test_each_repetition_gets_its_line(run: ExperimentRun) -> None:
    out = io.StringIO()
    with PlainProgress(run, 3, [], out):
        run.run()
    lines = [line.split("  ") for line in out.getvalue().splitlines()]
    assert [line[0] for line in lines] == ["[1/3] completed", "[2/3] failed", "[3/3] completed"]
    assert "a rep 0" in lines[0]
    assert lines[0][-2:] == ["loss 0", "other 0"]
    assert lines[1][-1] == "ValueError: no luck"


def test_the_metrics_that_are_asked_for_are_shown(run: ExperimentRun) -> None:
    out = io.StringIO()
    with PlainProgress(run, 3, ["other"], out):
        run.run()
    assert out.getvalue().splitlines()[2].endswith("  other 2")


def test_of_many_repetitions_only_failures_get_a_line_each(run: ExperimentRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FEW", 2)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 100.0)
    out = io.StringIO()
    with PlainProgress(run, 3, [], out):
        run.run()
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["[1/3] completed", "[2/3] failed", "[3/3] and 1 more"]


def test_on_a_terminal_the_display_is_live(run: ExperimentRun, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    display = progress_for(run, 3, [])
    assert isinstance(display, LiveProgress)
    with display:
        run.run()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "failed  a rep 1  ValueError: no luck" in plain
    assert "3/3" in terminal.getvalue()


def test_a_live_display_shows_what_runs_and_how_far_it_is(run: ExperimentRun) -> None:
    from rich.console import Console

    terminal = Terminal()
    display = LiveProgress(run, 3, [], terminal)
    seen: list[str] = []

    def look(repetition: Any) -> None:
        run.running.update({object(): repetition})  # type: ignore[dict-item]
        repetition.folder.mkdir(parents=True)
        (repetition.folder / f"rep_{repetition.record.rep}.csv").write_text("loss,ts,rep,iter\n0.5,now,0,2\n")
        console = Console(file=io.StringIO(), width=100)
        console.print(display._render())
        seen.append(console.file.getvalue())  # type: ignore[attr-defined]
        run.running.popitem()

    run.on_repetition_submitted(look)
    run.run()
    assert "a rep 0  3/7  loss 0.5" in seen[0]
    assert "2/3" in seen[2]
    assert "1 completed, 1 failed" in seen[2]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_head_fits_and_has_time_rate_and_the_best(run: ExperimentRun, width: int) -> None:
    from rich.console import Console

    seen: list[str] = []

    def look(*_: Any) -> None:
        display._console.width = width  # rich has no other way to set it after the terminal was looked at
        console = Console(file=io.StringIO(), width=width, color_system="truecolor", force_terminal=True)
        console.print(display._render())
        seen.append(console.file.getvalue())  # type: ignore[attr-defined]

    display = LiveProgress(run, 3, ["loss"], Terminal())
    look()
    run.on_repetition_done(look)
    run.run()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", text) for text in seen]
    assert "starting workers" in plain[0]
    assert "best loss 0 (a)" in plain[1]
    assert "/min" in plain[1]
    assert " left" in plain[1]
    assert all(len(text.splitlines()) <= 3 and max(map(len, text.splitlines())) <= width for text in plain)
    assert "\x1b[31m" not in seen[1]  # nothing is red before something has failed
    assert "\x1b[31m" in seen[2]


def test_failures_that_are_alike_are_only_counted_after_the_third(run: ExperimentRun) -> None:
    terminal = Terminal()
    display = LiveProgress(run, 9, [], terminal)
    for n in range(9):
        note = ErrorNote("RuntimeError", "other" if n == 8 else "out of memory")
        display._done(Shown(f"a rep {n}"), Ended(State.FAILED, {}, 1.0, note))  # type: ignore[arg-type]
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert [line[:15].strip() for line in lines] == [f"failed  a rep {n}" for n in (0, 1, 2, 8)]
    assert lines[2].endswith("(more like this one are only counted)")


def test_a_display_shows_a_repetition_that_an_array_runs(run: ExperimentRun) -> None:
    from rich.console import Console

    path, config = next(run.plan.runs())
    planned = next(run.plan.repetitions(config, path))
    planned.folder.mkdir(parents=True)
    (planned.folder / "rep_0.csv").write_text("loss,ts,rep,iter\n0.5,now,0,2\n")
    attached = SimpleNamespace(
        summary=run.summary, running={"key": planned}, workers=None, on_repetition_done=lambda shown: None
    )
    console = Console(file=io.StringIO(), width=100)
    console.print(LiveProgress(attached, 3, [], Terminal())._render())  # type: ignore[arg-type]
    assert "running  a rep 0  3/7  loss 0.5" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_live_display_shows_why_there_are_no_workers(run: ExperimentRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    seen: list[str] = []

    def look(*_: Any) -> None:
        console = Console(file=io.StringIO(), width=100)
        console.print(display._render())
        seen.append(console.file.getvalue())  # type: ignore[attr-defined]

    display = LiveProgress(run, 3, [], Terminal())
    look()
    now = WorkersNow(0, 2, ("2 jobs PENDING (Resources)",))
    monkeypatch.setattr(SequentialExecutor, "status", now, raising=False)
    run.on_repetition_submitted(look)
    run.run()
    look()
    assert ["0 of 2 workers: 2 jobs PENDING (Resources)" in text for text in seen] == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("name", "value", "kind"), [("CI", "1", PlainProgress), ("TERM", "dumb", PlainProgress), ("X", "1", LiveProgress)]
)
def test_ci_and_dumb_terminals_get_plain_lines(
    run: ExperimentRun, monkeypatch: pytest.MonkeyPatch, name: str, value: str, kind: type
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv(name, value)
    assert isinstance(progress_for(run, 3, []), kind)


def test_quiet_is_quiet(run: ExperimentRun, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_for(run, 3, [], quiet=True):
        run.run()
    assert capsys.readouterr().out == ""


# --------------------------------------------------------------------------------------------------------------- tables


def test_numbers_stand_to_the_right_and_words_to_the_left() -> None:
    text = table(["name", "n", "x"], [["a", "10", "-0.5"], ["long", "9", ""]])
    assert text.splitlines() == [
        "name   n     x",
        "----  --  ----",
        "a     10  -0.5",
        "long   9",
    ]


WIDE = ["run", "n", "mode", "accuracy", "note"]
ROWS = [["net__lr0.1", "3", "fast", "0.912 ± 0.01", "x" * 30], ["net__lr0.2", "3", "fast", "0.951 ± 0.02", "y" * 30]]


def test_a_table_that_fits_is_left_as_it_is() -> None:
    assert fitted(WIDE, ROWS, 100) == table(WIDE, ROWS)


def test_a_wide_table_names_constant_columns_once() -> None:
    lines = fitted(WIDE, ROWS, 60).splitlines()
    assert lines[0].split() == ["run", "accuracy", "note"]
    assert lines[-1] == "the same in all rows: n = 3, mode = fast"
    assert max(map(len, lines)) <= 60
    assert fitted(WIDE, ROWS, 100, hide_constant=True) == "\n".join(lines)


def test_a_table_that_is_still_too_wide_is_turned() -> None:
    lines = fitted(WIDE, [["net__lr0.1", *row[1:4], "x"] for row in ROWS[:1]], 30).splitlines()
    assert lines[0].split() == ["run", "net__lr0.1"]
    assert [line.split()[0] for line in lines[2:]] == ["n", "mode", "accuracy", "note"]
    assert max(map(len, lines)) <= 30


def test_a_table_with_many_rows_is_split_and_each_part_names_the_rows() -> None:
    names = ["run", "r", *(f"metric{n}" for n in range(9))]
    rows = [["net", str(r), *(f"0.{r}{n}" for n in range(9))] for r in range(20)]
    lines = fitted(names, rows, 40).splitlines()
    assert max(map(len, lines)) <= 40
    heads = [line.split() for line in lines if line.startswith(" r")]
    assert [head[0] for head in heads] == ["r"] * len(heads)
    assert sorted(name for head in heads for name in head[1:]) == names[2:]
    assert lines[-1] == "the same in all rows: run = net"


def test_a_table_may_have_no_rows() -> None:
    assert fitted(["a", "bc"], [], 80) == "a  bc\n-  --"
    assert table(["a", "bc"], []) == "a  bc\n-  --"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (3.0, "3"),
        (0.123456, "0.1235"),
        (1e-9, "1e-09"),
        (3757552657.0, "3757552657"),
        (1234567.8, "1.235e+06"),
        (float("nan"), "nan"),
    ],
)
def test_a_number_has_four_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [([], ""), ([0.5], "0.5"), ([1.0, 2.0, 3.0], "2 ± 1"), ([0.1, 0.2], "0.15 ± 0.071"), ([1.0, float("inf")], "inf")],
)
def test_mean_and_deviation(values: list[float], text: str) -> None:
    assert mean_and_deviation(values) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0.04, "0.0 s"), (59.0, "59.0 s"), (61.4, "1 min 01 s"), (3700, "1 h 01 min")]
)
def test_a_duration_is_said_as_people_do(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ([{"loss": 0.5, "code": "007", "text": "a\u2028b", "iter": 3}], "4/9  loss 0.5"),
        ([{"loss": 0.5, "iter": 0}, {"loss": 0.25, "iter": 1, "long": "x" * 9000}], ""),
        ([{"loss": 0.5, "iter": 0}, {"loss": 0.25, "iter": 1, "text": "a\nb"}], ""),
        ([{"loss": None, "acc": 10**400, "iter": "seven"}], "acc 1.000e+400"),
    ],
)
def test_the_last_row_is_read_as_it_was_logged(tmp_path: Path, rows: list[dict[str, Any]], shown: str) -> None:
    logger = CsvLogger()
    logger.initialize({}, 0, str(tmp_path))
    for row in rows:
        logger.process(row)
    logger.finalize()
    assert last_row(logger.path, logger.path.stat().st_size, [], 9) == shown
