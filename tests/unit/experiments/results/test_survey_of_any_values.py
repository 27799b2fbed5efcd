"""Whatever was logged or set as a parameter is what each reader gives back.

The command for many values:

    AMLSCHED_EXAMPLES=10000 pytest tests/unit/experiments/results/test_survey_of_any_values.py --timeout=0 -s
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amlsched.cli import main
from amlsched.experiments import ExperimentRun, Plan, load
from amlsched.experiments._config.values import plain, restored
from amlsched.experiments._storage import cells, record_file
from amlsched.experiments.results.survey import leaves
from tests.values import examples, same, same_in_pandas, values

TOGETHER = 100
"""So many values are logged, and as many set, by one repetition: a run for each value would take 100 times as long."""
WIDTH = 12


def can_be_set(value: Any) -> bool:
    """Whether a config can hold it: no half of a surrogate pair, no two keys that read alike."""
    if isinstance(value, dict):
        alike = len(set(map(str, value))) == len(value)
        return alike and all(can_be_set(one) for pair in value.items() for one in pair)
    if isinstance(value, list):
        return all(map(can_be_set, value))
    return not isinstance(value, str) or (
        "${env:" not in value and not any("\ud800" <= one <= "\udfff" for one in value)
    )


def short(value: Any) -> bool:
    """Whether it is no long array, whose items are a column each."""
    return not isinstance(value, np.ndarray) or value.size < 1000


settable = values.filter(lambda value: short(value) and can_be_set(plain(value, "")))


def drawn(strategy: st.SearchStrategy[Any]) -> list[Any]:
    """Values of hypothesis."""
    found: list[Any] = []

    @examples(2 * TOGETHER)
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def find_first(check: Callable[[list[Any]], None], values: list[Any]) -> None:
    """If the check fails, narrow the values down to the first one with which it fails."""
    try:
        check(values)
    except Exception:
        if len(values) > 1:
            find_first(check, values[: len(values) // 2])
            find_first(check, values[len(values) // 2 :])
        raise


def test_every_reader_gives_what_was_logged_and_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logged, given = drawn(values), drawn(settable)
    number = max(len(logged), len(given))
    for begin in range(0, number, TOGETHER):
        some = [one[begin : begin + TOGETHER] for one in (logged, given)]
        find_first(lambda values: check(tmp_path / "out", capsys, values, []), some[0])
        find_first(lambda values: check(tmp_path / "out", capsys, [1], values), some[1])
    print(f"{len(logged)} values logged, {len(given)} set")


def test_long_arrays_are_read_as_they_were_logged_and_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(tmp_path / "out", capsys, [np.arange(5000), np.ones((2, 1500)), "x" * 200_000], [np.arange(1500)])


def check(out: Path, capsys: pytest.CaptureFixture[str], to_log: list[Any], to_set: list[Any]) -> None:
    """One repetition logs some values and has the others as parameters; then each reader is asked for them."""
    shutil.rmtree(out, ignore_errors=True)
    rows = [
        {f"c{(column + begin) % (WIDTH + 3)}": value for column, value in enumerate(to_log[begin : begin + WIDTH])}
        for begin in range(0, len(to_log), WIDTH)
    ]
    given = {f"p{number}": value for number, value in enumerate(to_set)}
    params = {name: plain(value, name) for name, value in given.items()}

    def experiment(got: dict[str, Any], rep: int, log: Any) -> None:
        assert same(got, params)
        for row in rows:
            log(row)

    expected = [{name: plain(value, name) for name, value in row.items()} for row in rows]
    last = {name: value for row in expected for name, value in row.items()}
    config = {"name": "e", "path": str(out), "params": given}
    assert ExperimentRun(experiment, config, executor="sequential").run().complete
    assert ExperimentRun(experiment, config, executor="sequential").run().ran == 0, "its settings seem to have changed"
    folder = out / "e/log/rep_00"

    header, *raw = cells.whole_rows((folder / "rep_0.csv").read_bytes())
    found = [dict(zip(cells.names(header), cells.values(row), strict=True)) for row in raw]
    assert all(same(row[name], wanted.get(name)) for row, wanted in zip(found, expected, strict=True) for name in last)

    record = record_file.read(folder)
    assert same({name: record.last[name] for name in last}, last)
    assert same(record.params, params)
    assert same(Plan(out / "e/config.yml").experiments[0].config["params"], params)

    table = load(out)
    long = table.iterations()
    shown = table.iloc[0]
    columns = {tuple(path): name for name, path in table.attrs["facts"]["paths"].items()}
    exact = {name: table.exact(name) for name in table.settings}
    for path, value in leaves(params):
        column = columns[path]
        assert same_in_pandas(shown[column], value)
        assert same_in_pandas(long[column].iloc[-1], value)
        assert same(exact[column], [value])
    assert all(same_in_pandas(shown[name], value) for name, value in last.items())
    assert len(table.with_params(params)) == 1
    for name in last:
        read = long[name].tolist()
        assert all(same_in_pandas(one, wanted.get(name)) for one, wanted in zip(read, expected, strict=True))

    capsys.readouterr()
    assert main(["results", str(out), "--json", "-"]) == 0
    (told,) = json.loads(capsys.readouterr().out, object_hook=restored)
    assert same({name: told[name] for name in last}, last)
    assert all(same(told[column], value) for column, (value,) in exact.items())
