"""A project of cw2, of which only the import lines were changed: examples/cw2.

What is expected of runs, names, folders and parameters was printed by cw2 2.5.1.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from amlsched.cw2 import cluster_work, cw_error, experiment, scheduler
from amlsched.cw2.cw_config.cw_config import Config
from amlsched.cw2.cw_data import cw_logging, cw_pd_logger
from amlsched.errors import ExperimentError
from tests.pretended_slurm import PretendedSlurm

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cw2"
SCRIPTS = sorted(EXAMPLE.glob("*.py"))

RUNS = [
    "sweep/sweep__opt.l0.01_opt.m0.0",
    "sweep/sweep__opt.l0.01_opt.m0.9",
    "sweep/sweep__opt.l0.1_opt.m0.0",
    "sweep/sweep__opt.l0.1_opt.m0.9",
    "pairs/pairs__opt.l0.02_d3",
    "pairs/pairs__opt.l0.05_d4",
    "ablation/ablation__opt.m0.5",
    "ablation/ablation__opt.m0.9",
    "ablation/ablation__c1.0",
    "plain",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLE, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "project"


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=90, check=False)


# ------------------------------------------------------------------------------------------------------ the project


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_only_import_lines_differ_from_the_project_as_cw2_has_it(script: Path) -> None:
    changed = [line for line in script.read_text().splitlines() if "amlsched" in line]
    assert changed
    assert [line for line in changed if not re.fullmatch(r"from amlsched\.cw2[\w.]* import .*", line)] == []


def test_the_page_on_migrating_shows_the_whole_difference() -> None:
    page = (ROOT / "docs" / "migrating" / "cw2.md").read_text("utf-8")
    for script in SCRIPTS:
        for line in script.read_text().splitlines():
            if "amlsched" in line:
                assert f"+{line}\n" in page
                assert f"-{line.replace('amlsched.cw2', 'cw2')}\n" in page


def test_it_has_the_runs_names_folders_and_parameters_that_cw2_gives_it(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    configs = Config("config.yml").exp_configs
    places = [str(Path(one["_rep_log_path"]).relative_to(folder)) for one in configs]
    assert places == [f"results/{run}/log/rep_0{index}" for run in RUNS for index in range(2)]
    assert [one["_experiment_name"] for one in configs[::2]] == [Path(run).name for run in RUNS]
    assert configs[16]["params"] == {"dimensions": 5, "condition": 1.0, "optimizer": {"lr": 0.01, "momentum": 0.0}}
    assert configs[12]["params"] == {"dimensions": 5, "condition": 100.0, "optimizer": {"lr": 0.01, "momentum": 0.5}}
    assert configs[8]["params"] == {"dimensions": 3, "condition": 10.0, "optimizer": {"lr": 0.02, "momentum": 0.0}}
    slurm = Config("config.yml", ["plain"]).slurm_config
    assert slurm is not None
    assert slurm["num_parallel_jobs"] == 20


def test_it_runs_and_its_results_are_loaded(folder: Path) -> None:
    done = call(folder, "main.py", "config.yml")
    assert done.returncode == 0, done.stderr
    for run in RUNS:
        for index in range(2):
            place = folder / "results" / run / "log" / f"rep_0{index}"
            assert json.loads((place / "record.json").read_text())["state"] == "completed"
            assert "[cw2] [INFO] starting at" in (place / "out.log").read_text()
            header, *rows = (place / f"rep_{index}.csv").read_text().splitlines()
            assert (header, len(rows)) == ("loss,diverged,ts,rep,iter", 20)
            assert (place / "x.npy").is_file()
    assert "Nothing to run" in call(folder, "main.py", "config.yml").stdout
    loaded = call(folder, "load.py", "config.yml", "-e", "sweep")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines() == [
        "sweep 0 0.01 20 0.153115",
        "sweep 1 0.01 20 0.685509",
        "sweep 0 0.1 20 0.000117",
        "sweep 1 0.1 20 0.000883",
    ]


def test_a_scheduler_and_a_logger_of_its_own(folder: Path) -> None:
    done = call(folder, "once.py", "config.yml", "-e", "sweep")
    assert done.returncode == 0, done.stderr
    found = sorted(
        (folder / "results").rglob("record.json"),
        key=lambda path: json.loads(path.read_text())["attempts"][0]["started"],
    )
    assert [path.parent.name for path in found] == ["rep_01", "rep_00"] * 4
    assert {json.loads(path.read_text())["attempts"][0]["executor"] for path in found} == {"Backwards"}
    [row] = json.loads((found[0].parent / "rows.json").read_text())
    assert list(row) == ["residual"]


def test_one_job_of_it_is_run_by_its_number(folder: Path) -> None:
    assert call(folder, "main.py", "config.yml", "-e", "sweep", "-j", "1").returncode == 0
    found = sorted(str(path.parent.relative_to(folder / "results/sweep")) for path in folder.rglob("record.json"))
    first, second = "sweep__opt.l0.01_opt.m0.9/log/rep_01", "sweep__opt.l0.1_opt.m0.0/log/rep_0"
    assert found == [first, f"{second}0", f"{second}1"]


def test_the_time_can_stand_before_the_names(folder: Path) -> None:
    assert call(folder, "main.py", "config.yml", "-e", "plain", "-t").returncode == 0
    [place] = (folder / "results").iterdir()
    assert re.fullmatch(r"[01]\d[0-3]\d-[0-2]\d[0-5]\d[0-5]\d_plain", place.name)


def test_all_flags_of_cw2_are_understood(folder: Path) -> None:
    flags = ["-j", "0", "-o", "--nocodecopy", "--zip", "--skipsizecheck", "--multicopy", "--noconsolelog", "--debugall"]
    done = call(folder, "main.py", "config.yml", "-e", "plain", *flags)
    assert done.returncode == 0, done.stderr
    assert "[cw2] [INFO] starting" in done.stdout
    assert (folder / "results/_debug/plain/log/rep_00/record.json").is_file()


def test_results_can_start_at_another_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    cw = cluster_work.ClusterWork(Steps)
    cw.run(root_dir="elsewhere", argv=["config.yml", "-e", "plain", "-q"])
    assert (folder / "elsewhere/results/plain/log/rep_00/rep_0.csv").is_file()
    assert list(cw.load("elsewhere", argv=["config.yml", "-e", "plain"])["state"]) == ["surrendered"] * 2


def test_the_names_of_keys_and_the_full_name_of_a_module_work() -> None:
    names = "cw2.cluster_work.ClusterWork.__name__, cw2.cw_config.cw_conf_keys.i_REP_LOG_PATH"
    done = call(ROOT, "-c", f"from amlsched import cw2; print({names})")
    assert done.stdout == "ClusterWork _rep_log_path\n", done.stderr


# ------------------------------------------------------------------------------------------------------ in a program


class Steps(experiment.AbstractIterativeExperiment):
    def initialize(self, cw_config, rep, logger):
        self.params = cw_config["params"]

    def iterate(self, cw_config, rep, n):
        if self.params.get("fails") == rep:
            raise ValueError("this one fails")
        if n == 2:
            raise cw_error.ExperimentSurrender({"value": -1})
        return {"value": n * 10 + rep}

    def save_state(self, cw_config, rep, n):
        pass

    def finalize(self, surrender=None, crash=False):
        print("payload", surrender.payload if surrender else crash)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yml"
    file.write_text("{name: e, path: out, repetitions: 2, iterations: 5, params: {opt: {lr: 0.1}}, grid: {a: [1, 2]}}")
    return file


def test_the_words_of_a_command_line_can_be_given(config: Path) -> None:
    summary = cluster_work.ClusterWork(Steps).run(argv=[str(config), "--executor", "threads", "-q"])
    assert summary is not None
    assert (summary.complete, summary.ran) == (True, 4)


def test_a_class_that_was_defined_in_a_function_runs_in_processes(config: Path) -> None:
    class Local(Steps):
        pass

    summary = cluster_work.ClusterWork(Local).run(argv=[str(config), "--max-workers", "2", "-q"])
    assert summary is not None
    assert summary.complete
    assert "payload {'value': -1}" in (config.parent / "out/e/e__a1/log/rep_00/out.log").read_text()


def test_what_is_wrong_is_raised_where_the_words_were_given(config: Path) -> None:
    with pytest.raises(ExperimentError, match="there is no such job"):
        cluster_work.ClusterWork(Steps).run(argv=[str(config), "-j", "44"])
    with pytest.raises(ExperimentError, match="has no experiment to run"):
        cluster_work.ClusterWork().run(argv=[str(config)])


def test_what_was_logged_is_loaded_with_parameters_and_state(config: Path) -> None:
    cw = cluster_work.ClusterWork(Steps)
    cw.add_logger(cw_pd_logger.PandasLogger(ignore_keys=["ts"]))
    before = cw.load(argv=[str(config)])
    assert list(before["state"]) == ["pending"] * 4
    assert not (config.parent / "out").exists()
    cw.run(argv=[str(config), "--executor", "sequential", "-q"])
    frame = cw.load(argv=[str(config)])
    assert frame.index.names == ["name", "r"]
    assert [*frame.index] == [("e", 0), ("e", 1)] * 2
    assert frame["params"].iloc[2] == {"opt": {"lr": 0.1}, "a": 2}
    assert list(frame["opt_lr"]) == [0.1] * 4
    assert list(frame["a"]) == [1, 1, 2, 2]
    log = frame.cw2.logger(l_cls=cw_pd_logger.PandasLogger).iloc[1]
    assert list(log.columns) == ["value", "rep", "iter"]
    assert list(log["value"]) == [1, 11, -1]
    assert len(frame.cw2.filter({"opt": {"lr": 0.1}, "a": 2})) == 2
    assert len(frame.cw2.repetition(1)) == 2
    assert len(frame.cw2.name("e")) == 4
    rows = frame.cw2.flatten_pd_log()
    assert rows.index.names == ["name", "r", "iter"]
    assert len(rows) == 12
    assert list(rows.sort_index().loc[("e", 1), "value"]) == [1, 1, 11, 11, -1, -1]
    assert set(rows["a"]) == {1, 2}


def test_a_column_can_be_left_out_of_the_file(config: Path) -> None:
    cw = cluster_work.ClusterWork(Steps)
    cw.add_logger(cw_pd_logger.PandasLogger(allow_keys=["value"]))
    cw.run(argv=[str(config), "--executor", "sequential", "-q"])
    assert (config.parent / "out/e/e__a1/log/rep_01/rep_1.csv").read_text() == "value\n1\n11\n-1\n"


def test_rows_can_be_printed(config: Path) -> None:
    cw = cluster_work.ClusterWork(Steps)
    cw.add_logger(cw_logging.Printer(ignore_keys=["ts"]))
    cw.add_logger(cw_logging.PythonLogger())
    cw.run(argv=[str(config), "--executor", "sequential", "-q"])
    assert "{'iter': 0, 'rep': 1, 'value': 1}" in (config.parent / "out/e/e__a1/log/rep_01/out.log").read_text()


def test_messages_land_in_the_files_of_their_repetition(config: Path) -> None:
    class Loud(Steps):
        def initialize(self, cw_config, rep, logger):
            super().initialize(cw_config, rep, logger)
            cw_logging.getLogger().info("fine %s", rep)
            cw_logging.getLogger().error("bad %s", rep)

    cluster_work.ClusterWork(Loud).run(argv=[str(config), "--executor", "threads", "-q"])
    place = config.parent / "out/e/e__a2/log/rep_01"
    assert "[cw2] [INFO] fine 1\n" in (place / "out.log").read_text()
    assert re.search(r"^\[20.*\]:\[cw2\] \[ERROR\] bad 1$", (place / "err.log").read_text(), re.MULTILINE)


# ------------------------------------------------------------------------------------------------------ schedulers


class Noting(scheduler.AbstractScheduler):
    def run(self, overwrite=False):
        self.seen = [(len(job), job.n_parallel, [task["_rep_idx"] for task in job.tasks]) for job in self.joblist]
        self.overwrite = overwrite
        self.outcomes = [job.run_task(task, overwrite) for job in self.joblist for task in job.tasks]


@pytest.mark.parametrize("keyword", ["sch", "s"])
def test_a_scheduler_sees_the_jobs_and_runs_their_tasks(config: Path, keyword: str) -> None:
    config.write_text(
        config.read_text().replace("iterations: 5", "iterations: 5, reps_per_job: 3, reps_in_parallel: 2")
    )
    mine = Noting()
    summary = cluster_work.ClusterWork(Steps).run(argv=[str(config), "-q"], **{keyword: mine})
    assert mine.seen == [(3, 2, [0, 1, 0]), (1, 2, [1])]
    assert [outcome and outcome.state.value for outcome in mine.outcomes] == ["surrendered"] * 4
    assert summary is not None
    assert (summary.complete, summary.ran) == (True, 4)


def test_a_scheduler_leaves_alone_what_is_done_unless_it_overwrites(config: Path) -> None:
    cw = cluster_work.ClusterWork(Steps)
    cw.run(sch=Noting(), argv=[str(config), "-q"])
    again, over = Noting(), Noting()
    cw.run(sch=again, argv=[str(config), "-q"])
    cw.run(sch=over, argv=[str(config), "-q", "-o"])
    assert again.outcomes == [None] * 4
    assert over.overwrite
    assert [outcome is not None for outcome in over.outcomes] == [True] * 4


def test_a_repetition_that_fails_does_not_keep_a_scheduler_from_the_next(config: Path) -> None:
    config.write_text(config.read_text().replace("opt: {lr: 0.1}", "fails: 0"))
    mine = Noting()
    summary = cluster_work.ClusterWork(Steps).run(sch=mine, argv=[str(config), "-q"])
    assert [outcome and outcome.state.value for outcome in mine.outcomes] == [None, "surrendered"] * 2
    assert summary is not None
    assert [(name, reason) for name, _, reason in summary.failed] == [
        ("e__a1 rep 0", "ValueError: this one fails"),
        ("e__a2 rep 0", "ValueError: this one fails"),
    ]


def test_the_scheduler_of_cw2_runs_them_in_threads(config: Path) -> None:
    config.write_text(
        config.read_text().replace("iterations: 5", "iterations: 5, reps_per_job: 4, reps_in_parallel: 2")
    )
    summary = cluster_work.ClusterWork(Steps).run(sch=scheduler.LocalScheduler(), argv=[str(config), "-q"])
    assert summary is not None
    assert summary.complete


def test_a_task_of_another_job_is_refused(config: Path) -> None:
    class Confused(scheduler.AbstractScheduler):
        def run(self, overwrite=False):
            self.joblist[0].run_task(self.joblist[1].tasks[0], overwrite)

    with pytest.raises(ExperimentError, match=r"job 0: the task does not belong to this job"):
        cluster_work.ClusterWork(Steps).run(sch=Confused(), argv=[str(config), "-q"])


def test_a_script_without_a_guard_is_told_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("{name: e, path: out}")
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
        from amlsched.cw2 import cluster_work
        def e(params, rep, log): pass
        cluster_work.ClusterWork(e).run(argv=["config.yml"])
        """)
    )
    done = call(tmp_path, "-m", "amlsched", "run", "script.py:e", "config.yml")
    assert done.returncode == 2
    assert 'if __name__ == "__main__":' in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_class_from_a_notebook_is_not_submitted(config: Path) -> None:
    class Local(Steps):
        pass

    config.write_text("{name: SLURM, partition: main, time: 10}\n---\n" + config.read_text())
    with pytest.raises(ExperimentError, match="a job cannot import it"):
        cluster_work.ClusterWork(Local).run(argv=[str(config), "-s"])


def test_a_script_submits_an_array_that_runs_from_a_copy_of_the_code(folder, tmp_path, monkeypatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    slurm = PretendedSlurm(tmp_path / "bin")
    text = (folder / "config.yml").read_text()
    copied = f"time: 30\nexperiment_copy_src: .\nexperiment_copy_dst: {tmp_path}/copy"
    (folder / "config.yml").write_text(text.replace("time: 30", copied))
    done = call(folder, "once.py", "config.yml", "-s", "-e", "plain", "sweep")
    assert done.returncode == 0, done.stderr
    assert slurm.sizes() == [4]  # a job of two repetitions, and eight of the other experiment in threes
    (folder / "once.py").write_text("raise SystemExit('edited while the jobs wait')")
    assert [slurm.run(*place) for place in slurm.pending()] == [0] * 4
    found = sorted((folder / "results").rglob("record.json"))
    assert len(found) == 10
    assert all((place.parent / "rows.json").is_file() for place in found)
    records = [json.loads(place.read_text()) for place in found]
    assert {(record["state"], record["attempts"][0]["executor"]) for record in records} == {("completed", "Backwards")}
    assert not (tmp_path / "copy" / "results").exists()


class Elsewhere(scheduler.AbstractScheduler):
    """As one that hands its jobs to other processes."""

    def run(self, overwrite=False):
        for job in self.joblist:
            sent = pickle.loads(pickle.dumps(job))
            for task in pickle.loads(pickle.dumps(job.tasks)):
                task["cpu_cores"] = {0}
                sent.run_task(task, overwrite)


def test_a_job_and_its_tasks_can_be_sent_to_other_processes(config: Path) -> None:
    summary = cluster_work.ClusterWork(Steps).run(sch=Elsewhere(), argv=[str(config), "-q"])
    assert summary is not None
    assert (summary.complete, summary.ran) == (True, 4)


def logging_lists(params, rep, log):
    log(values=np.arange(2), texts=["a", None], mixed="007")


def test_timestamps_are_local_and_lists_are_lists(config: Path) -> None:
    """As cw2's pickles have them: a naive time can be compared with them."""
    cw = cluster_work.ClusterWork(logging_lists)
    cw.add_logger(cw_pd_logger.PandasLogger())
    before = datetime.now()  # noqa: DTZ005
    cw.run(argv=[str(config), "--executor", "sequential", "-q"])
    frame = cw.load(argv=[str(config)])
    for log in frame["PandasLogger"]:
        assert before <= log["ts"][0] <= datetime.now()  # noqa: DTZ005
        assert (log["ts"] >= before).all()
        assert [log[name][0] for name in ("values", "texts", "mixed")] == [[0, 1], ["a", None], "007"]
    assert [type(one) for one in frame["values"]] == [list] * 4
