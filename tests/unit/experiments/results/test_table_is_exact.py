"""Parameters and last values in tables, conditions, groups, exports and pictures: none is taken for another."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from amlsched.cli import main
from amlsched.errors import ExperimentError
from amlsched.experiments import ExperimentRun, load
from amlsched.experiments.results.plot import plot_curves
from amlsched.experiments.results.table import Results

VALUES = [
    1,
    True,
    "1",
    None,
    math.nan,
    "nan",
    "null",
    0.5,
    2**60 + 1,
    "true",
    [1, 2],
    [1, 2, 3],
    [],
    [True],
    {},
    {"y": 1},
]
LOGGED = [0.25, "diverged", math.nan, math.inf, None, 2**60 + 1, True, [1, math.nan], "", "inf", 10**400, -math.inf]


def experiment(params: dict[str, Any], rep: int, log: Any) -> None:
    if params.get("fails"):
        raise ValueError("as it should")
    if "at" in params:
        log(loss=LOGGED[params["at"]], **({"late": 2**60 + 1} if params["at"] else {}))
    else:
        log(a_b=params["x"] == 1, rep=7, r=8, name="n", value=9, x_last=1, x=2)


def run(folder: Path, *configs: dict[str, Any]) -> Path:
    config = [{"path": str(folder / "out"), **one} for one in configs]
    ExperimentRun(experiment, config, executor="sequential").run()
    return folder / "out"


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    other = {"name": "other", "params": {"z": 1}}
    return run(tmp_path_factory.mktemp("values"), {"name": "values", "list": {"x": VALUES}}, other)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {"name": "logged", "grid": {"at": list(range(len(LOGGED)))}}
    return run(tmp_path_factory.mktemp("logged"), config, {"name": "failed", "params": {"fails": True}})


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["results", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((value, 1) for value in VALUES if value not in (None, {}, {"y": 1})),
        (1.0, 1),
        (None, 2),  # null, and what has no such parameter
        (False, 0),
        ("None", 0),
        (2**60, 0),
        (float(2**60), 0),
        ([1], 0),
        ([1, 2, 3, 4], 0),
        ([1, 2.0], 1),
        ([1.0, "2"], 0),
    ],
    ids=repr,
)
def test_a_condition_finds_what_is_equal_and_nothing_else(values: Path, value: Any, number: int) -> None:
    assert len(load(values).with_params(x=value)) == number
    assert len(load(values).with_params({"x": value})) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("true", 1), ('"1"', 1), ("1.0", 1), (".nan", 1), ("nan", 1), ("[1, 2]", 1), ("'null'", 1), ("0.50", 1)],
)
def test_conditions_of_the_command_line(
    values: Path, capsys: pytest.CaptureFixture[str], text: str, number: int
) -> None:
    assert len(json.loads(told(capsys, str(values), "--where", f"params.x={text}", "--json", "-"))) == number


def test_a_condition_that_finds_nothing_says_what_there_is(values: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(values), "--where", "params.x=2"]) == 2
    error = capsys.readouterr().err
    assert "has no repetition that matches --where params.x=2" in error
    assert "(values of params.x there: null, 1, true, '1', .nan, nan, 'null', 0.5, …)" in error


def test_groups_are_of_what_is_equal(values: Path, logged: Path) -> None:
    table = load(values).summary("params.x", ["value"])
    assert list(table["n"])[:3] == [1, 1, 1]
    assert [type(one) for one in table["x"][:3]] == [int, bool, str]
    run(values.parent / "n", {"name": "n", "grid": {"n": [1, 2], "metric": [1]}, "params": {"at": 0}})
    table = load(values.parent / "n/out").summary(["params.n", "metric"], ["loss"])
    assert list(table.columns[:4]) == ["params_n", "params_metric", "metric", "n"]
    assert list(table["params_n"]) == [1, 2]


def test_null_and_nan_are_two_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"name": "n", "list": {"x": [0.5, None, math.nan]}, "params": {"at": 0}}
    out = run(tmp_path, config)
    found = json.loads(told(capsys, str(out), "--by", "params.x", "--metric", "loss", "--json", "-"))
    assert repr([(row["x"], row["n"], row["std"]) for row in found]) == repr(
        [(0.5, 1, None), (None, 1, None), (math.nan, 1, None)]
    )
    plot_curves(out, "loss", tmp_path / "x.png", by="params.x")


def test_names_that_collide_have_columns_of_their_own(tmp_path: Path) -> None:
    params = {"a_b": 1, "a": {"b": 2, "c_d": 3}, "a_c": {"d": 4}, "a_dot_b": 5, "x": 1, "rep": 6, "iter": 7, "value": 8}
    params |= {"name": "p", "r": 9, "params_r": 10, "folder": "f", "x_last": 11}
    folder = run(tmp_path, {"name": "collide", "params": params})
    for file in folder.rglob("*.json"):  # as an earlier version wrote it, which took such names beside each other
        file.write_text(file.read_text("utf-8").replace('"a_dot_b"', '"a.b"'), "utf-8")
    found = load(folder)
    assert len(set(found.columns)) == len(found.columns)
    row = found.iloc[0]
    for path, value in {"a_b": 1, "a.b": 2, "a.c_d": 3, "a_c.d": 4, '"a.b"': 5, "name": "p", "r": 9}.items():
        assert row[found.column(f"params.{path}")] == value
    assert [len(found.with_params({"a": {"b": one}})) for one in (1, 2, 5)] == [0, 1, 0]
    assert len(found.with_params({"a_b": 1, "r": 9, "params_r": 10, "iter": 7})) == 1
    metrics = {name: row[column] for column, name in found.attrs["facts"]["logged"].items()}
    assert metrics == {"a_b": True, "r": 8, "name": "n", "value": 9, "x_last": 1, "x": 2, "iter": 0, "rep": 7}
    rows = found.iterations()
    assert len(set(rows.columns)) == len(rows.columns)
    assert list(rows[["name", "r", "name_logged", "r_logged", "rep", "x"]].iloc[0]) == ["collide", 0, "n", 8, 7, 2]


def test_every_export_has_what_was_logged(logged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(capsys, str(logged), "-e", "logged", "--json", "-"))
    assert repr([row["loss"] for row in found]) == repr(LOGGED)
    assert [row["late"] for row in found] == [None] + [2**60 + 1] * (len(LOGGED) - 1)
    lines = told(capsys, str(logged), "-e", "logged", "--csv", "-").splitlines()
    place = lines[0].split(",").index("loss")
    cells = [line.split(",")[place] for line in lines[1:5]]
    assert cells == ["0.25", "diverged", "nan", "inf"]
    assert '""' in lines[9]
    assert '"inf"' in lines[10]
    read = list(csv.DictReader(io.StringIO(told(capsys, str(logged), "-e", "logged", "--csv", "-"))))
    assert [row["late"] for row in read] == ["", *[str(2**60 + 1)] * (len(LOGGED) - 1)]
    text = told(capsys, str(logged))
    assert all(one in text for one in ("  nan", "  inf", "diverged", str(2**60 + 1), "1.000e+400"))


def test_what_no_terminal_shows_is_shown_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(tmp_path, {"name": "odd", "params": {"x": "a\r\nb | c"}})
    folder = out / "odd/log/rep_00"
    record = json.loads((folder / "record.json").read_text())
    record["last"] |= {"half \ud800\nname": "\ud800", "ts": 1}
    (folder / "record.json").write_text(json.dumps(record))
    assert "half" in told(capsys, str(out))
    for kind in ("csv", "json", "markdown"):
        assert told(capsys, str(out), f"--{kind}", str(tmp_path / kind)) == ""
        assert (tmp_path / kind).read_bytes().decode().count("\n") > 1
    assert json.loads((tmp_path / "json").read_text())[0]["half \ud800\nname"] == "\ud800"
    assert "a b \\| c" in (tmp_path / "markdown").read_text()


def test_a_text_in_one_row_hides_no_metric(logged: Path, tmp_path: Path) -> None:
    found = load(logged)
    assert found.metrics == ["loss", "late"]
    table = found.summary("name", ["loss"])
    assert (table["n"][0], table["min"][0], table["max"][0]) == (6, -math.inf, math.inf)
    assert plot_curves(found, "loss", tmp_path / "x.png").is_file()
    assert list(found.experiment("logged")["late"])[:2] == [None, 2**60 + 1]
    rows = found.iterations()
    assert [type(one) for one in rows["loss"][:3]] == [float, str, float]
    assert main(["status", str(logged)]) == 0
    for nothing in ("text", "name"):
        with pytest.raises(ExperimentError, match="is not a logged column of numbers"):
            found.summary("run", [nothing])


def test_what_was_picked_and_changed_is_what_is_compared(values: Path) -> None:
    found = load(values)
    changed = Results(found.assign(x=5))
    assert len(changed.with_params(x=5)) == len(found)
    assert len(found.drop(columns="folder").with_params(x="1")) == 1
