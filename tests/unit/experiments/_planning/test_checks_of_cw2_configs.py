"""Shapes of configs that were written for cw2, with inputs of our own: accepted, maybe with a note, or refused for a
reason that the page on migrating lists.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from amlsched.experiments._config.expand import expand
from amlsched.experiments._config.resolve import resolve
from amlsched.experiments._planning.checks import check

pytestmark = pytest.mark.usefixtures("folder")

PAGE = Path(__file__).parents[4] / "docs" / "migrating" / "cw2.md"
E = "name: e\npath: out\n"
SLURM = "name: SLURM\npartition: dev\njob-name: j\nnum_parallel_jobs: 120\nntasks: 1\ncpus-per-task: 1\ntime: 30\n"

#: Name, text, what a note says ("" for none), names of the runs.
ACCEPTED: list[tuple[str, str, str, list[str]]] = [
    ("a number of the user's own", E + "num_checkpoints: 5\n", "does not read the key num_checkpoints", ["e"]),
    ("a switch of the user's own", "name: DEFAULT\npath: out\ngui: false\n---\nname: e\n", "the key gui", ["e"]),
    ("a text as seed", E + "seed: auto\n", "seed is 'auto'", ["e"]),
    ("anchors in a key of their own", E + "shared: &s {x: 1}\nparams: {<<: *s, y: 2}\n", "the key shared", ["e"]),
    ("anchors in a key with _", E + "_shared: &s {x: 1}\nparams: {<<: *s, y: 2}\n", "", ["e"]),
    ("a mapping of the user's own", E + "checkpoint: {every: 5, keep: [1, 2]}\n", "the key checkpoint", ["e"]),
    ("a list of the user's own", E + "datasets: [a, b]\n", "the key datasets", ["e"]),
    ("a long text of the user's own", E + "description: |\n  two\n  lines\n", "the key description", ["e"]),
    ("wandb", E + "enable_wandb: true\nwandb: {project: p, log_interval: 5}\n", "the key enable_wandb", ["e"]),
    ("an empty account", SLURM + "account: ''\n---\n" + E, "account is '', which means nothing", ["e"]),
    ("no bound", SLURM.replace("120", "0") + "---\n" + E, "num_parallel_jobs is 0, which means no limit", ["e"]),
    ("nodes", SLURM + "nodes: 1\n---\n" + E, "the key nodes of a SLURM section", ["e"]),
    ("counts in quotes", SLURM.replace("ntasks: 1", "ntasks: '1'") + "---\n" + E, "", ["e"]),
    (
        "keys of earlier versions",
        SLURM + "project_name: ''\nexperiment_code_copy: /x\nmem: 1000\n---\n" + E,
        "the key project_name of a SLURM section",
        ["e"],
    ),
    (
        "folders of another machine",
        SLURM + "venv: /home/u/venv/bin/activate\npath_to_template: /home/u/t.sh\nslurm_log: /home/u/log\n---\n" + E,
        "venv is '/home/u/venv/bin/activate', but there is no file",
        ["e"],
    ),
    (
        "GPUs",
        SLURM + "gpus_per_rep: 0.5\nscheduler: horeka\nsbatch_args: {gres: 'gpu:4'}\nmem-per-cpu: '1000'\n---\n" + E,
        "",
        ["e"],
    ),
    ("times", SLURM.replace("time: 30", "time: 2-00:00:00") + "---\n" + E, "", ["e"]),
    ("hours", SLURM.replace("time: 30", "time: 48:00:00") + "---\n" + E, "", ["e"]),
    ("an empty sbatch_args", SLURM + "sbatch_args:\nsh_lines:\n---\n" + E, "", ["e"]),
    ("a section at the end, empty documents", f"---\n---\n{E}---\n{SLURM}---\n", "", ["e"]),
    ("DEFAULT in other letters", "name: Default\npath: out\n---\nname: e\n", "", ["e"]),
    ("empty params", E + "params:\ngrid: {a: [1, 2]}\n", "", ["e__a1", "e__a2"]),
    ("nulls", E + "params: {c_sigma: ~, c_1: null}\n", "", ["e"]),
    ("an empty grid", E + "grid: {}\n", "", ["e__"]),
    ("a grid that is taken back", f"name: DEFAULT\ngrid: {{a: [1]}}\n---\n{E}grid:\n", "", ["e"]),
    ("all CPUs", E + "reps_in_parallel: -1\nreps_per_job: 4\n", "", ["e"]),
    ("nested lists", E + "list: {b: [1, 2], o: {n_s: [6, 8]}}\n", "", ["e__b1_o.ns6", "e__b2_o.ns8"]),
    ("several lists", E + "list1: {a: [1]}\nlist--2: {b: [2]}\n", "", ["e__a1_b2"]),
    ("lists as values", E + "grid: {l: [[1, 2], [3]], o: [{n: 1}, null]}\n", "", [
        "e__l_1_2_o{n:1}", "e__l_1_2_oNone", "e__l_3_o{n:1}", "e__l_3_oNone"]),
    ("tuples", E + "params: {s: !!python/tuple [1, 2], f: !!python/float 3}\n", "", ["e"]),
    ("words of YAML 1.1", E + "params: {render: off, n: 010, lr: 1e-3}\n", 'render is "off" (YAML 1.1: false)', ["e"]),
    ("numbers with _", E + "params: {steps: 1_000_000}\n", "", ["e"]),
    ("params of any name", E + "params: {list: [1, 2], grid: {size: 3}, name: x}\n", "", ["e"]),
    ("a path with a slash", "name: e\npath: out/sub/\n", "", ["e"]),
]  # fmt: skip

#: Name, text, what the error says, what the page on migrating says of it.
REFUSED: list[tuple[str, str, str, str]] = [
    ("near to a known key", E + "repetition: 5\n", "did you mean repetitions", "one that is similar to a known key"),
    ("a misspelt expansion", E + "gird: {a: [1]}\n", "did you mean grid", "one that is similar to a known key"),
    ("a mapping of lists", E + "sweep: {a: [1, 2]}\n", "looks like an expansion", "a mapping of lists"),
    ("a grid below params", E + "params: {grid: {a: [1]}}\n", "did you mean a top-level grid", "a mapping of lists"),
    ("a key that begins with list", E + "list_of_envs: [a]\n", "not a mapping of names to lists", "that begins with"),
    ("two expansions", E + "grid: {a: [1]}\nlist: {a: [2]}\n", "is set by grid and by list", "two expansions set"),
    ("a value twice", E + "grid: {a: [1, 1]}\n", "as value 1 and as value 2", "a value that appears twice"),
    ("scalars", E + "grid: {a: 1}\n", "write a list: a: [1]", "scalars in a `grid`"),
    ("an empty list", E + "grid: {a: []}\n", "the list is empty", "empty lists"),
    ("unequal lists", E + "list: {a: [1], b: [1, 2]}\n", "a has 1, b has 2", "`list` of unequal lengths"),
    ("below a scalar", E + "params: {o: x}\ngrid: {o: {n: [1]}}\n", "no key can be set below it", "below a parameter"),
    ("one name", f"{E}grid: {{a: [1]}}\n---\n{E}grid: {{a: [2]}}\n", "a second experiment 'e'", "two documents with"),
    ("two DEFAULT", f"name: DEFAULT\n---\nname: default\n---\n{E}", "a second DEFAULT", "several `DEFAULT`"),
    ("a key twice", E + "params: {a: 1, a: 2}\n", "is given twice, first on line 3", "a key that appears twice"),
    ("no repetitions", E + "repetitions: 0\n", "at least 1", "zero repetitions"),
    ("no bundle", E + "reps_per_job: -1\n", "at least 1", "zero repetitions"),
    ("an object", E + "params: {a: !!python/object:os.x {}}\n", "may only contain data", "those of plain values are"),
]  # fmt: skip


def checked(text: str) -> Any:
    Path("c.yml").write_text(text)
    return check("c.yml")


@pytest.mark.parametrize(("text", "note", "names"), [row[1:] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED])
def test_a_shape_is_accepted_with_its_note(text: str, note: str, names: list[str]) -> None:
    found = checked(text)
    assert found.faults == []
    assert [run.name for one in found.experiments for run in expand(one)] == names
    assert bool(found.notes) == bool(note)
    assert note in "\n".join(found.notes)


def test_the_notes_that_the_page_lists_are_those_that_are_printed() -> None:
    table = PAGE.read_text("utf-8").partition("the note |")[2].partition("\n##")[0]
    listed = [
        note for row in table.splitlines()[2:] for note in re.findall("`([^`]* [^`]*)`", row.rpartition(" | ")[2])
    ]
    printed = "\n".join(note for row in ACCEPTED for note in checked(row[1]).notes)
    assert len(listed) == 7
    assert [note for note in listed if note not in printed] == []


@pytest.mark.parametrize(("text", "error", "listed"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_shape_is_refused_for_a_reason_that_the_page_lists(text: str, error: str, listed: str) -> None:
    [fault] = checked(text).faults
    assert error in str(fault)
    assert re.match(r"c\.yml:\d+", str(fault))
    table = PAGE.read_text("utf-8").partition("## What differs on purpose")[2]
    assert listed in table


@pytest.mark.parametrize("line", ["time: soon", "ntasks: many", "sh_lines: module load x", "venv: ''"])
@pytest.mark.parametrize("name", ["SLURM", "SLURM_elsewhere"])
def test_a_section_never_stops_a_run_on_this_machine(name: str, line: str) -> None:
    text = SLURM.replace("time: 30\n", "").replace("ntasks: 1\n", "") + line
    Path("c.yml").write_text(f"{text.replace('SLURM', name)}\n---\n{E}")
    assert [one.name for one in resolve("c.yml", host="node1").experiments] == ["e"]
