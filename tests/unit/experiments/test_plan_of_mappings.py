"""Configs that a program gives as mappings, in the place of a file."""

import datetime
import enum
from collections import OrderedDict
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from omegaconf import OmegaConf

from amlsched.errors import ConfigError, ExperimentError
from amlsched.experiments import ExperimentRun, Plan, load
from amlsched.experiments._planning.checks import check


class Mode(enum.StrEnum):
    FAST = "fast"


class Ours:
    pass


def runs(config) -> dict[str, dict]:
    return {run.name: run.params for _, run in Plan(config).runs()}


@pytest.mark.parametrize(
    "config",
    [
        {"name": "e", "path": "out", "params": {"lr": 1, "opt": {"m": 0.5}}, "grid": {"d": [1, 2]}},
        [{"name": "e", "path": "out", "params": {"lr": 1, "opt": {"m": 0.5}}, "grid": {"d": [1, 2]}}],
        (
            {"name": "DEFAULT", "path": "out", "params": {"opt": {"m": 0.5}, "lr": 1}},
            {"name": "e", "grid": {"d": [1, 2]}},
        ),
        MappingProxyType({"name": "e", "path": Path("out"), "params": {"lr": np.int64(1), "opt": OrderedDict(m=0.5)}})
        | {"grid": {"d": np.arange(1, 3)}},
        OmegaConf.create(
            {"name": "e", "path": "out", "m": 0.5, "params": {"lr": 1, "opt": {"m": "${m}"}}, "grid": {"d": [1, 2]}}
        ),
        OmegaConf.create([{"name": "e", "path": "out", "params": {"lr": 1, "opt": {"m": 0.5}}, "grid": {"d": [1, 2]}}]),
        {"name": "e", "path": "out", "params": OmegaConf.create({"lr": 1, "opt": {"m": 0.5}}), "grid": {"d": [1, 2]}},
    ],
    ids=["mapping", "list", "tuple", "others", "DictConfig", "ListConfig", "DictConfig within"],
)
def test_mappings_are_what_a_file_with_the_same_would_be(config) -> None:
    plan = Plan(config)
    found = {run.name: run.params for _, run in plan.runs()}
    assert found == {f"e__d{d}": {"lr": 1, "opt": {"m": 0.5}, "d": d} for d in (1, 2)}
    assert {type(value) for params in found.values() for value in params.values()} == {int, dict}
    assert plan.paths == [Path("out")]


def test_values_are_plain_ones_however_they_were_written() -> None:
    given = {
        "f": np.float64(0.1),
        "b": np.bool_(True),
        "s": np.str_("x"),
        "e": Mode.FAST,
        "t": (1, [np.int8(2)]),
        "n": None,
        "d": datetime.date(2020, 1, 2),
    }
    [params] = runs({"name": "e", "path": "out", "params": given}).values()
    assert params == {"f": 0.1, "b": True, "s": "x", "e": "fast", "t": (1, [2]), "n": None, "d": "2020-01-02"}
    assert [type(value) for value in params.values()] == [float, bool, str, str, tuple, type(None), str]


def test_what_was_given_is_not_changed_and_not_kept() -> None:
    given = {"name": "e", "path": "out", "params": {"layers": [1, 2]}}
    plan = Plan(given)
    given["params"]["layers"].append(3)
    assert [run.params for _, run in plan.runs()] == [{"layers": [1, 2]}]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"path": "out"}, r"<mapping> \(document 1\): this document has no name"),
        ([{"name": "a", "path": "o"}, {"name": "b"}], r"<mapping> \(document 2\): there is no path"),
        ([{"name": "a", "path": "o"}, 3], r"<mapping> \(document 2\): a document must be a mapping"),
        ([], r"<mapping>: there is no experiment"),
        ({"name": "e", "path": "o", "gird": {"a": [1]}}, r"<mapping> \(document 1, key gird\): .*did you mean grid"),
        ({"name": "e", "path": "o", "grid": {"a": 1}}, r"<mapping> \(document 1, key grid.a\): 1 in a grid is not"),
        ({"name": "e", "path": "o", "params": {"m": Ours()}}, r"m\): a config cannot hold a value of the type Ours"),
        ({"name": "e", "path": "o", "params": {"m": [1, b"x"]}}, r"m.1\): a config cannot hold a value of the type by"),
        ({"name": "e", "path": "o", "params": {None: 1}}, r"key params.None\): None cannot be a key"),
        ({"name": "e", "path": "o", "params": {1: 1, "1": 2}}, r"key params.1\): the key 1 is given twice"),
        ({"name": "e", "path": "o", "import_path": "none.yml"}, r"<mapping> \(.* import_path\): there is no file"),
        ({"name": "e", "path": "o", "params": {"m": "${env:AMLSCHED_NONE}"}}, r"params.m\): the environment variable"),
        (OmegaConf.create({"name": "e", "params": {"m": "${none}"}}), r"params.m\): Interpolation key 'none'"),
        ({"name": "e", "params": OmegaConf.create({"a": {"m": "???"}})}, r"key params.a.m\): Missing mandatory value"),
    ],
)  # fmt: skip
def test_errors_name_the_mapping_its_document_and_the_key(config, problem) -> None:
    with pytest.raises(ConfigError, match=problem):
        Plan(config)


def test_a_mapping_that_holds_itself_is_an_error() -> None:
    given: dict = {"name": "e", "path": "out"}
    given["params"] = given
    with pytest.raises(ConfigError, match="nested deeper than 64 levels"):
        Plan(given)


@pytest.mark.parametrize("config", [3, None, b"e.yml", object()])
def test_what_is_no_config_at_all_is_named(config) -> None:
    with pytest.raises(TypeError, match=f"a mapping or a list of mappings, not {type(config).__name__}"):
        Plan(config)


def test_a_single_name_is_a_selection_and_a_state() -> None:
    config = [{"name": "DEFAULT", "path": "out"}, {"name": "ab"}, {"name": "cd"}]
    assert [one.name for one in Plan(config, select="ab", rerun="failed", overrides="params.x=1").experiments] == ["ab"]
    with pytest.raises(ExperimentError, match="--rerun faild: is neither a state"):
        Plan(config, rerun="faild")


def test_a_mapping_runs_resumes_and_its_files_are_read(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yml").write_text("{name: DEFAULT, path: out, repetitions: 2}")

    def function(params, rep, log):
        return params["x"] * 10 + rep

    config = {"name": "e", "import_path": "base.yml", "grid": {"x": [1, 2]}}
    assert not check(config).faults
    summary = ExperimentRun(function, config, executor="sequential").run()
    assert (summary.complete, summary.ran) == (True, 4)
    assert list(load("out")["value"]) == [10, 11, 20, 21]
    assert ExperimentRun(function, config, executor="sequential").run().ran == 0
    again = Plan("out/e/config.yml")
    assert [planned.known.state.done for path, run in again.runs() for planned in again.repetitions(run, path)] == [
        True
    ] * 4
    config["grid"]["x"][0] = np.int64(1)  # the same number
    assert ExperimentRun(function, [config], executor="sequential").run().ran == 0
