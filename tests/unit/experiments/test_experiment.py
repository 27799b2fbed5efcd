"""The classes that users write, and the order in which they are called."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amlsched.errors import ExperimentError
from amlsched.experiments import (
    AbstractExperiment,
    AbstractIterativeExperiment,
    AbstractLogger,
    Experiment,
    ExperimentSurrender,
    IterativeExperiment,
    LoggerArray,
)
from amlsched.experiments._running.repetition import perform
from amlsched.experiments.loggers.csv import CsvLogger
from amlsched.experiments.loggers.repetition_log import RepetitionLog


class Rows(AbstractLogger):
    """Keeps the rows, and the calls that it gets."""

    def __init__(self, **keys: Any) -> None:
        super().__init__(**keys)
        self.rows: list[dict[str, Any]] = []
        self.calls: list[str] = []

    def initialize(self, config: dict[str, Any], rep: int, rep_log_path: str) -> None:
        self.calls.append("initialize")

    def process(self, data: dict[str, Any]) -> None:
        self.rows.append(self.filter(data))

    def finalize(self) -> None:
        self.calls.append("finalize")


class Steps(IterativeExperiment):
    """Tells what it is called with; does at iteration 1 what it is told to."""

    def __init__(self, at_one: BaseException | None = None, in_finalize: Exception | None = None) -> None:
        self.at_one, self.in_finalize = at_one, in_finalize
        self.calls: list[Any] = []

    def initialize(self, cw_config: dict[str, Any], rep: int, logger: LoggerArray) -> None:
        self.calls.append(("initialize", rep))

    def iterate(self, cw_config: dict[str, Any], rep: int, n: int) -> dict[str, Any]:
        self.calls.append(("iterate", n))
        if n == 1 and self.at_one is not None:
            raise self.at_one
        return {"x": n * 10}

    def save_state(self, cw_config: dict[str, Any], rep: int, n: int) -> None:
        self.calls.append(("save", n))

    def finalize(self, surrender: ExperimentSurrender | None = None, crash: bool = False) -> None:
        self.calls.append(("finalize", surrender, crash))
        if self.in_finalize is not None:
            raise self.in_finalize


CONFIG: dict[str, Any] = {"iterations": 2, "params": {}}


def test_the_names_of_cw2_are_the_same_classes() -> None:
    assert AbstractExperiment is Experiment
    assert AbstractIterativeExperiment is IterativeExperiment


def test_an_iterative_experiment_logs_and_saves_after_each_iteration(tmp_path: Path) -> None:
    experiment, log = Steps(), Rows()
    assert perform(experiment, CONFIG, 3, LoggerArray([log]), tmp_path) is None
    assert experiment.calls == [
        ("initialize", 3),
        ("iterate", 0),
        ("save", 0),
        ("iterate", 1),
        ("save", 1),
        ("finalize", None, False),
    ]
    assert [(row["x"], row["rep"], row["iter"]) for row in log.rows] == [(0, 3, 0), (10, 3, 1)]
    assert all(row["ts"].tzinfo is UTC for row in log.rows)
    assert log.calls == ["initialize", "finalize"]


def test_a_surrender_is_logged_saved_and_handed_to_finalize_with_its_payload(tmp_path: Path) -> None:
    surrender = ExperimentSurrender({"x": 99})
    experiment, log = Steps(at_one=surrender), Rows()
    assert perform(experiment, {**CONFIG, "iterations": 9}, 0, LoggerArray([log]), tmp_path) is surrender
    assert experiment.calls[-2:] == [("save", 1), ("finalize", surrender, False)]
    assert (log.rows[-1]["x"], log.rows[-1]["iter"], len(log.rows)) == (99, 1, 2)


def test_a_surrender_without_a_payload_is_logged_as_an_iteration_too(tmp_path: Path) -> None:
    log = Rows()
    perform(Steps(at_one=ExperimentSurrender()), CONFIG, 0, LoggerArray([log]), tmp_path)
    assert sorted(log.rows[-1]) == ["iter", "rep", "ts"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_whatever_is_raised_comes_out_after_everything_was_finalized(tmp_path: Path, error: BaseException) -> None:
    experiment, log = Steps(at_one=error), Rows()
    with pytest.raises(type(error)) as raised:
        perform(experiment, CONFIG, 0, LoggerArray([log]), tmp_path)
    assert raised.value is error
    assert experiment.calls[-1] == ("finalize", None, True)
    assert log.calls == ["initialize", "finalize"]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_all_loggers_are_finalized_and_the_first_error_comes_out(kind: type[BaseException]) -> None:
    class Falsy(kind):  # type: ignore[misc, valid-type]
        def __bool__(self) -> bool:
            return False

    class Fails(AbstractLogger):
        def __init__(self, error: BaseException) -> None:
            self.error = error
            self.calls = 0

        def finalize(self) -> None:
            self.calls += 1
            raise self.error

    loggers = [Fails(Falsy("first")), Fails(OSError("second"))]
    with pytest.raises(kind, match="first"):
        LoggerArray(loggers).finalize()
    assert [logger.calls for logger in loggers] == [1, 1]


def test_loggers_are_finalized_when_finalize_raises(tmp_path: Path) -> None:
    """Trap 13 of cw2."""
    log = Rows()
    with pytest.raises(OSError, match="disk"):
        perform(Steps(in_finalize=OSError("disk")), CONFIG, 0, LoggerArray([log]), tmp_path)
    assert log.calls == ["initialize", "finalize"]


def test_what_finalize_raises_does_not_hide_what_happened_before(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first") as raised:
        perform(Steps(ValueError("first"), OSError("second")), CONFIG, 0, LoggerArray(), tmp_path)
    assert "OSError: second" in raised.value.__notes__[0]


def test_only_run_or_iterate_must_be_written(tmp_path: Path) -> None:
    class Least(Experiment):
        def run(self, cw_config: dict[str, Any], rep: int, logger: LoggerArray) -> None:
            logger.process({"a": 1})

    log = Rows()
    assert perform(Least(), {}, 0, LoggerArray([log]), tmp_path) is None
    assert log.rows == [{"a": 1}]
    with pytest.raises(TypeError, match="iterate"):
        type("Nothing", (IterativeExperiment,), {})()


# ------------------------------------------------------------------------------------------------------------ loggers


@pytest.mark.parametrize(
    ("keys", "kept"),
    [({}, {"a": 1, "b": 2}), ({"ignore_keys": ["a"]}, {"b": 2}), ({"allow_keys": ["a", "c"]}, {"a": 1})],
)
def test_a_logger_keeps_the_keys_that_it_is_told_to(keys: dict[str, list[str]], kept: dict[str, int]) -> None:
    assert AbstractLogger(**keys).filter({"a": 1, "b": 2}) == kept


def test_a_logger_cannot_be_told_to_ignore_and_to_allow() -> None:
    with pytest.raises(ValueError, match="not both"):
        AbstractLogger(ignore_keys=["a"], allow_keys=["b"])


def test_every_logger_is_finalized_and_the_first_error_is_told() -> None:
    class Broken(Rows):
        def finalize(self) -> None:
            raise OSError("broken")

    last = Rows()
    with pytest.raises(OSError, match="broken"):
        LoggerArray([Broken(), last]).finalize()
    assert last.calls == ["finalize"]


def logged(tmp_path: Path, *rows: dict[str, Any]) -> tuple[CsvLogger, str]:
    logger = CsvLogger()
    logger.initialize({}, 7, str(tmp_path))
    for row in rows:
        logger.process(row)
    logger.finalize()
    return logger, (tmp_path / "rep_7.csv").read_text()


def test_values_stand_in_a_csv_file_so_that_they_read_back(tmp_path: Path) -> None:
    day = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    row = {
        "float": 0.1 + 0.2,
        "tiny": 1e-300,
        "int": 2**70,
        "numpy": np.float32(0.1),
        "whole": np.int64(3),
        "zero_d": np.array(0.25),
        "bool": np.bool_(True),
        "none": None,
        "nan": math.nan,
        "inf": -math.inf,
        "text": 'say "a, b"\nand c',
        "time": day,
        "day": date(2026, 1, 2),
        "list": [1, 2],
    }
    logger, text = logged(tmp_path, row)
    frame = logger.load()
    assert text.splitlines()[0] == ",".join(row)
    assert frame["float"][0] == 0.1 + 0.2
    assert frame["tiny"][0] == 1e-300
    assert str(2**70) in text
    assert frame["numpy"][0] == float(np.float32(0.1))
    assert [frame[name][0] for name in ("whole", "zero_d", "bool")] == [3, 0.25, True]
    assert math.isnan(frame["none"][0])
    assert math.isnan(frame["nan"][0])
    assert frame["inf"][0] == -math.inf
    assert frame["text"][0] == 'say "a, b"\nand c'
    assert frame["time"][0] == day.isoformat()
    assert frame["list"][0] == [1, 2]


def test_a_row_is_appended_and_nothing_else_is_written(tmp_path: Path) -> None:
    """Trap 12: cw2 writes the whole file anew for each row."""
    logger = CsvLogger()
    logger.initialize({}, 0, str(tmp_path))
    path = tmp_path / "rep_0.csv"
    seen = ""
    for n in range(5):
        logger.process({"a": n, "b": n / 3})
        text = path.read_text()  # without a flush of ours: a row that was logged is there
        assert text.startswith(seen)
        assert text.count("\n") == n + 2
        seen = text
    number = path.stat().st_ino
    logger.process({"a": 1})
    assert path.stat().st_ino == number
    logger.finalize()


def test_a_column_may_come_late(tmp_path: Path) -> None:
    logger, text = logged(tmp_path, {"a": 1}, {"a": 2, "b": "x,y"}, {"b": 3}, {"c": 4, "a": 5})
    assert text == 'a,b,c\n1,,\n2,"x,y",\n,3,\n5,,4\n'
    assert logger.last == {"a": 5, "b": 3, "c": 4}
    assert logger.rows == 4
    assert [path.name for path in tmp_path.iterdir()] == ["rep_7.csv"]


def test_logging_after_the_end_is_an_error(tmp_path: Path) -> None:
    logger, _ = logged(tmp_path, {"a": 1})
    with pytest.raises(ValueError, match="after the end"):
        logger.process({"a": 2})


def test_a_function_logs_by_calling(tmp_path: Path) -> None:
    log = RepetitionLog(tmp_path, 2, 99)
    log.initialize({}, 2, str(tmp_path))
    log(a=1)
    log({"a": 2}, b=3)
    log.finalize()
    assert (log.rows, log.seed, log.folder) == (2, 99, tmp_path)
    assert {key: value for key, value in log.last.items() if key != "ts"} == {"a": 2, "rep": 2, "iter": 1, "b": 3}


def test_columns_of_the_same_name_as_ours_are_kept_as_they_were_logged(tmp_path: Path) -> None:
    log = RepetitionLog(tmp_path, 2, 99)
    log.initialize({}, 2, str(tmp_path))
    for epoch in (0, 10, 20):
        log(iter=epoch, loss=epoch, rep="mine", ts="then")
    log.finalize()
    assert (tmp_path / "rep_2.csv").read_text().splitlines() == [
        "iter,loss,rep,ts",
        *(f"{epoch},{epoch},mine,then" for epoch in (0, 10, 20)),
    ]


class Counts(IterativeExperiment):
    """Has a column of the same name as one of ours."""

    def __init__(self, column: str, offset: int) -> None:
        self.column, self.offset = column, offset

    def iterate(self, cw_config: Any, rep: int, n: int) -> dict[str, Any]:
        return {self.column: (n if self.column == "iter" else rep) + self.offset}


@pytest.mark.parametrize("column", ["iter", "rep"])
def test_an_iteration_that_is_counted_otherwise_is_an_error(tmp_path: Path, column: str) -> None:
    log = RepetitionLog(tmp_path, 0, 99)
    log.initialize({}, 0, str(tmp_path))
    Counts(column, 0).run({"iterations": 2}, 0, log)
    with pytest.raises(
        ExperimentError,
        match=f"the row of iterate of Counts: has a column {column}, which amlsched sets itself .here to 0",
    ):
        Counts(column, 10).run({"iterations": 2}, 0, log)
    log.finalize()
