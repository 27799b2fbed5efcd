"""Merging, importing, selecting and checking; cw2's traps 3, 4, 5, 6 and 7."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from amlsched.errors import ConfigError
from amlsched.experiments._config.expand import expand
from amlsched.experiments._config.resolve import Resolved, ResolvedExperiment, resolve
from amlsched.units import slurm_seconds

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "f.yml") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


def only(resolved: Resolved) -> ResolvedExperiment:
    [experiment] = resolved.experiments
    return experiment


# ------------------------------------------------------------------------------------------------------------ merging


def test_default_lies_under_every_experiment_and_its_keys_come_first(write: Write) -> None:
    file = write("""
name: a
params: {opt: {lr: 1}, new: [3]}
grid: {z: [1]}
---
name: default
path: results
grid: {b: [1]}
params: {first: 1, opt: {name: adam, lr: 0}, new: [1, 2]}
---
name: b
path: elsewhere
""")
    a, b = resolve(file).experiments
    assert a.config == {
        "name": "a",
        "path": "results",
        "grid": {"b": [1], "z": [1]},
        "params": {"first": 1, "opt": {"name": "adam", "lr": 1}, "new": [3]},
    }
    assert list(a.config) == ["name", "path", "grid", "params"]
    assert list(a.config["grid"]) == ["b", "z"]
    assert b.config["path"] == "elsewhere"
    assert b.config["params"]["opt"] == {"name": "adam", "lr": 0}


def test_a_value_knows_the_file_and_line_that_it_comes_from(write: Write) -> None:
    file = write("name: DEFAULT\npath: results\nparams:\n  lr: 1\n  bs: 2\n---\nname: a\nparams:\n  lr: 3\n")
    a = only(resolve(file))
    assert a.place("params", "lr") == f"{file}:9 (document 2, key params.lr)"
    assert a.place("params", "bs") == f"{file}:5 (document 1, key params.bs)"
    assert a.place("path") == f"{file}:2 (document 1, key path)"
    assert a.origin("params", "bs").name == "DEFAULT"


@pytest.mark.parametrize("section", ["params", "grid", "list1", "wandb"])
def test_a_null_section_of_default_is_an_empty_one(write: Write, section: str) -> None:
    file = write(f"name: DEFAULT\npath: out\n{section}:\n---\nname: a\n{section}: {{lr: [1]}}\n---\nname: b\n")
    a, b = resolve(file).experiments
    assert a.config[section] == {"lr": [1]}
    assert b.config[section] is None


def test_a_mapping_replaces_what_is_none_and_null_takes_a_mapping_back(write: Write) -> None:
    file = write("name: DEFAULT\npath: out\nparams: {opt: adam}\ngrid: {lr: [1, 2]}\n---\n"
                 "name: a\nparams: {opt: {name: sgd}}\ngrid:\n")  # fmt: skip
    a = only(resolve(file))
    assert a.config["params"] == {"opt": {"name": "sgd"}}
    assert a.axes == ()


def test_merged_experiments_share_no_values(write: Write) -> None:
    a, b = resolve(write("name: DEFAULT\npath: out\nparams: {l: [1]}\n---\nname: a\n---\nname: b\n")).experiments
    a.config["params"]["l"].append(2)
    assert b.config["params"]["l"] == [1]


# ---------------------------------------------------------------------------------------------------------- selection

THREE = "name: DEFAULT\npath: out\n---\nname: a\n---\nname: digits\n---\nname: Digits\n"


def test_experiments_are_selected_by_exact_name_in_the_order_of_the_file(write: Write) -> None:
    file = write(THREE)
    assert [one.name for one in resolve(file, ("digits", "a")).experiments] == ["a", "digits"]
    assert only(resolve(file, "Digits")).name == "Digits"
    assert len(resolve(file).experiments) == 3


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("digts", "did you mean digits? the file has: a, digits, Digits"),
        ("nothing", "the file has: a, digits, Digits"),
        ("DEFAULT", "the file has: a, digits, Digits"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(write: Write, name: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"there is no experiment {name!r} ({remedy}")):
        resolve(write(THREE), ("a", name))


def test_what_is_not_selected_may_be_wrong(write: Write) -> None:
    file = write("name: good\npath: out\n---\nname: bad\npath: out\nrepetitions: many\n")
    assert only(resolve(file, ["good"])).name == "good"
    with pytest.raises(ConfigError, match="repetitions is 'many'"):
        resolve(file)


def test_names_can_be_given_a_prefix(write: Write) -> None:
    assert only(resolve(write("name: a\npath: out"), prefix="0102-030405")).config["name"] == "0102-030405_a"


# -------------------------------------------------------------------------------------------------------------- import


def test_an_import_is_relative_to_its_file_and_the_child_wins(write: Write) -> None:
    write("name: DEFAULT\npath: out\nparams: {a: base, b: base}\n---\nname: parent\nparams: {b: parent, c: parent}\n"
          "import_path: ../top.yml\n", "sub/base.yml")  # fmt: skip
    write("name: DEFAULT\nrepetitions: 7\nparams: {a: top, d: top}\n", "top.yml")
    file = write("name: DEFAULT\nparams: {e: default}\n---\nname: child\nimport_path: sub/base.yml\n"
                 "import_exp: parent\nparams: {c: child}\n")  # fmt: skip
    child = only(resolve(file))
    assert child.config["params"] == {"a": "base", "d": "top", "b": "parent", "c": "child", "e": "default"}
    assert child.config["repetitions"] == 7
    assert child.config["_import_path_archive"] == "sub/base.yml"
    assert child.config["_import_exp_archive"] == "parent"
    assert not {"import_path", "import_exp"} & set(child.config)
    assert child.place("repetitions").endswith("top.yml:2 (document 1, key repetitions)")


def test_a_default_can_import_for_all_its_experiments(write: Write) -> None:
    write("name: default\npath: out\nseed: 3\n", "base.yml")
    a, b = resolve(write("name: DEFAULT\nimport_path: base.yml\n---\nname: a\n---\nname: b\nseed: 4")).experiments
    assert (a.config["seed"], b.config["seed"]) == (3, 4)


def test_two_experiments_import_one_parent(write: Write) -> None:
    """Trap 7: a KeyError in cw2."""
    text = (
        "name: parent\npath: out\nparams: {p: 1}\n---\nname: a\nimport_exp: parent\n---\nname: b\nimport_exp: parent\n"
    )
    parent, a, b = resolve(write(text)).experiments
    assert a.config["params"] == b.config["params"] == parent.config["params"] == {"p": 1}


def test_a_parent_may_have_a_parent_in_the_same_file(write: Write) -> None:
    """Trap 7: taken for a cycle by cw2."""
    text = "name: g\npath: out\nparams: {a: 1, b: 1}\n---\nname: p\nimport_exp: g\nparams: {b: 2}\n---\n"
    _, _, child = resolve(write(text + "name: c\nimport_exp: p\nparams: {c: 3}")).experiments
    assert child.config["params"] == {"a": 1, "b": 2, "c": 3}


def test_a_cycle_is_shown(write: Write) -> None:
    write("name: b\nimport_path: f.yml\nimport_exp: a\n", "b.yml")
    file = write("name: start\nimport_exp: a\n---\nname: a\nimport_path: b.yml\nimport_exp: b\n")
    with pytest.raises(ConfigError) as error:
        resolve(file)
    b = file.with_name("b.yml")
    assert error.value.problem == f"these import each other in a cycle: a ({file}) → b ({b}) → a ({file})"
    assert error.value.where == f"{b}:2 (document 1, key import_path)"


def test_an_experiment_that_imports_itself_is_a_cycle(write: Write) -> None:
    with pytest.raises(ConfigError, match="a cycle: a .* → a "):
        resolve(write("name: a\npath: out\nimport_exp: a\n"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("import_path: no.yml", r"f.yml:3 \(document 1, key import_path\): there is no file .*no.yml to import from"),
        (
            "import_path: base.yml",
            "key import_path.: there is no DEFAULT in .*base.yml to import .the file has: parent",
        ),
        (
            "import_path: base.yml\nimport_exp: paren",
            r"key import_exp\): there is no paren in .*\(did you mean parent\?",
        ),
        ("import_exp: 3", "import_exp is 3, and must be a text"),
        ("import_path: [a]", r"import_path is \['a'\], and must be a text"),
    ],
)
def test_an_import_of_nothing_is_refused(write: Write, keys: str, message: str) -> None:
    write("name: parent\npath: out\n", "base.yml")
    with pytest.raises(ConfigError, match=message):
        resolve(write(f"name: child\npath: out\n{keys}\n"))


def test_a_long_chain_of_imports_ends_with_a_message(write: Write) -> None:
    chain = "".join(f"name: e{i}\npath: out\nimport_exp: e{i + 1}\n---\n" for i in range(1500))
    with pytest.raises(ConfigError, match="its chain of imports is longer than 100"):
        resolve(write(chain + "name: e1500\npath: out\n"), ["e0"])


# ---------------------------------------------------------------------------------------------------------------- keys


def experiment_with(write: Write, lines: str) -> ResolvedExperiment:
    return only(resolve(write(f"name: a\npath: out\n{lines}\n")))


@pytest.mark.parametrize(
    ("line", "problem", "remedy"),
    [
        ("repetitons: 3", "the key repetitons is not known", "did you mean repetitions?"),
        ("reps: 3", "the key reps is not known", "did you mean repetitions?"),
        ("Params: {}", "the key Params is not known", "did you mean params?"),
        ("parameters: {lr: 1}", "the key parameters is not known", "did you mean params?"),
        ("GRID: {lr: [1]}", "the key GRID is not known", "did you mean grid?"),
        ("wandbb: {project: x}", "the key wandbb is not known", "did you mean wandb?"),
        ("repetitions: three", "repetitions is 'three', and must be a whole number of at least 1", "for example"),
        ("repetitions: 0", "repetitions is 0, and must be a whole number of at least 1", "repetitions: 5"),
        ("repetitions: 2.0", "repetitions is 2.0, and must be", ""),
        ("repetitions: true", "repetitions is True, and must be", ""),
        ("repetitions:", "repetitions is None, and must be", ""),
        ("iterations: -1", "iterations is -1, and must be a whole number of at least 1", ""),
        ("seed: -1", "seed is -1, and must be a whole number of at least 0", ""),
        ("params: [1]", "params is [1], and must be a mapping", ""),
        ("params: 1", "params is 1, and must be a mapping", ""),
        ("reps_per_job: 0", "reps_per_job is 0", ""),
        ("gpus_per_rep: 1.5", "gpus_per_rep is 1.5, and must be a share of one", ""),
        ("gpus_per_rep: .nan", "gpus_per_rep is nan", ""),
        ("ablative_baseline: no", "ablative_baseline is 'no', and must be true or false", ""),
        ("extra_keys: a", "extra_keys is 'a', and must be a list of texts", ""),
    ],
)
def test_a_wrong_key_is_refused_with_place_value_and_remedy(write: Write, line: str, problem: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        experiment_with(write, line)
    assert problem in error.value.problem
    assert remedy in error.value.remedy
    assert error.value.where.endswith(f"f.yml:3 (document 1, key {line.split(':')[0]})")


MISSPELT = {
    "repetitons": "repetitions",
    "gird": "grid",
    "girds": "grid",
    "gird2": "grid",
    "lsit": "list",
    "itertions": "iterations",
    "parms": "params",
    "iteration": "iterations",
    "PARAMS": "params",
    "reps-per-job": "reps_per_job",
    "paht": "path",
    "seeds": "seed",
    "ablatvie": "ablative",
    "import_paths": "import_path",
}


@pytest.mark.parametrize("value", ["{lr: [1]}", "{lr: 1}", "[1]", "3", "x"])
@pytest.mark.parametrize("key", MISSPELT)
def test_a_key_that_is_near_to_a_known_one_is_refused_whatever_it_holds(write: Write, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"the key {key} is not known \(did you mean {MISSPELT[key]}\?"):
        experiment_with(write, f"{key}: {value}")


@pytest.mark.parametrize("where", ["default", "experiment", "import", "set"])
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("gird: {lr: [1]}", "the key gird is not known"),
        ("sweep: {opt: {lr: [1, 2]}, bs: [3]}", "the key sweep is not known, and it looks like an expansion"),
        ("params: {grid: {lr: [1, 2]}}", "params.grid looks like an expansion"),
        ("params: {opt: {lsit1: {lr: [1, 2]}}}", "params.opt.lsit1 looks like an expansion"),
    ],
)
def test_a_misspelt_or_misplaced_expansion_is_refused_wherever_it_stands(
    write: Write, where: str, line: str, problem: str
) -> None:
    write(f"name: DEFAULT\n{line}\n", "base.yml")
    key, value = line.split(": ", 1)
    text = {
        "default": f"name: DEFAULT\n{line}\n---\nname: a\npath: out\n",
        "experiment": f"name: a\npath: out\n{line}\n",
        "import": "name: a\npath: out\nimport_path: base.yml\n",
        "set": "name: a\npath: out\n",
    }[where]
    with pytest.raises(ConfigError) as error:
        resolve(write(text), overrides=[f"{key}={value}"] if where == "set" else [])
    assert problem in error.value.problem
    assert "did you mean" in error.value.remedy
    assert {"import": "base.yml:2", "set": "command line"}.get(where, "f.yml:") in error.value.where


OWN = {
    "num_checkpoints: 5": "num_checkpoints",
    "lrs: &lrs [0.1, 0.2]\ngrid: {lr: *lrs}": "lrs",
    "model: {hidden: [64], name: mlp}": "model",
    "render: off": "render",
    "my_logger: {level: 3}": "my_logger",
    "verbosity: 2": "verbosity",
    "seed: auto": "seed",
    "batch: 3": "batch",
    "epochs: 3": "epochs",
}


@pytest.mark.parametrize(("lines", "key"), OWN.items(), ids=OWN.values())
def test_any_other_key_is_kept_and_noted_once(write: Write, lines: str, key: str) -> None:
    resolved = resolve(write(f"name: DEFAULT\npath: out\n{lines}\n---\nname: a\n---\nname: b\n"))
    assert [key in one.config for one in resolved.experiments] == [True, True]
    [note] = resolved.notes
    assert note.startswith(f"{resolved.file}:3 (document 1, key {key}): ")
    run = next(expand(resolved.experiments[0]))
    assert run.config[key] == resolved.experiments[0].config[key]
    assert run.seed == 0


@pytest.mark.parametrize(
    "lines",
    [
        "extra_keys: [sweep, gird, params.grid]\nsweep: {lr: [1]}\ngird: {a: [1]}\nparams: {grid: {x: [1]}}",
        "loggers: [sweep]\nsweep: {lr: [1]}",
        "x-anchors: {lr: [1]}\n_mine: {lr: [1]}",
        "params: {grid: [1, 2], grid_world: {rows: [1]}, list: {}, hidden: {sizes: [1]}}",
        "scheduler: {name: cosine}",
    ],
)
def test_what_is_declared_or_no_expansion_is_accepted_without_a_note(write: Write, lines: str) -> None:
    assert resolve(write(f"name: a\npath: out\n{lines}\n")).notes == ()


def test_values_that_yaml_1_1_reads_differently_are_told_once_for_each_file(write: Write) -> None:
    write("name: DEFAULT\npath: out\nparams: {lr: 1e-3}\n", "base.yml")
    text = "name: a\nimport_path: base.yml\nrender: off\n---\nname: b\nimport_path: base.yml\nparams: {n: 010, s: 'no'}"
    resolved = resolve(write(text + "\n---\nname: SLURM\ntime: 1:30:00\n---\nname: unused\npath: no\n"), ["a", "b"])
    base, own = resolved.differences
    assert "base.yml: 1 value is read differently by YAML 1.1, as in cw2: " in base
    assert base.endswith('line 3: params.lr is 0.001 (YAML 1.1: "1e-3")')
    assert 'line 3: render is "off" (YAML 1.1: false); line 7: params.n is 10 (YAML 1.1: 8)' in own
    assert "time" not in own
    assert "path" not in own


@pytest.mark.parametrize(
    "lines",
    [
        "wandb: {project: x}",
        "my_logger: {level: 3}",
        "_private: 3",
        "x-anchors: [1]",
        "verbosity: 2\nextra_keys: [verbosity]",
        "repetons: {a: 1}\nextra_keys: [repetons]",
        "gpus_per_rep: 0.5\ncpus_per_rep: 2\nscheduler: mp",
        "log_path: out/a/log\nseed: 0\niterations: 1",
    ],
)
def test_keys_of_loggers_and_declared_keys_are_kept(write: Write, lines: str) -> None:
    experiment = experiment_with(write, lines)
    assert {line.split(":")[0] for line in lines.split("\n")} <= set(experiment.config)


def test_an_experiment_needs_a_path(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"f.yml:1 \(document 1\): there is no path for the results"):
        resolve(write("name: a"))


@pytest.mark.parametrize("path", ["", '""', "3", "[a]", '"a\\0b"'])
def test_a_path_must_be_a_text(write: Write, path: str) -> None:
    with pytest.raises(ConfigError, match="path is .*, and must be a text"):
        resolve(write(f"name: a\npath: {path}"))


def test_a_file_without_an_experiment_is_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match="there is no experiment in this config"):
        resolve(write("name: DEFAULT\n---\nname: SLURM\n"))


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    ['".."', '"."', "../up", "/absolute", "a/b", ".hidden", '"a\\0b"', '"a\\nb"', "_debug", "x" * 181, "ü" * 91],
)
def test_a_name_that_could_leave_the_output_folder_is_refused(write: Write, name: str) -> None:
    """Trap 5."""
    with pytest.raises(ConfigError, match=r"f.yml:1 \(document 1, key name\): the name "):
        resolve(write(f"name: {name}\npath: out\n"))


@pytest.mark.parametrize("kind", ["a", "DEFAULT", "SLURM"])
def test_a_name_is_given_once(write: Write, kind: str) -> None:
    """Trap 5: in cw2 the two share their folders, and of two DEFAULTs one is dropped."""
    text = f"name: {kind}\n---\nname: {kind.lower() if kind != 'a' else 'a'}\n---\nname: b\npath: out"
    with pytest.raises(ConfigError, match=r"f.yml:3 \(document 2, key name\): a second .*f.yml:1 \(document 1"):
        resolve(write(text)).checked_cluster()


def test_an_experiment_inside_the_runs_of_another_is_refused(write: Write) -> None:
    text = "name: a\npath: out\ngrid: {lr: [1]}\n---\nname: a__lr1\npath: {}\n"
    assert len(resolve(write(text.replace("{}", "out"))).experiments) == 2
    with pytest.raises(ConfigError, match="runs of 'a' may need the same folder, out/a/a__lr1"):
        resolve(write(text.replace("{}", "./out//a")))


# ------------------------------------------------------------------------------------------------------------- cluster

SECTIONS = "name: e\npath: out\n---\nname: SLURM\npartition: plain\naccount: x\n---\n" + "---\n".join(
    f"name: {name}\npartition: {name}\n" for name in ("SLURM_Horeka", "slurm_a", "SLURM_horeka2", "slurm_uc_2")
)


@pytest.mark.parametrize(
    ("host", "partition"),
    [
        ("laptop", "plain"),  # trap 3: slurm_a fits any host with an a in cw2
        ("banana.kit.edu", "plain"),
        ("a.kit.edu", "slurm_a"),
        ("node-A", "slurm_a"),
        ("a07", "slurm_a"),
        ("login.HoReKa.kit.edu", "SLURM_Horeka"),
        ("myhoreka9", "SLURM_Horeka"),
        ("horeka2n1", "SLURM_horeka2"),
        ("xuc_2", "slurm_uc_2"),
    ],
)
def test_the_section_whose_hint_fits_the_host_best_is_chosen(write: Write, host: str, partition: str) -> None:
    cluster = resolve(write(SECTIONS), host=host).cluster
    assert cluster is not None
    assert cluster["partition"] == partition
    assert cluster["name"] == "SLURM"
    assert ("account" in cluster) == (partition == "plain")


def test_without_a_section_for_this_host_there_is_none(write: Write) -> None:
    assert resolve(write("name: e\npath: out\n"), host="a").cluster is None
    assert resolve(write("name: e\npath: out\n---\nname: SLURM_xyz\n"), host="a").cluster is None


@pytest.mark.parametrize("name", ["my_slurm_x", "slurmy", "slurm"])
def test_an_experiment_may_have_slurm_in_its_name(write: Write, name: str) -> None:
    """Trap 3: my_slurm_x vanishes in cw2, slurmy crashes it."""
    resolved = resolve(write(f"name: {name}\n---\nname: other\npath: out\n---\nname: DEFAULT\npath: out\n"))
    assert [one.name for one in resolved.experiments] == ([name, "other"] if name != "slurm" else ["other"])


def test_an_experiment_that_is_taken_for_a_section_is_told_so(write: Write) -> None:
    with pytest.raises(ConfigError, match="key grid is not known in a SLURM section .a name that begins with SLURM_"):
        resolve(write("name: slurm_test\ngrid: {lr: [1]}\n---\nname: e\npath: out\n"), host="test").checked_cluster()


@pytest.mark.parametrize("name", ["SLURM", "SLURM_elsewhere", "SLURM\n---\nname: SLURM"])
@pytest.mark.parametrize("line", ["partiton: x", "time: soon", "account: ${env:AMLSCHED_ABSENT}", "grid: {a: [1]}"])
def test_what_is_wrong_with_a_section_stops_only_those_who_use_it(write: Write, name: str, line: str) -> None:
    resolved = resolve(write(f"name: e\npath: out\n---\nname: {name}\ngpus_per_rep: 1\n{line}\n"), host="here")
    assert [one.name for one in resolved.experiments] == ["e"]
    if name == "SLURM_elsewhere":
        assert resolved.checked_cluster() is None
        return
    assert resolved.cluster is not None
    with pytest.raises(ConfigError):
        resolved.checked_cluster()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nodes: 1", "amlsched does not read the key nodes of a SLURM section"),
        ("gres: gpu:1", "options of sbatch go below sbatch_args"),
        ('account: ""', "account is '', which means nothing"),
        ("num_parallel_jobs: 0", "num_parallel_jobs is 0, which means no limit"),
        ("ntasks:", ""),
    ],
)
def test_what_cw2_takes_in_a_section_is_taken_with_a_note(write: Write, line: str, said: str) -> None:
    resolved = resolve(write(f"name: e\npath: out\n---\nname: SLURM\npartition: x\n{line}\n"))
    section = resolved.checked_cluster()
    assert section is not None
    assert {"account", "num_parallel_jobs", "ntasks"}.isdisjoint(section)
    assert all(said in note for note in resolved.sections.notes)
    assert len(resolved.sections.notes) == bool(said)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("partiton: x", r"the key partiton is not known in a SLURM section \(did you mean partition\?"),
        ("cpus_per_task: 4", r"did you mean cpus-per-task\\?"),
        ("job_name: x", r"did you mean job-name\\?"),
        ("acount: x", r"did you mean account\\?"),
        ("time: soon", "time is 'soon', and must be a time as Slurm reads it"),
        ("time: 1.5", "time is 1.5"),
        ("time: 0", "time is 0"),
        ("num_parallel_jobs: -1", "num_parallel_jobs is -1"),
        ("cpus-per-task: four", "cpus-per-task is 'four'"),
        ("sh_lines: ls", "sh_lines is 'ls', and must be a list of texts"),
        ("sbatch_args: {gres: [1]}", "sbatch_args is"),
        ("scheduler: fast", "scheduler is 'fast', and must be mp, horeka, kluster or cpu_distribute"),
    ],
)
def test_a_wrong_key_of_a_section_is_refused(write: Write, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"f.yml:4 \(document 2, key [a-z_-]+\): .*{message}"):
        resolve(write(f"name: e\npath: out\n--- {{name: SLURM,\n{line}}}")).checked_cluster()


def test_a_whole_section_of_cw2_is_accepted(write: Write) -> None:
    cluster = resolve(
        write("""
name: SLURM
partition: gpu
job-name: digits
num_parallel_jobs: 10
ntasks: 1
cpus-per-task: 4
time: 1:30:00
account: me
mem-per-cpu: 2000
sbatch_args: {gres: "gpu:1", distribution: block}
sh_lines: [module load cuda]
venv: base
slurm_log: out/log
slurm_output: out/sbatch.sh
path_to_template: t.sh
experiment_copy_src: .
experiment_copy_dst: /tmp/x
experiment_copy_auto_dst: /tmp/x
gpus_per_rep: 0.5
cpus_per_rep: 2
scheduler: horeka
---
name: e
path: out
""")
    ).cluster
    assert cluster is not None
    assert cluster["time"] == "1:30:00"
    assert len(cluster) == 21


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 5400),
        ("90", 5400),
        ("90:30", 5430),
        ("1:30:00", 5400),  # trap 6: 90 hours in cw2
        ("2-0", 172800),
        ("1-12:30", 131400),
        ("1-00:00:01", 86401),
        ("soon", None),
        ("1:2:3:4", None),
        (0, None),
        ("0", None),
        (True, None),
    ],
)
def test_times_are_read_as_slurm_reads_them(value: int | str, seconds: int | None) -> None:
    """Trap 6."""
    assert slurm_seconds(value) == seconds
