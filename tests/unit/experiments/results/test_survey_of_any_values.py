"""Whatever was logged or set as a parameter is what each reader gives back.

The command for many examples:

    AMLSCHED_EXAMPLES=10000 pytest tests/unit/experiments/results/test_survey_of_any_values.py --timeout=0
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amlsched.cli import main
from amlsched.experiments import ExperimentRun, Plan, load
from amlsched.experiments._config.values import plain, restored
from amlsched.experiments._storage import cells, record_file
from amlsched.experiments.results.survey import leaves
from tests.values import examples, same, same_in_pandas, values


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


rows = st.dictionaries(st.sampled_from("abcd"), values, min_size=1)
params = st.dictionaries(st.sampled_from("pqrs"), values.filter(lambda value: can_be_set(plain(value, ""))), min_size=1)


@examples(20)
@given(st.lists(rows, min_size=1, max_size=3), params)
def test_every_reader_gives_what_was_logged_and_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logged: list[dict[str, Any]], given: dict[str, Any]
) -> None:
    def experiment(got: dict[str, Any], rep: int, log: Any) -> None:
        assert same(got, params)
        for row in logged:
            log(row)

    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    params = {name: plain(value, name) for name, value in given.items()}
    expected = [{name: plain(value, name) for name, value in row.items()} for row in logged]
    last = {name: value for row in expected for name, value in row.items()}
    config = {"name": "e", "path": str(tmp_path / "out"), "params": given}
    assert ExperimentRun(experiment, config, executor="sequential").run().complete
    assert ExperimentRun(experiment, config, executor="sequential").run().ran == 0, "its settings seem to have changed"
    folder = tmp_path / "out/e/log/rep_00"

    header, *raw = cells.whole_rows((folder / "rep_0.csv").read_bytes())
    found = [dict(zip(cells.names(header), cells.values(row), strict=True)) for row in raw]
    assert all(same(row[name], wanted.get(name)) for row, wanted in zip(found, expected, strict=True) for name in last)

    record = record_file.read(folder)
    assert same({name: record.last[name] for name in last}, last)
    assert same(record.params, params)
    assert same(Plan(tmp_path / "out/e/config.yml").experiments[0].config["params"], params)

    table = load(tmp_path / "out")
    shown = table.iloc[0]
    for path, value in leaves(params):
        column = next(name for name, one in table.attrs["facts"]["paths"].items() if tuple(one) == path)
        assert same_in_pandas(shown[column], value)
        assert same(table.exact(column), [value])
    assert all(same_in_pandas(shown[name], value) for name, value in last.items())
    assert len(table.with_params(params)) == 1
    long = table.iterations()
    assert all(
        same_in_pandas(long[name][number], wanted.get(name)) for number, wanted in enumerate(expected) for name in last
    )

    capsys.readouterr()
    assert main(["results", str(tmp_path / "out"), "--json", "-"]) == 0
    (told,) = json.loads(capsys.readouterr().out, object_hook=restored)
    assert same({name: told[name] for name in last}, last)
    assert all(same(told[column], table.exact(column)[0]) for column in table.settings)
