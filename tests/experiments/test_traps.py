"""The traps of cw2, by their numbers: what it loses or gets wrong, and what happens here instead.

The details are tested beside what they belong to; here each trap is stepped on once, as a user would.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from amlsched.cw2 import cluster_work, cw_error, experiment
from amlsched.cw2.cw_data import cw_logging, cw_pd_logger
from amlsched.errors import ConfigError
from amlsched.experiments import Plan
from amlsched.experiments._code.copy import CopyPlan, check_runs_from, copy_code
from amlsched.experiments._config.cluster_section import sections_for
from amlsched.experiments._config.document import parse
from amlsched.experiments.loggers.csv import CsvLogger
from amlsched.resources import Request, devices, slots
from amlsched.units import slurm_seconds
from tests.experiments.conftest import Project, wait_until
from tests.pretended_slurm import PretendedSlurm
from tests.processes import run_python

FAILING = "{name: sums, path: results, repetitions: 3, iterations: 2, params: {fails: 1}}"


class Steps(experiment.AbstractIterativeExperiment):
    def iterate(self, cw_config, rep, n):
        return {"n": n}


def plan(tmp_path: Path, text: str, **options) -> Plan:
    (tmp_path / "config.yml").write_text(text)
    return Plan(tmp_path / "config.yml", **options)


def names(made: Plan) -> list[str]:
    return [run.name for _, run in made.runs()]


def folders(made: Plan) -> list[Path]:
    return [planned.folder for path, run in made.runs() for planned in made.repetitions(run, path)]


# ------------------------------------------------------------------------------------------- 1: what counts as done


def test_trap_1_a_repetition_that_crashed_is_not_done(project: Project) -> None:
    project.config(FAILING)
    assert "Ran 3 in" in project.run().stdout
    assert project.states() == ["completed", "failed", "completed"]
    (project.folder / "mended").touch()
    assert "Ran 1 in" in project.run("--rerun", "failed").stdout
    assert project.states() == ["completed"] * 3
    assert "Ran 3 in" in project.run("-o").stdout


def test_trap_1_loading_makes_no_files_and_a_folder_with_files_is_not_done(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yml").write_text("{name: e, path: out, iterations: 2}")
    cw = cluster_work.ClusterWork(Steps)
    cw.add_logger(cw_pd_logger.PandasLogger())
    assert list(cw.load(argv=["config.yml"])["state"]) == ["pending"]
    assert not Path("out").exists()
    Path("out/e/log/rep_00").mkdir(parents=True)
    Path("out/e/log/rep_00/leftover.txt").touch()
    summary = cw.run(argv=["config.yml", "-q", "--executor", "sequential"])
    assert summary is not None
    assert (summary.ran, summary.complete) == (1, True)


# ------------------------------------------------------------------------------------------------- 2: the exit code


def test_trap_2_a_crash_gives_an_exit_code_and_a_summary(project: Project) -> None:
    project.config(FAILING)
    done = project.run()
    assert done.returncode == 1
    assert "failed: sums rep 1: ValueError: this one fails" in done.stderr
    assert "3 repetitions: 2 completed, 1 failed." in done.stdout


def test_trap_2_so_does_a_script(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("{name: e, path: out}")
    script = "from amlsched.cw2.cluster_work import ClusterWork\ndef e(params, rep, log): raise ValueError('no')\n"
    (tmp_path / "main.py").write_text(script + 'if __name__ == "__main__":\n    ClusterWork(e).run()\n')
    done = run_python("main.py", "config.yml", folder=tmp_path)
    assert done.returncode == 1
    assert "failed: e rep 0: ValueError: no" in done.stderr


# ---------------------------------------------------------------------------------------------- 3: names with slurm


def test_trap_3_only_slurm_and_what_follows_an_underscore_are_sections(tmp_path: Path) -> None:
    text = "\n---\n".join(f"{{name: {name}, path: out}}" for name in ("my_slurm_x", "slurmy", "xslurm_"))
    assert names(plan(tmp_path, text)) == ["my_slurm_x", "slurmy", "xslurm_"]


def test_trap_3_a_short_hint_has_to_be_a_whole_part_of_the_host_s_name() -> None:
    sections = parse("{name: SLURM, partition: plain}\n---\n{name: slurm_a, partition: special}", "x.yml")
    chosen = [sections_for(sections, host).cluster for host in ("laptop", "node-a", "a01")]
    assert [section and section["partition"] for section in chosen] == ["plain", "special", "special"]


# ----------------------------------------------------------------------------------------------- 4: what an axis says


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("grid: {a: 1}", "grid.a"),
        ("grid: {a: []}", "grid.a"),
        ("list: 3", "list"),
        ("list: {a: [1, 2], b: [3]}", "list"),
        ("gridsize: 3", "gridsize"),
        ("listen_port: 80", "listen_port"),
    ],
)
def test_trap_4_what_would_make_runs_vanish_is_an_error_that_says_where(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(tmp_path, f"name: e\npath: out\n{text}").count()
    assert re.search(rf"config\.yml:3 \(document 1, key {re.escape(key)}\): .+ \(.+\)$", str(caught.value))


def test_trap_4_whole_numbers_as_keys_and_empty_defaults_work(tmp_path: Path) -> None:
    text = "name: DEFAULT\nparams:\n---\nname: e\npath: out\nparams: {1: {x: 0}}\ngrid: {1: {x: [5, 6]}}"
    assert [run.params for _, run in plan(tmp_path, text).runs()] == [{1: {"x": 5}}, {1: {"x": 6}}]


# -------------------------------------------------------------------------------------------- 5: a folder for each run


@pytest.mark.parametrize(
    "grid",
    [
        "{beta: [1], batch: [1, 2], b: [1]}",
        "{a: ['a b', ab, \"a'b\"]}",
        "{a: [x/y, ../../x, .., '/etc', \"\\0\"]}",
        "{a: [1, 1.0, true, '1', '1.0']}",
    ],
)
def test_trap_5_every_run_has_a_folder_of_its_own_in_the_output_folder(tmp_path: Path, grid: str) -> None:
    made = plan(tmp_path, f"name: e\npath: {tmp_path}/out\ngrid: {grid}")
    places = folders(made)
    assert len(set(places)) == len(places) == made.count()[1]
    assert {Path(os.path.normpath(place)).relative_to(tmp_path / "out").parts[0] for place in places} == {"e"}
    assert {len(place.relative_to(tmp_path / "out").parts) for place in places} == {4}


def test_trap_5_a_run_keeps_its_folder_when_values_are_added(tmp_path: Path) -> None:
    before = names(plan(tmp_path, "name: e\npath: out\ngrid: {a: ['a b', ab]}"))
    after = names(plan(tmp_path, "name: e\npath: out\ngrid: {a: ['a b', ab, \"'ab'\", c]}"))
    assert after[:2] == before


@pytest.mark.parametrize("text", ["{name: e, path: o}\n---\n{name: e, path: o}", "{name: ../e, path: o}"])
def test_trap_5_names_that_would_share_or_leave_a_folder_are_errors(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.yml"):
        plan(tmp_path, text)


# -------------------------------------------------------------------------------------------------- 6: YAML 1.1


def test_trap_6_numbers_words_and_times_are_what_they_look_like(tmp_path: Path) -> None:
    text = "name: SLURM\ntime: 1:30:00\n---\nname: e\npath: out\nparams: {lr: 1e-3, answer: no, on: off, clock: 1:30}"
    made = plan(tmp_path, text)
    [(_, run)] = made.runs()
    assert run.params == {"lr": 0.001, "answer": "no", "on": "off", "clock": "1:30"}
    assert made.resolved.cluster is not None
    assert slurm_seconds(made.resolved.cluster["time"]) == 5400
    assert slurm_seconds(90) == 5400


# -------------------------------------------------------------------------------------------------- 7: imports


def test_trap_7_two_children_share_a_parent_that_has_a_parent(tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text(
        "{name: root, params: {a: 1, b: 1}}\n---\n{name: mid, import_exp: root, params: {b: 2}}"
    )
    child = "{name: %s, path: out, import_path: base.yml, import_exp: mid, params: {c: %d}}"
    made = plan(tmp_path, f"{child % ('one', 1)}\n---\n{child % ('two', 2)}")
    assert [run.params for _, run in made.runs()] == [{"a": 1, "b": 2, "c": 1}, {"a": 1, "b": 2, "c": 2}]


def test_trap_7_a_cycle_is_shown(tmp_path: Path) -> None:
    text = "{name: a, path: o, import_exp: b}\n---\n{name: b, path: o, import_exp: a}"
    with pytest.raises(ConfigError, match=r"(?s)a.*b.*a"):
        plan(tmp_path, text)


# -------------------------------------------------------------------------------------------------- 8: debug


def test_trap_8_a_debug_run_does_not_keep_the_real_one_from_running(project: Project) -> None:
    assert "Ran 1 in" in project.run("--debug").stdout
    assert "Ran 4 in" in project.run().stdout
    assert sorted(path.split("/")[0] for path in project.records()) == ["_debug"] + ["sums"] * 4


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretendedSlurm:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return PretendedSlurm(tmp_path / "bin")


ON_SLURM = (
    "name: SLURM\npartition: main\ntime: 10\n---\n" + "name: sums\npath: results\nrepetitions: 2\niterations: 3\n"
)


def test_trap_8_debug_reaches_the_array(project: Project, slurm: PretendedSlurm) -> None:
    project.config(ON_SLURM + "grid: {a: [1, 2]}")
    done = project.call("run", "experiment.py:Sums", "config.yml", "-s", "--debug")
    assert done.returncode == 0, done.stderr
    assert slurm.sizes() == [1]
    assert [slurm.run(*place) for place in slurm.pending()] == [0]
    [(place, record)] = project.records().items()
    assert (place, record["attempts"][0]["rows"]) == ("_debug/sums/sums__a1/log/rep_00", 1)


# -------------------------------------------------------------------------------------------------- 9: the code copy


def test_trap_9_the_copy_can_be_repeated_has_no_git_and_is_not_used_when_not_wanted(tmp_path: Path) -> None:
    source = tmp_path / "code"
    (source / ".git").mkdir(parents=True)
    (source / ".git" / "config").touch()
    (source / "train.py").write_text("1")
    copy_code(source, tmp_path / "copy")
    (source / "train.py").write_text("2")
    copy = copy_code(source, tmp_path / "copy", replace=True)
    assert copy.files == ("train.py",)
    section = {"experiment_copy_src": str(source), "experiment_copy_dst": str(tmp_path / "copy")}
    unwanted = CopyPlan.of(section, tmp_path / "out", nocodecopy=True)
    assert (unwanted.mode, unwanted.make()) == ("none", [])
    assert check_runs_from(sys.modules[__name__], {}) is None
    automatic = CopyPlan.of({"experiment_copy_src": ".", "experiment_copy_auto_dst": "all"}, tmp_path).destination
    assert re.fullmatch(r"20\d{6}-[0-2]\d[0-5]\d[0-5]\d", automatic.name)


# -------------------------------------------------------------------------------------------------- 10: arrays


def test_trap_10_elements_write_no_configs_ids_are_kept_and_large_arrays_are_split(
    project, slurm: PretendedSlurm
) -> None:
    slurm.set(largest=2)
    project.config(ON_SLURM + "grid: {a: [1, 2]}")
    done = project.call("run", "experiment.py:Sums", "config.yml", "-s")
    assert "Submitted arrays 1, 2 to Slurm: 4 elements" in done.stdout, done.stderr
    configs = {path: path.stat().st_mtime_ns for path in (project.folder / "results").rglob("*.yml")}
    assert configs
    assert [slurm.run(*place) for place in slurm.pending()] == [0] * 4
    assert {path: path.stat().st_mtime_ns for path in (project.folder / "results").rglob("*.yml")} == configs
    assert project.completions() == [1] * 4
    assert "4 repetitions: 4 completed" in project.call("status", "results").stdout


# -------------------------------------------------------------------------------------------------- 11: GPUs


def test_trap_11_shares_and_inherited_names_of_devices() -> None:
    there = devices({"CUDA_VISIBLE_DEVICES": "GPU-8932f937,MIG-5c89852c,3"})
    made = slots(Request(0.5), there, range(6))
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in made] == [*there, *there]


def test_trap_11_a_killed_repetition_gives_its_device_to_the_next(project: Project, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-only")
    project.config("{name: sums, path: results, repetitions: 3, iterations: 1, gpus_per_rep: 1, params: {dies: 0}}")
    assert project.call("run", "experiment.py:Sums", "config.yml").returncode == 1
    assert project.states() == ["failed", "completed", "completed"]


# -------------------------------------------------------------------------------------------------- 12: the CSV


def test_trap_12_a_row_is_appended_and_what_was_logged_stays(tmp_path: Path) -> None:
    log = CsvLogger()
    log.initialize({}, 0, str(tmp_path))
    log.process({"a": 0})
    file = tmp_path / "rep_0.csv"
    before, inode = file.read_bytes(), file.stat().st_ino
    for n in range(1, 50):
        log.process({"a": n})
        after = file.read_bytes()  # without a flush or an end
        assert after == before + f"{n}\n".encode()
        before = after
    assert file.stat().st_ino == inode
    log.finalize()


# -------------------------------------------------------------------------------------------------- 13: except:


class Clumsy(Steps):
    def finalize(self, surrender=None, crash=False):
        raise RuntimeError("in finalize")


class Noting(cw_logging.AbstractLogger):
    def initialize(self, config, rep, rep_log_path):
        self.folder = Path(rep_log_path)

    def finalize(self):
        (self.folder / "closed").touch()


def test_trap_13_an_exception_in_finalize_does_not_skip_the_loggers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yml").write_text("{name: e, path: out, iterations: 1}")
    cw = cluster_work.ClusterWork(Clumsy)
    cw.add_logger(Noting())
    summary = cw.run(argv=["config.yml", "-q", "--executor", "sequential"])
    assert summary is not None
    assert [reason for _, _, reason in summary.failed] == ["RuntimeError: in finalize"]
    assert Path("out/e/log/rep_00/closed").exists()


def test_trap_13_ctrl_c_ends_a_script(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("{name: e, path: out, repetitions: 3}")
    (tmp_path / "main.py").write_text(
        "import time\nfrom pathlib import Path\nfrom amlsched.cw2.cluster_work import ClusterWork\n"
        "def e(params, rep, log):\n    Path('started').touch()\n    time.sleep(60)\n"
        "if __name__ == '__main__':\n    ClusterWork(e).run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "main.py", "config.yml"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_until((tmp_path / "started").exists)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=40)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Interrupted" in err
    states = [json.loads(path.read_text())["state"] for path in tmp_path.rglob("record.json")]
    assert set(states) == {"cancelled"}


# -------------------------------------------------------------------------------------------- 14: the constructor


def test_trap_14_the_command_line_is_not_read_by_the_constructor(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest", "--nonsense", "-x"])
    Path("config.yml").write_text("{name: e, path: out, iterations: 2}")
    cw = cluster_work.ClusterWork(Steps)
    summary = cw.run(argv=["config.yml", "-q", "--executor", "sequential"])
    assert summary is not None
    assert summary.complete
    with pytest.raises(cw_error.ConfigKeyError):
        cw.run(argv=["missing.yml"])


def test_there_is_a_test_for_each_trap() -> None:
    found = {int(number) for name in globals() for number in re.findall(r"^test_trap_(\d+)_", name)}
    assert found == set(range(1, 15))
