"""What was logged, or set as a parameter, is what every reader gives back."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amlsched.errors import ExperimentError
from amlsched.experiments._config.values import jsonable, plain, restored
from amlsched.experiments._storage import cells
from amlsched.experiments.loggers.csv import CsvLogger
from amlsched.experiments.loggers.repetition_log import RepetitionLog
from amlsched.experiments.results.frames import logged
from tests.values import NUMPY, TEXTS, examples, plains, same, same_in_pandas, texts, values


def test_numpy_becomes_the_plain_value_that_it_is_equal_to() -> None:
    for kind in NUMPY[:-2]:
        made = plain(np.array([0, 1], dtype=kind), "x")
        assert made == [0, 1]
        assert {type(value) for value in made} <= {bool, int, float}
        assert type(plain(np.dtype(kind).type(1), "x")) in (bool, int, float)


@examples(30)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["a", "b", "é c", "007", "", "nan", "[1,2]"]) | texts, values),
        min_size=1,
        max_size=6,
    )
)
def test_what_was_logged_is_what_the_file_holds(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    logger = CsvLogger()
    logger.initialize({}, 0, str(folder))
    for row in rows:
        logger.process(row)
    logger.finalize()
    expected = [{name: plain(value, name) for name, value in row.items()} for row in rows]
    header, *body = cells.whole_rows((folder / "rep_0.csv").read_bytes())
    names = cells.names(header)
    assert len(body) == len(rows)
    for raw, wanted in zip(body, expected, strict=True):
        found = cells.values(raw) if names else []
        assert len(found) == len(names)
        assert all(map(same, found, map(wanted.get, names)))
    frame = logger.load()
    for number, wanted in enumerate(expected):
        assert all(same_in_pandas(frame[name][number], wanted.get(name)) for name in names)
    log = CsvLogger()
    log.discard = Path
    log.initialize({}, 0, str(folder))
    log.keep(lambda *_: True)
    log.finalize()
    assert (folder / "rep_0.csv").read_bytes() == b"".join([header, *body])


class ExitsWhenShown:
    def __repr__(self) -> str:
        sys.exit("at repr")


class Lines:
    def __repr__(self) -> str:
        return "one\n  two"


class Colour(Enum):
    RED = 1


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    NA = "NA"


SELF: list[Any] = []
SELF.append(SELF)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (Number.ONE, 1),
        (Word.NA, "NA"),
        (np.ma.masked, None),
        (np.ma.masked_array([1, 2], [True, False]), [None, 2]),
        (np.datetime64("2024-01-01T00:00:00.123456789"), "2024-01-01T00:00:00.123456789"),
        (np.array(["2024-01-01"], "M8[ns]"), ["2024-01-01T00:00:00.000000000"]),
        (np.array([1, "a", None], dtype=object), [1, "a", None]),
        (np.longdouble("inf"), math.inf),
        (datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01T00:00:00+00:00"),
        (date(2024, 1, 1), "2024-01-01"),
        (Path("a/b"), "a/b"),
        ((1, (2,)), [1, [2]]),
        ({1: {"1": ()}, "1": 2}, {1: {"1": []}, "1": 2}),
    ],
)
def test_what_is_equal_to_a_plain_value_is_kept_as_that(value: Any, kept: Any) -> None:
    assert same(plain(value, "x"), kept)
    assert same(cells.values(cells.line([kept])), [kept])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1 + 2j, r"column a: \(1\+2j\), of type complex, cannot be kept \(give its real"),
        (np.array([1j]), r"column a\[0\]: 1j, of type complex, cannot"),
        (Decimal("0.1"), r"Decimal\('0.1'\), of type Decimal, cannot be kept \(give float"),
        (Fraction(1, 3), "of type Fraction, cannot be kept"),
        (ExitsWhenShown(), "column a: a value without a repr, of type ExitsWhenShown, cannot be kept"),
        (Lines(), "column a: one two, of type Lines, cannot be kept"),
        (Colour.RED, "of type Colour, cannot be kept .give its name or its value"),
        (timedelta(1), "of type timedelta, cannot be kept .give its total_seconds"),
        (np.timedelta64(5, "ns"), "of type timedelta64, cannot be kept"),
        (b"x", "of type bytes, cannot be kept .give value.decode"),
        ({1, 2}, r"of type set, cannot be kept .give sorted\(value\)"),
        (object, "of type type, cannot be kept .give a number, text, a list or a mapping"),
        (np.float64, "of type type, cannot be kept"),
        ({"b": [0, {"c": len}]}, r"column a\['b'\]\[1\]\['c'\]: <built-in function len>, of type builtin"),
        ({None: 1}, "column a: None cannot be a key"),
        ({(1, 2): 1}, r"column a: \[1, 2\] cannot be a key"),
        (10**5000, "column a: a whole number of more than 4200 digits .give float"),
        (np.longdouble("1e400"), "of type longdouble, cannot be kept"),
        (SELF, "values are nested deeper than 64 levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_row_can_hold_is_an_error_that_says_where(tmp_path: Path, value: Any, message: str) -> None:
    log = RepetitionLog(tmp_path, 0, 0)
    log.initialize({}, 0, str(tmp_path))
    with pytest.raises(ExperimentError, match=message):
        log(a=value)
    log(b=1)  # the row was left out as a whole, and the next is as it should be
    log.finalize()
    assert log.rows == 1
    header, row = cells.whole_rows((tmp_path / "rep_0.csv").read_bytes())
    assert cells.names(header)[0] == "b"


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_is_what_csv_readers_find_and_no_number(text: str) -> None:
    """Other readers of CSV get the text itself; only what would be JSON, or no CSV at all, stands as JSON."""
    line = cells.line([text, 1]).decode()
    row = next(csv.reader(io.StringIO(line, newline="")))
    assert row in ([text, "1"], [json.dumps(text), "1"])
    assert same(cells.values(line.encode()), [text, 1])


def test_numbers_stay_what_they_are_over_files_with_other_columns(tmp_path: Path) -> None:
    written = [
        [{"a": 2**60 + 1, "b": 2**53 + 1, "c": 1}],
        [{"a": 0.5, "c": 2**64}, {"b": 1, "c": -(2**63)}],
        [{"c": 10**30, "d": "x"}, {"c": True, "d": "2"}],
        [{"c": 1.5, "a": 0.1 + 0.2}],
    ]
    for number, rows in enumerate(written):
        (tmp_path / str(number)).mkdir()
        log = CsvLogger()
        log.initialize({}, 0, str(tmp_path / str(number)))
        for row in rows:
            log.process(row)
        log.finalize()
    for numbers, lengths, frame in logged([tmp_path / str(number) / "rep_0.csv" for number in range(4)]):
        expected = [row for number in numbers for row in written[number]]
        assert sum(lengths) == len(expected) == len(frame)
        for name in frame.columns:
            assert all(same_in_pandas(frame[name][n], row.get(name)) for n, row in enumerate(expected))


@examples(60)
@given(plains)
def test_values_survive_json(value: Any) -> None:
    text = json.dumps(jsonable(value), allow_nan=False)
    assert same(json.loads(text, object_hook=restored), value)


def test_tuples_of_a_config_survive_json() -> None:
    assert restored(json.loads(json.dumps(jsonable((1, 2))))) == (1, 2)
