"""What holds for any config: counts, order, folders that are distinct and inside, texts read as they were written."""

import itertools
import math
import os
import re
import string
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from amlsched.errors import ConfigError
from amlsched.experiments._config.axes import axes_of
from amlsched.experiments._config.document import Document, parse
from amlsched.experiments._config.expand import count, expand
from amlsched.experiments._config.resolve import ResolvedExperiment, resolve
from amlsched.experiments._config.values import escaped, filled, merge
from amlsched.experiments._config.yaml import read, write
from amlsched.experiments._planning.checks import check
from amlsched.experiments._storage import layout

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Few and nasty characters, so that names collide and leave their folder if they can.
texts = st.text(alphabet="ab./_- ,([])'\"\0\n{:~éß😀", max_size=8) | st.text(
    max_size=6, alphabet=st.characters(exclude_categories=["Cs"])
)
traps = ["..", "../x", "/", "1", "1e-3", "${env:HOME}", "$${env:X:1}"]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(traps)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v, max_size=3), max_leaves=5)
keys = st.sampled_from(["a", "ab", "alpha_beta", "b", "opt", "opt.lr", "a/b", "..", "é", "_", "x y"])
lists = st.lists(values, min_size=1, max_size=3, unique_by=repr)


def sections(branches: st.SearchStrategy[Any], max_size: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(keys, branches, min_size=1, max_size=max_size)


@st.composite
def equal_lists(draw: st.DrawFn) -> dict[str, Any]:
    """A `list` section: all of one length, the first list without doubles."""
    length = draw(st.integers(1, 3))
    names = draw(st.lists(keys, min_size=1, max_size=3, unique=True))
    some = st.lists(values, min_size=length, max_size=length)
    first = st.lists(values, min_size=length, max_size=length, unique_by=repr)
    return {name: draw(some if index else first) for index, name in enumerate(names)}


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """An experiment with up to three expansions."""
    expansions = {
        "grid": sections(lists | sections(lists, 2)),
        "list1": equal_lists(),
        "ablative--x": sections(lists),
        "gridB": sections(lists, 1),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(expansions)), unique=True, max_size=3))
    config: dict[str, Any] = {"name": draw(st.sampled_from(["e", "my__e", "é e"])), "path": "out"}
    config["params"] = draw(st.dictionaries(keys, values, max_size=3))
    config["repetitions"] = draw(st.integers(1, 12))
    return config | {key: draw(expansions[key]) for key in chosen}


def made(config: dict[str, Any]) -> ResolvedExperiment:
    """The experiment, unless one of its paths leads through a value, which is refused."""
    document = Document("experiment", config["name"], config, Path("f.yml"), 1)
    try:
        axes = axes_of(config, document.place)
    except ConfigError as error:
        assume("no key can be set below it" not in error.problem and " is set by " not in error.problem)
        raise
    return ResolvedExperiment(config["name"], config, (document,), axes)


def expected_count(config: dict[str, Any]) -> int:
    """Counted from the config itself."""

    def leaves(section: dict[str, Any]) -> list[list[Any]]:
        return [leaf for v in section.values() for leaf in (leaves(v) if isinstance(v, dict) else [v])]

    number = 1
    for key, section in config.items():
        lengths = [len(leaf) for leaf in leaves(section)] if isinstance(section, dict) and key != "params" else []
        if key.startswith("grid"):
            number *= math.prod(lengths)
        elif key.startswith("list"):
            number *= lengths[0]
        elif key.startswith("ablative"):
            number *= sum(lengths)
    return number


@quick
@given(configs())
def test_as_many_runs_as_the_config_says_with_distinct_folders_inside_the_output(config: dict[str, Any]) -> None:
    experiment = made(config)
    number = expected_count(config)
    assert count(experiment) == number
    assume(number <= 300)
    folders = [layout.repetition_folder("out", run, i) for run in expand(experiment) for i in range(run.repetitions)]
    assert len(folders) == number * config["repetitions"] == len(set(folders))
    for folder in folders:
        assert Path(os.path.normpath(folder)) == folder
        assert folder.parts[:2] == ("out", config["name"])
        assert all(len(os.fsencode(part)) <= 255 and "\0" not in part for part in folder.parts)
        assert len(folder.parts) <= 5


@quick
@given(configs())
def test_expansion_is_the_same_each_time_and_debug_is_its_first(config: dict[str, Any]) -> None:
    experiment = made(config)
    assume(count(experiment) <= 100)
    runs = [(run.name, repr(run.params)) for run in expand(experiment)]
    assert [(run.name, repr(run.params)) for run in expand(experiment)] == runs
    assert [(run.name, repr(run.params)) for run in expand(experiment, "debugall")] == runs
    assert [(run.name, repr(run.params)) for run in expand(experiment, "debug")] == runs[:1]


@quick
@given(st.lists(st.lists(st.integers(), min_size=1, max_size=4, unique=True), min_size=1, max_size=4))
def test_the_first_key_of_a_grid_varies_slowest(axes: list[list[int]]) -> None:
    grid = dict(zip(string.ascii_lowercase, axes, strict=False))
    experiment = made({"name": "e", "path": "out", "grid": grid})
    assert [tuple(run.params.values()) for run in expand(experiment)] == list(itertools.product(*axes))


@quick
@given(configs(), st.sampled_from(["", "debug", "debugall"]))
def test_a_resolved_config_loads_to_the_same_repetitions(
    tmp_path_factory: Any, config: dict[str, Any], debug: Any
) -> None:
    experiment = made(config)
    assume(count(experiment) <= 50)
    output = tmp_path_factory.mktemp("out")
    file = layout.write_resolved(output, experiment, "f.yml", debug)
    [again] = resolve(file).experiments
    before = [(run.name, repr(run.params), run.repetitions) for run in expand(experiment, debug)]
    assert [(run.name, repr(run.params), run.repetitions) for run in expand(again)] == before
    assert layout.output_folder(again) == output


@quick
@given(configs(), values, lists)
def test_a_value_of_the_command_line_is_the_one_of_every_run(
    tmp_path_factory: Any, config: dict[str, Any], value: Any, several: list[Any]
) -> None:
    """Loaded from a file with `--set`, and again from the resolved config without it."""
    made(config)
    output = tmp_path_factory.mktemp("out")
    (output / "f.yml").write_text(write([escaped(config)]))
    texts = [f"{key}={write([escaped(given)])}" for key, given in (("params.set", value), ("grid9.other", several))]
    [one] = resolve(output / "f.yml", overrides=texts).experiments
    number = expected_count(config) * len(several)
    assert count(one) == number
    assume(number <= 50)
    runs = list(expand(one))
    assert {repr(run.params["set"]) for run in runs} == {repr(value)}
    assert [repr(run.params["other"]) for run in runs[: len(several)]] == list(map(repr, several))
    [again] = resolve(layout.write_resolved(output, one, "f.yml")).experiments
    assert [(run.name, repr(run.params)) for run in expand(again)] == [(run.name, repr(run.params)) for run in runs]


@quick
@given(st.lists(values, max_size=3))
def test_what_is_written_is_read_as_it_was(documents: list[Any]) -> None:
    trees = read(write([escaped(document) for document in documents]), "f.yml")
    assert repr([filled(tree.value, lambda *keys: str(keys)) for tree in trees]) == repr(documents)


@quick
@given(st.text(alphabet="ab1:-[]{}&*!|>'\"#%@ \n\t,?~<.", max_size=40))
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    wheres: list[str] = []
    try:
        names = [document.name for document in parse(text, "f.yml")]
    except ConfigError as error:
        wheres, names = [error.where], []
    assert all(re.match(r"f\.yml(:\d+|$)", where) for where in wheres)
    assert all(names)


@quick
@given(*[st.dictionaries(keys, values, max_size=4)] * 3)
def test_merging_keeps_all_keys_and_the_last_word(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    merged = merge(a, b)
    assert list(merged) == [*a, *(key for key in b if key not in a)]
    assert all(repr(merged[key]) == repr(b[key]) for key in b if not isinstance(b[key], dict))
    assert repr(merge(merged, {})) == repr(merged) == repr(merge({}, merged))
    assert set(merge(merged, c)) == set(a) | set(b) | set(c)


any_keys = st.sampled_from(
    [
        "params",
        "grid",
        "list",
        "list2",
        "ablative",
        "path",
        "repetitions",
        "iterations",
        "seed",
        "extra_keys",
        "wandb",
        "import_exp",
        "import_path",
        "x",
        "_y",
        "_experiment_name",
        "_basic_path",
        "_debug",
        "_rep_idx",
        "_path_relative_to",
        "reps_per_job",
        "gpus_per_rep",
        "ablative_baseline",
        "log_path",
        "sbatch_args",
        "sh_lines",
        "time",
        "repetitons",
    ]
)
any_names = st.sampled_from(["a", "b", "DEFAULT", "SLURM", "SLURM_a", "../x", "${env:HOME}", "${env:NOT_THERE}", 3])


@st.composite
def any_documents(draw: st.DrawFn) -> list[Any]:
    """Documents in which any key may have any value."""
    found: list[Any] = []
    for name in draw(st.lists(any_names, max_size=4)):
        found.append({"name": name, "path": "out"} | draw(st.dictionaries(any_keys, values, max_size=4)))
    return found


@example([{"name": "a", "path": "out"}, {"name": "SLURM", "path": "out"}, {"name": "SLURM", "path": "out"}], [])
@quick
@given(any_documents(), st.lists(st.sampled_from(["params.a=1", "grid.a=[1]", "x=3", "grid=null", "a", "path=[1]"])))
def test_a_check_tells_of_a_fault_exactly_if_a_run_here_or_in_jobs_would_be_refused(
    tmp_path_factory: Any, documents: list[Any], overrides: list[str]
) -> None:
    file = tmp_path_factory.mktemp("any") / "f.yml"
    file.write_text(write(documents))
    first, in_jobs = None, []
    try:
        sections = resolve(file, overrides=overrides).sections
        in_jobs = [str(fault) for fault in (*sections.faults, *sections.other_faults)]
    except ConfigError as fault:
        first = str(fault)
    found = [str(fault) for fault in check(file, overrides=overrides).faults if isinstance(fault, ConfigError)]
    assert first in found if first is not None else set(found) == set(in_jobs)
