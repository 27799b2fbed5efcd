"""Runs and their names, as cw2 forms them; cw2's traps 4 and 5."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from amlsched.errors import ConfigError
from amlsched.experiments._config.expand import Debug, Run, count, expand
from amlsched.experiments._config.resolve import ResolvedExperiment, resolve
from amlsched.resources import cpus


def experiment(tmp_path: Path, text: str, name: str = "e") -> ResolvedExperiment:
    file = tmp_path / "f.yml"
    file.write_text(f"name: {name}\npath: out\n{text}\n")
    [one] = resolve(file).experiments
    return one


def runs(tmp_path: Path, text: str, debug: Debug = "", name: str = "e") -> list[Run]:
    return list(expand(experiment(tmp_path, text, name), debug))


def names(tmp_path: Path, text: str, name: str = "e") -> list[str]:
    return [run.name for run in runs(tmp_path, text, name=name)]


# The names were recorded from cw2 2.5.1.
CW2 = {
    "nothing": ("params: {lr: 1}", ["e"]),
    "grid": (
        "grid: {learning_rate: [0.1, 0.2], batch_size: [1, 2]}",
        ["e__lr0.1_bs1", "e__lr0.1_bs2", "e__lr0.2_bs1", "e__lr0.2_bs2"],
    ),
    "nested": ("grid: {optimizer: {learning_rate: [0.1], inner: {alpha_x: [3]}}}", ["e__opt.lr0.1_opt.inn.ax3"]),
    "dotted key": ("grid: {model.hidden_size: [64]}", ["e__mod.hs64"]),
    "list": ("list: {a: [1, 2], b: {c: [x, y]}}", ["e__a1_b.cx", "e__a2_b.cy"]),
    "ablative": ("ablative: {a: [1, 2], bee: [3]}", ["e__a1", "e__a2", "e__b3"]),
    "several keys": (
        "grid: {a: [1, 2]}\nlist--2: {b: [3, 4]}\nablative_x: {c: [5], d: [6]}",
        [
            "e__a1_b3_c5",
            "e__a1_b3_d6",
            "e__a1_b4_c5",
            "e__a1_b4_d6",
            "e__a2_b3_c5",
            "e__a2_b3_d6",
            "e__a2_b4_c5",
            "e__a2_b4_d6",
        ],
    ),
    "values": (
        "grid: {v: [[1, 2], 'it''s', 'a b', '(x)', {n: 1}, null, true, 1.0e-05, -3, 'x,y', ü, '']}",
        [
            "e__v_1_2",
            "e__vits",
            "e__vab",
            "e__v_x",
            "e__v{n:1}",
            "e__vNone",
            "e__vTrue",
            "e__v1e-05",
            "e__v-3",
            "e__vx_y",
            "e__vü",
            "e__v",
        ],
    ),
    "keys": ("grid: {_x: [1], y__z: [2], 'q(r)_s': [3], K: [4]}", ["e__x1_yz2_qs3_K4"]),
}


@pytest.mark.parametrize(("text", "expected"), CW2.values(), ids=CW2)
def test_names_are_those_of_cw2(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert names(tmp_path, text) == expected


def test_a_double_underscore_is_set_only_once(tmp_path: Path) -> None:
    assert names(tmp_path, "grid: {a: [1]}", name="my__e") == ["my__e_a1"]


def test_the_first_key_varies_slowest_also_over_the_order_of_default(tmp_path: Path) -> None:
    file = tmp_path / "f.yml"
    file.write_text("name: DEFAULT\npath: out\ngrid: {b: [1, 2]}\n---\nname: e\nlist: {c: [5, 6]}\ngrid: {a: [3, 4]}\n")
    [one] = resolve(file).experiments
    assert [list(run.overrides.values()) for run in expand(one)] == [
        [b, a, c] for b, a, c in itertools.product((1, 2), (3, 4), (5, 6))
    ]


def test_values_override_params_and_runs_share_nothing(tmp_path: Path) -> None:
    first, second = runs(
        tmp_path, "params: {opt: {lr: 1, name: adam}, k: [1]}\ngrid: {opt: {lr: [[2], [3]]}, new: {x: [4]}}"
    )
    assert first.params == {"opt": {"lr": [2], "name": "adam"}, "k": [1], "new": {"x": 4}}
    assert first.overrides == {"opt.lr": [2], "new.x": 4}
    first.params["k"].append(2)
    first.params["opt"]["lr"].append(2)
    assert second.params == {"opt": {"lr": [3], "name": "adam"}, "k": [1], "new": {"x": 4}}
    assert first.params["opt"]["lr"] == [2]


@pytest.mark.parametrize(
    ("text", "name", "first"),
    [
        ("grid: {lr: [1, 2]}\nlist: {lr: [5, 6]}", "lr is set by grid and by list", "grid.lr"),
        ("grid: {lr: [1, 2]}\nablative: {bs: [6], lr: [5]}", "lr is set by grid and by ablative", "grid.lr"),
        ("grid: {lr: [1, 2]}\ngrid2: {lr: [5]}", "lr is set by grid and by grid2", "grid.lr"),
        ("list1: {a: {b: [1]}}\nlist--2: {a: {b: [2]}}", "a.b is set by list1 and by list--2", "list1.a.b"),
        ("grid: {opt: {lr: [1]}}\nlist: {opt: [{x: 1}]}", "opt is set by grid and by list", "grid.opt.lr"),
        ("grid: {opt: [{x: 1}, {lr: 2}]}\nlist: {opt: {lr: [5]}}", "opt.lr is set by grid and by list", "grid.opt"),
    ],
)
def test_a_parameter_that_two_expansions_set_is_refused_with_both_places(
    tmp_path: Path, text: str, name: str, first: str
) -> None:
    with pytest.raises(ConfigError) as error:
        experiment(tmp_path, text)
    assert name in error.value.problem
    assert f"key {first})" in error.value.remedy
    assert "f.yml" in error.value.remedy
    assert error.value.where != error.value.remedy


@pytest.mark.parametrize(
    ("text", "where", "written"),
    [
        ("params: {opt: {lr: 1}}\ngrid: {opt.lr: [2]}", 'grid."opt.lr"', "grid: {opt: {lr: …}}"),
        ("params: {opt: {lr: 1}}\nlist: {params.opt.lr: [2]}", 'list."params.opt.lr"', "list: {opt: {lr: …}}"),
        ("params: {lr: 1}\ngrid: {params: {lr: [2]}}", "grid.params.lr", "grid: {lr: …}"),
        ("params: {opt: {lr: 1}, opt.lr: 2}", 'params."opt.lr"', "params: {opt: {lr: …}}"),
        ("grid: {opt: {lr: [1]}}\nablative: {opt.lr: [2]}", 'ablative."opt.lr"', "ablative: {opt: {lr: …}}"),
        ("grid: {opt.lr: [1], opt: [{lr: 2}]}", 'grid."opt.lr"', "grid: {opt: {lr: …}}"),
    ],
)
def test_a_name_with_dots_beside_the_parameter_of_that_path_raises(
    tmp_path: Path, text: str, where: str, written: str
) -> None:
    with pytest.raises(ConfigError, match="would keep its value") as error:
        experiment(tmp_path, text)
    assert f"key {where})" in error.value.where
    assert written in error.value.remedy


def test_a_name_with_dots_is_one_name_if_there_is_no_parameter_of_that_path(tmp_path: Path) -> None:
    text = "params: {opt: {bs: 3}, model.size: 1, params: {lr: 1}}\ngrid: {opt.lr: [2], params: {lr: [4]}}"
    (run,) = runs(tmp_path, text)
    assert run.params == {"opt": {"bs": 3}, "model.size": 1, "params": {"lr": 4}, "opt.lr": 2}


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("params: {learning_rate: 1}\ngrid: {learning_rte: [1, 2]}", "did you mean learning_rate?"),
        ("params: {opt: {alpha: 1}}\nlist: {opt: {aplha: [1, 2]}}", "did you mean opt.alpha?"),
        ("params: {beta1: 1}\ngrid: {beta2: [1, 2]}", ""),
        ("params: {width: 1}\ngrid: {width: [1], widths: [2]}", ""),
        ("grid: {learning_rte: [1, 2]}", ""),
    ],
)
def test_an_expansion_of_a_misspelled_parameter_is_noted(tmp_path: Path, text: str, note: str) -> None:
    file = tmp_path / "f.yml"
    file.write_text(f"name: e\npath: out\n{text}\n")
    notes = resolve(file).notes
    assert len(notes) == bool(note)
    assert all(note in one and "f.yml:4" in one for one in notes)


def test_a_baseline_is_added_on_request_and_comes_first(tmp_path: Path) -> None:
    found = runs(tmp_path, "params: {a: 0}\nablative: {a: [1], b: [2]}\nablative_baseline: true")
    assert [(run.name, run.params) for run in found] == [
        ("e__baseline", {"a": 0}),
        ("e__a1", {"a": 1}),
        ("e__b2", {"a": 0, "b": 2}),
    ]


def test_keys_that_are_whole_numbers_work(tmp_path: Path) -> None:
    """Trap 4: they crash cw2."""
    [run, _] = runs(tmp_path, "params: {layers: {1: {size: 3}}}\ngrid: {layers: {1: {size: [4, 5]}}, 2: [x]}")
    assert run.params == {"layers": {1: {"size": 4}}, 2: "x"}
    assert run.name == "e__lay.1.s4_2x"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("grid:", "e"),
        ("list: {}\nablative: null", "e"),
        ("grid: {}", "e__"),  # the names of cw2
        ("grid: {}\nlist: null", "e__"),
        ("grid: {}\ngrid2: {a: [1]}", "e___a1"),
        ("grid1: {a: [1]}\ngrid2: {}", "e__a1_"),
    ],
)
def test_an_expansion_of_nothing_gives_the_one_run(tmp_path: Path, text: str, name: str) -> None:
    assert names(tmp_path, text) == [name]


def test_reps_in_parallel_of_minus_one_is_as_many_as_there_are_cpus(tmp_path: Path) -> None:
    [run] = runs(tmp_path, "reps_in_parallel: -1")
    assert run.reps_in_parallel == len(cpus())
    assert run.config["reps_in_parallel"] == -1


def test_numbers_of_a_run_have_defaults(tmp_path: Path) -> None:
    [run] = runs(tmp_path, "")
    assert (run.repetitions, run.iterations, run.reps_per_job, run.reps_in_parallel, run.seed) == (1, None, 1, 1, 0)
    [run] = runs(tmp_path, "repetitions: 2\niterations: 3\nreps_per_job: 4\nreps_in_parallel: 5\nseed: 6")
    assert (run.repetitions, run.iterations, run.reps_per_job, run.reps_in_parallel, run.seed) == (2, 3, 4, 5, 6)
    assert run.config == run.experiment.config | {"params": {}, "_debug": False}


# --------------------------------------------------------------------------------------------------------------- debug

FULL = "repetitions: 5\niterations: 9\nreps_per_job: 3\nreps_in_parallel: 2\n"
FULL += "grid: {a: [1, 2]}\nlist: {b: [3, 4]}\nablative: {c: [5, 6]}\n"


@pytest.mark.parametrize(("debug", "expected"), [("", 8), ("debug", 1), ("debugall", 8)])
def test_debug_is_one_of_each_and_debugall_all_combinations(tmp_path: Path, debug: Debug, expected: int) -> None:
    found = runs(tmp_path, FULL, debug)
    assert len(found) == count(experiment(tmp_path, FULL), debug) == expected
    numbers = {(run.repetitions, run.iterations, run.reps_per_job, run.reps_in_parallel) for run in found}
    assert numbers == {(1, 1, 1, 1) if debug else (5, 9, 3, 2)}
    assert {run.config["_debug"] for run in found} == {bool(debug)}
    assert {run.config["iterations"] for run in found} == {1 if debug else 9}
    assert found[0].name == "e__a1_b3_c5"


# ------------------------------------------------------------------------------------------------------------ bad input

BAD: dict[str, tuple[str, str, str]] = {
    "scalar in a grid": (
        "grid:\n  lr: 0.1",
        "f.yml:4 (document 1, key grid.lr)",
        "0.1 in a grid is not a list (write a list: lr: [0.1])",
    ),
    "scalar in a nested grid": ("grid1: {o: {lr: x}}", "key grid1.o.lr)", "'x' in a grid1 is not a list"),
    "null in a grid": ("grid: {lr: }", "key grid.lr)", "None in a grid is not a list (write a list of values)"),
    "empty mapping in a grid": ("grid: {lr: {}}", "key grid.lr)", "{} in a grid is not a list"),
    "empty list": ("grid: {lr: []}", "key grid.lr)", "the list is empty, so there is nothing to run (add a value)"),
    "empty list in a list": ("list: {lr: [], b: []}", "key list.lr)", "the list is empty"),
    "list for a grid": ("grid: [1, 2]", "key grid)", "grid is [1, 2], not a mapping of names to lists"),
    "gridsize": (
        "gridsize: 5",
        "f.yml:3 (document 1, key gridsize)",
        "if it is a setting of yours, move it below params",
    ),
    "listen_port": ("listen_port: 80", "key listen_port)", "a key that begins with grid, list or ablative expands"),
    "misspelt baseline": ("ablative_baselin: true", "key ablative_baselin)", "is True, not a mapping"),
    "unequal list": (
        "list2: {a: [1, 2], b: {c: [1]}}",
        "f.yml:3 (document 1, key list2)",
        "the lists of list2 have unequal lengths: a has 2, b.c has 1 (give all the same length, or use grid",
    ),
    "same value twice": (
        "grid: {a: [1, 2, 1]}",
        "key grid.a)",
        "a = 1 is given twice: as value 1 and as value 3 (remove one; to run it several times",
    ),
    "same value twice, written otherwise": ("grid: {a: [0.1, 1e-1]}", "key grid.a)", "a = 0.1 is given twice"),
    "same row twice": ("list: {a: [1, 2, 1], b: [3, 4, 3]}", "key list)", "a = 1, b = 3 is given twice"),
    "same ablation twice": ("ablative: {a: [1], b: [1, 1]}", "key ablative.b)", "b = 1 is given twice"),
    "below a number": (
        "params: {opt: 3}\ngrid: {opt: {lr: [1]}}",
        "f.yml:4 (document 1, key grid.opt.lr)",
        "params sets opt to 3, so no key can be set below it (make opt a mapping, or expand opt itself)",
    ),
    "below the value of another axis": (
        "grid: {opt: [adam]}\ngrid2: {opt: {lr: [1]}}",
        "key grid2.opt.lr)",
        "grid sets opt to 'adam'",
    ),
}


@pytest.mark.parametrize(("text", "where", "message"), BAD.values(), ids=BAD)
def test_an_expansion_that_cannot_work_is_refused_with_place_and_remedy(
    tmp_path: Path, text: str, where: str, message: str
) -> None:
    """Trap 4: such values vanish, are cut or crash in cw2."""
    with pytest.raises(ConfigError) as error:
        experiment(tmp_path, text)
    assert error.value.where.endswith(where)
    assert message in str(error.value)
    assert error.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "params: {opt: null}\ngrid: {opt: {lr: [1]}}",
        "grid: {opt: [{name: adam}, {name: sgd}]}\ngrid2: {opt: {lr: [1, 2]}}",
        "grid: {opt: [{x: {lr: 3}}, {x: 4}]}\nlist: {opt: {lr: [1, 2]}}",
        "grid: {opt: {lr: [1, 2]}}\nlist: {opt: {bs: [1, 2]}}",
        "grid: {a: [1, 1.0, true, '1', 'True']}",
        "list: {a: [1, 1], b: [1, 2]}",
    ],
)
def test_what_looks_alike_but_is_not_works(tmp_path: Path, text: str) -> None:
    one = experiment(tmp_path, text)
    found = list(expand(one))
    assert len(found) == count(one) >= 1
    assert len({run.name for run in found}) == len(found)


# --------------------------------------------------------------------------------------------------- names of folders

SUFFIX = "-[0-9a-f]{8}"
COLLIDING = {
    "two keys": ("ablative: {beta: [1], batch: [1]}", ["e__b1", f"e__b1{SUFFIX}"]),
    "two values": ("grid: {v: ['a b', ab]}", ["e__vab", f"e__vab{SUFFIX}"]),
    "types": ("grid: {v: [1, '1']}", ["e__v1", f"e__v1{SUFFIX}"]),
    "slash": ("grid: {v: [a/b, a_b]}", [f"e__va_b{SUFFIX}", "e__va_b"]),
    "up": ("grid: {v: [../../x]}", [f"e__v.._.._x{SUFFIX}"]),
    "absolute": ("grid: {v: [/etc/passwd]}", [f"e__v_etc_passwd{SUFFIX}"]),
    "control characters": ('grid: {v: ["a\\0b\\n", "\\u2028"]}', [f"e__va_b_{SUFFIX}", f"e__v_{SUFFIX}"]),
}


@pytest.mark.parametrize(("text", "patterns"), COLLIDING.values(), ids=COLLIDING)
def test_names_that_collide_or_cannot_be_a_folder_get_a_stable_suffix(
    tmp_path: Path, text: str, patterns: list[str]
) -> None:
    """Trap 5."""
    found = names(tmp_path, text)
    assert len(found) == len(patterns) == len(set(found))
    for name, pattern in zip(found, patterns, strict=True):
        assert re.fullmatch(pattern, name)
    assert names(tmp_path, text) == found


def test_a_suffix_is_the_same_in_every_version(tmp_path: Path) -> None:
    """Results on disk are found by it."""
    assert names(tmp_path, "grid: {v: [a/b]}") == ["e__va_b-9041667e"]


def test_values_added_at_the_end_rename_no_run(tmp_path: Path) -> None:
    before = {repr(run.params): run.name for run in runs(tmp_path, "grid: {v: ['a b', ab], w: [1]}")}
    after = {repr(run.params): run.name for run in runs(tmp_path, "grid: {v: ['a b', ab, 'a  b'], w: [1, '1']}")}
    assert before.items() <= after.items()
    assert len(set(after.values())) == 6


@pytest.mark.parametrize("value", ["x" * 400, "ü" * 200, "😀" * 100])
def test_long_names_are_cut_to_what_a_folder_can_have(tmp_path: Path, value: str) -> None:
    found = names(tmp_path, f"grid: {{v: [{value}a, {value}b]}}", name="n" * 180)
    assert len(set(found)) == 2
    for name in found:
        assert 245 <= len(name.encode()) <= 255
        (tmp_path / name).mkdir()


def test_a_value_may_look_like_the_name_of_another_run(tmp_path: Path) -> None:
    clash = names(tmp_path, "ablative: {beta: [1], batch: [1]}")[1].removeprefix("e__b")
    found = names(tmp_path, f"ablative: {{beta: [1, '{clash}'], batch: [1]}}")
    assert len(set(found)) == 3


def test_expansion_is_lazy_and_counting_expands_nothing(tmp_path: Path) -> None:
    lists = ", ".join(f"k{i}: [{', '.join(map(str, range(100)))}]" for i in range(10))
    one = experiment(tmp_path, f"grid: {{{lists}}}")
    assert count(one) == 100**10
    first: Any = list(itertools.islice(expand(one), 3))
    assert [run.params["k9"] for run in first] == [0, 1, 2]
