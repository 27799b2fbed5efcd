"""Values from the command line: `--set params.lr=0.1`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amlsched.errors import ConfigError
from amlsched.experiments._config.expand import expand
from amlsched.experiments._config.resolve import Resolved, ResolvedExperiment, resolve
from amlsched.experiments._storage import layout
from amlsched.experiments.plan import Plan

FILE = """
name: DEFAULT
path: out
params: {lr: 1, opt: {name: adam}, layers: {1: 8}, hidden: [64], dotted.key: 1}
---
name: a
grid: {bs: [1, 2]}
---
name: b
repetitions: 2
params: {lr: 2}
"""

With = Callable[..., list[ResolvedExperiment]]


@pytest.fixture
def given(tmp_path: Path) -> With:
    file = tmp_path / "f.yml"

    def given(*overrides: str, text: str = FILE) -> list[ResolvedExperiment]:
        file.write_text(text)
        return resolve(file, overrides=overrides).experiments

    return given


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("params.lr=0.1", ("params", "lr"), 0.1),
        ("params.lr=1e-3", ("params", "lr"), 0.001),
        ("params.lr = 5 ", ("params", "lr"), 5),
        ("params.lr=", ("params", "lr"), None),
        ("params.new.deep=no", ("params", "new", "deep"), "no"),
        ("params.new='1'", ("params", "new"), "1"),
        ("params.text=a=b", ("params", "text"), "a=b"),
        ("params.url=http://x:1/y", ("params", "url"), "http://x:1/y"),
        ("params.hidden=[32, 32]", ("params", "hidden"), [32, 32]),
        ("params.opt={name: sgd, lr: 1}", ("params", "opt"), {"name": "sgd", "lr": 1}),
        ("params.opt={lr: 1}", ("params", "opt"), {"name": "adam", "lr": 1}),
        ("params.layers.1=9", ("params", "layers"), {1: 9}),
        ("params.layers.2=9", ("params", "layers"), {1: 8, 2: 9}),
        ('params.layers."3"=9', ("params", "layers"), {1: 8, "3": 9}),
        ('params."dotted.key"=2', ("params", "dotted.key"), 2),
        ('params."a=b"=2', ("params", "a=b"), 2),
        ("repetitions=3", ("repetitions",), 3),
        ("path=elsewhere", ("path",), "elsewhere"),
        ("wandb.project=x", ("wandb", "project"), "x"),
    ],
)
def test_a_value_is_read_as_the_config_is_and_wins_in_every_experiment(
    given: With, text: str, path: tuple[Any, ...], value: Any
) -> None:
    for experiment in given(text):
        found: Any = experiment.config
        for key in path:
            found = found[key]
        assert found == value
        assert type(found) is type(value)


def test_the_last_of_several_wins_and_keys_keep_their_place(given: With) -> None:
    a, _ = given("grid.bs=[7]", "grid.lr=[8, 9]", "params.opt.name=sgd", "params.opt.name=rms")
    assert a.config["params"]["opt"] == {"name": "rms"}
    assert [run.name for run in expand(a)] == ["a__b7_l8", "a__b7_l9"]
    assert list(a.config["params"]) == ["lr", "opt", "layers", "hidden", "dotted.key"]


def test_a_grid_can_be_added_replaced_and_taken_back(given: With) -> None:
    assert [run.name for run in expand(given("grid.lr=[0.1, 0.2]")[1])] == ["b__l0.1", "b__l0.2"]
    assert [run.name for run in expand(given("grid=null")[0])] == ["a"]


def test_its_origin_is_the_command_line(given: With) -> None:
    a, _ = given("params.opt.name=sgd")
    assert a.place("params", "opt", "name") == "command line (--set params.opt.name=sgd)"
    assert a.origin("params", "opt", "name").kind == "override"
    assert a.document.name == "a"
    assert a.place("params", "lr").endswith("f.yml:4 (document 1, key params.lr)")


BAD = {
    "no value": ("params.lr", "this is not KEY=VALUE (write --set KEY=VALUE, such as"),
    "no key": ("=1", "this is not KEY=VALUE"),
    "empty part": ("params..lr=1", "this is not KEY=VALUE"),
    "space": ("params lr=1", "this is not KEY=VALUE"),
    "open list": ("grid.lr=[1", "this is not YAML"),
    "duplicate": ("params.x={a: 1, a: 2}", "the key a is given twice"),
    "tag": ("params.x=!!python/object:os.system x", "is not supported: a config may only contain data"),
    "several documents": ("params.x=1\n---\n2", "more than one YAML document"),
    "name": ("name=x", "name can only be set in the file"),
    "import": ("import_path=x.yml", "import_path can only be set in the file"),
    "written key": ("_debug=true", "_debug can only be set in the file"),
    "unknown key": ("repetitons=2", "the key repetitons is not known (did you mean repetitions?"),
    "not below params": ("lr=2", "the key lr is not known"),
    "misspelt section": ("parms.lr=2", "the key parms is not known (did you mean params?"),
    "wrong kind": ("repetitions=many", "repetitions is 'many', and must be a whole number"),
    "scalar in a grid": ("grid.lr=0.1", "0.1 in a grid is not a list (write a list: lr: [0.1])"),
    "below a list": ("params.hidden.0=1", "params.hidden is [64], so no key can be set below it (set all of it"),
    "below a text": ("params.opt.name.x=1", "params.opt.name is 'adam', so no key can be set below it"),
}


BAD |= {
    "misspelt": ("params.opt.nmae=x", "no experiment has a parameter params.opt.nmae (did you mean params.opt.name?"),
    "misspelt in a mapping": ("params={hiden: [1]}", "a parameter params.hiden (did you mean params.hidden?"),
    "misspelt in a grid": (
        "grid.hiden=[1]",
        "(did you mean params.hidden? If not, use --set '+grid.hiden=[1]' to add it)",
    ),
    "forgotten params": ("hidden=[1]", "the key hidden is not known (did you mean params.hidden?)"),
}


def test_a_parameter_that_is_new_is_noted_and_a_plus_says_that_it_is_meant(tmp_path: Path) -> None:
    (tmp_path / "f.yml").write_text(FILE)

    def resolved(*overrides: str) -> Resolved:
        return resolve(tmp_path / "f.yml", overrides=overrides)

    [note] = resolved("params.momentum=0.9", "params.bs=3", "grid.lr=[1]", "params.opt={name: x}").notes
    assert "params.momentum is new: no experiment has it" in note
    for text in ("+params.momentum=0.9", "+params.hiden=[1]"):
        assert resolved(text).notes == ()
    assert resolved("+params.hiden=[1]").experiments[0].config["params"]["hiden"] == [1]


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_set_is_refused_and_named(given: With, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        given(text)
    assert error.value.where == f"command line (--set {text})"
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "expansion"),
    [
        ("params.lr=5", "grid: {lr: [1, 2]}"),
        ("params.opt.lr=5", "list1: {opt: {lr: [1, 2]}}"),
        ("params.opt.lr=5", "grid: {opt: [{lr: 1}]}"),
    ],
)
def test_a_parameter_that_every_run_sets_itself_is_refused(given: With, text: str, expansion: str) -> None:
    one = f"name: e\npath: out\n{expansion}\n"
    with pytest.raises(ConfigError, match="it has no effect, because (grid|list1).* sets this parameter"):
        given(text, text=one)
    [_, other] = given(text, text=one + "---\nname: f\npath: out\n")
    assert other.config["params"]
    [ablative] = given(text, text=one.replace(expansion, "ablative: {lr: [1], opt: {lr: [2]}, x: [3]}"))
    assert [run.params.get("x") for run in expand(ablative)] == [None, None, 3]


def test_a_plan_keeps_them_as_texts_and_its_resolved_config_has_the_values(tmp_path: Path) -> None:
    (tmp_path / "f.yml").write_text(FILE.replace("path: out", f"path: {tmp_path}/out"))
    plan = Plan(tmp_path / "f.yml", select=["b"], overrides=["params.lr=0.5", "repetitions=1"])
    assert plan.overrides == ("params.lr=0.5", "repetitions=1")
    [b] = plan.experiments
    file = layout.write_resolved(plan.path(b), b, "f.yml")
    [again] = Plan(file).experiments
    assert (again.config["params"]["lr"], again.config["repetitions"]) == (0.5, 1)
