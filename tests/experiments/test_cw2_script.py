"""What scripts of cw2 do with a `ClusterWork` and its config before it runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from amlsched.cli import run as command
from amlsched.cw2 import cluster_work, experiment
from amlsched.cw2.cw_config.cw_config import Config
from amlsched.cw2.cw_data import cw_logging, cw_pd_logger
from amlsched.errors import ConfigError, ExperimentError
from amlsched.experiments import Plan
from amlsched.experiments._running.summary import Summary
from tests.pretended_slurm import PretendedSlurm


class Told(experiment.AbstractExperiment):
    def initialize(self, cw_config, rep, logger):
        pass

    def run(self, cw_config, rep, logger):
        logger.process({"told": cw_config["params"].get("tag", "-"), "seed": cw_config["seed"], "rep": rep})

    def finalize(self, surrender=None, crash=False):
        pass


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    text = "{name: e, path: out, repetitions: 2, num_checkpoints: 5, params: {tag: file}, grid: {a: [1, 2]}}"
    (tmp_path / "c.yml").write_text(f"{text}\n---\n{{name: other, path: out}}\n")
    return tmp_path / "c.yml"


def work(*more: str) -> cluster_work.ClusterWork:
    return cluster_work.ClusterWork(Told, argv=["c.yml", "-q", "--executor", "sequential", *more])


def told(folder: Path) -> dict[str, str]:
    """What each repetition logged, by its folder."""
    found = {str(p.parent.relative_to(folder)): p.read_text().splitlines()[1] for p in folder.rglob("rep_*.csv")}
    return {place.replace("/log/", " "): row.split(",")[0] for place, row in sorted(found.items())}


# ------------------------------------------------------------------------------------------------- the command line


def test_args_have_the_names_and_values_of_cw2(config: Path) -> None:
    args = work("-e", "e", "-j", "1", "--debugall", "--noconsolelog").args
    assert {key: args[key] for key in ("config", "experiments", "job", "slurm", "overwrite", "zip", "multicopy")} == {
        "config": "c.yml", "experiments": ["e"], "job": 1, "slurm": False, "overwrite": False, "zip": False,
        "multicopy": False,
    }  # fmt: skip
    assert (args["debug"], args["debugall"], args["noconsolelog"]) == (False, True, True)
    assert (args["nocodecopy"], args["skipsizecheck"]) == (False, False)
    assert work().args["experiments"] is None


def test_what_a_script_changes_in_args_holds(config: Path) -> None:
    cw = work()
    cw.args["experiments"], cw.args["job"], cw.args["noconsolelog"], cw.args["debug"] = ["e"], 1, True, True
    assert [one["_experiment_name"] for one in cw.config.exp_configs or ()] == ["e__a1"]
    with pytest.raises(ExperimentError, match="there are jobs 0 to 0"):
        cw.run()
    cw.args["job"] = 0
    assert cw.run() is not None
    assert [*told(config.parent / "out")] == ["_debug/e/e__a1 rep_00"]


def test_nothing_is_read_before_it_is_asked_for(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", "no.yml", "-e", "e"])
    cw = cluster_work.ClusterWork(Told)
    assert cw.args["config"] == "no.yml"
    cw.args["config"] = "c.yml"
    assert len(cw.config.exp_configs or ()) == 4


@pytest.mark.parametrize("words", [["no.yml"], ["c.yml", "-e", "nothing"], ["c.yml", "--nonsense"]])
def test_a_wrong_command_line_ends_a_script_with_a_message(config, words, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    with pytest.raises(SystemExit, match="2"):
        _ = cluster_work.ClusterWork(Told).config
    assert re.search("no such file|did you mean|there is no experiment|there is no option", capsys.readouterr().err)


# ------------------------------------------------------------------------------------------------------- the config


def test_a_config_has_what_public_projects_use(config: Path) -> None:
    cw = work("-e", "e")
    assert (cw.config.f_name, cw.config.config_path, cw.config.exp_selections) == ("c.yml", "c.yml", ["e"])
    assert cw.config is cw.config
    configs = cw.config.exp_configs
    assert configs is not None
    assert [(one["_experiment_name"], one["_rep_idx"]) for one in configs] == [
        ("e__a1", 0), ("e__a1", 1), ("e__a2", 0), ("e__a2", 1)
    ]  # fmt: skip
    assert configs[0]["num_checkpoints"] == 5
    assert Config("c.yml", "other").exp_configs is not None
    empty = Config()
    assert (empty.exp_configs, empty.f_name, empty.slurm_config, empty.config_path) == (None, None, None, None)
    with pytest.raises(ExperimentError, match="no config was loaded"):
        empty.to_yaml()
    empty.load_config("c.yml", ["e"])
    assert empty.exp_configs == configs


def test_what_a_script_changes_is_what_repetitions_get(config: Path) -> None:
    cw = work("-e", "e")
    for one in cw.config.exp_configs or ():
        one["seed"] = one["_rep_idx"] + 10
        if one["params"]["a"] == 2:
            one["params"] = {"tag": np.str_(f"own {one['_rep_idx']}"), "a": 7}
    assert cw.run() is not None
    assert told(config.parent / "out") == {
        "e/e__a1 rep_00": "file", "e/e__a1 rep_01": "file", "e/e__a2 rep_00": "own 0", "e/e__a2 rep_01": "own 1"
    }  # fmt: skip
    record = json.loads((config.parent / "out/e/e__a2/log/rep_01/record.json").read_text())
    assert (record["params"], record["config"]["seed"]) == ({"tag": "own 1", "a": 7}, 11)
    frame = cw.load()
    assert list(frame["params"].iloc[3].items()) == [("tag", "own 1"), ("a", 7)]
    assert list(frame["state"]) == ["completed"] * 4
    again = cw.run()  # with the same changes it is done, and the folder tells the same
    assert again is not None
    assert again.ran == 0
    plan = Plan("out/e/config.yml")
    left = [one for path, run in plan.runs() for one in plan.repetitions(run, path) if one.todo or one.changed]
    assert left == []
    with pytest.raises(ExperimentError, match=r'params.tag: "own 0" → "file"'):
        work("-e", "e").run()


def test_jobs_stay_the_same_and_a_scheduler_sees_the_changes(config: Path) -> None:
    cw = work("-e", "e", "-j", "0")
    for one in cw.config.exp_configs or ():
        one["params"]["tag"] = "mine"
        one["reps_per_job"] = 3
    cw.run()
    assert [*told(config.parent / "out")] == ["e/e__a1 rep_00", "e/e__a1 rep_01", "e/e__a2 rep_00"]
    assert set(told(config.parent / "out").values()) == {"mine"}


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("_rep_log_path", "elsewhere", r"exp_configs\[1\]: the key _rep_log_path was changed"),
        ("_seed", 1, r"exp_configs\[1\]: the key _seed was changed"),
        ("iterations", "many", r"exp_configs\[1\], key iterations: iterations is 'many', and must be"),
        (
            "params",
            {"model": Told()},
            r"exp_configs\[1\], key params.model: a config cannot hold a value of the type Told",
        ),
    ],
)
def test_what_cannot_be_changed_is_an_error_before_anything_runs(config, key, value, problem) -> None:
    cw = work("-e", "e")
    assert cw.config.exp_configs is not None
    cw.config.exp_configs[1][key] = value
    with pytest.raises((ConfigError, ExperimentError), match=re.sub(r"(exp_configs.*?), key", r"\1.*key", problem)):
        cw.run()
    assert not (config.parent / "out").exists()


def test_a_config_that_is_gone_or_of_another_command_line_is_an_error(config: Path) -> None:
    cw = work("-e", "e")
    assert cw.config.exp_configs is not None
    cw.config.exp_configs[0]["params"]["tag"] = "mine"
    with pytest.raises(ExperimentError, match="give argv to the constructor"):
        cw.run(argv=["c.yml", "-q"])
    del cw.config.exp_configs[0]
    with pytest.raises(ExperimentError, match="it had 4 configs when it was loaded, and now has 3"):
        cw.run()


def test_the_time_before_a_name_is_the_same_in_the_config_and_in_the_run(config: Path, monkeypatch) -> None:
    cw = work("-t", "-e", "other")
    [one] = cw.config.exp_configs or ()
    one["params"]["tag"] = "mine"
    monkeypatch.setattr(command, "datetime", None)  # the time is not asked for again
    cw.run()
    assert told(config.parent / "out") == {f"{one['name']} rep_00": "mine"}


@pytest.mark.parametrize("relative", [True, False])
def test_a_config_is_written_as_cw2_does_and_gives_the_same_when_it_is_loaded(config, relative) -> None:
    cw = work("-e", "e")
    for one in cw.config.exp_configs or ():
        one["params"]["tag"] = f"own {one['_rep_idx']}"
    cw.config.to_yaml("copies", relpath=relative)
    files = [config.parent / "copies" / name for name in ("relative_c_e.yml", "e/relative_c_e.yml")]
    for file in files:
        configs = Config(file).exp_configs or []
        assert [one["params"]["tag"] for one in configs] == ["own 0", "own 1"] * 2
        assert [one["_rep_log_path"] for one in configs] == [
            one["_rep_log_path"] for one in cw.config.exp_configs or ()
        ]


def test_a_config_is_written_beside_the_results(config: Path) -> None:
    config.write_text(config.read_text() + "---\n{name: SLURM, partition: main, time: 10}")
    Config("c.yml").to_yaml()
    assert Config("out/relative_c.yml").slurm_config == Config("c.yml").slurm_config
    assert (config.parent / "out/other/relative_c_other.yml").is_file()
    named = Config(config.rename(config.parent / "d.yaml"))
    named.to_yaml("copies")
    assert (config.parent / f"copies/relative_{named.f_name}").is_file()


def test_two_documents_of_one_repetition_are_an_error(config: Path) -> None:
    document = "---\n{name: e, path: out, _experiment_name: e, repetitions: 2, _rep_idx: %d, params: {a: %d}}\n"
    config.write_text(document % (0, 1) + document % (1, 2))
    assert [one["params"] for one in Config("c.yml").exp_configs or ()] == [{"a": 1}, {"a": 2}]
    config.write_text(document % (0, 1) + document % (0, 2))
    with pytest.raises(ConfigError, match="a second repetition of 'e'; the first is c.yml:2"):
        Config("c.yml")


def test_an_array_gets_what_the_script_changed(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.parent / "bin").mkdir()
    monkeypatch.setenv("PATH", str(config.parent / "bin"), prepend=os.pathsep)
    slurm = PretendedSlurm(config.parent / "bin")
    text = config.read_text().replace("repetitions: 2", "repetitions: 2, reps_per_job: 3")
    config.write_text("{name: SLURM, partition: main, time: 10}\n---\n" + text)
    script = """
        from amlsched.cw2 import cluster_work
        from tests.experiments.test_cw2_script import Told
        if __name__ == "__main__":
            cw = cluster_work.ClusterWork(Told)
            if cw.args["slurm"]:
                for one in cw.config.exp_configs:
                    one["params"]["tag"] = f"array {one['_rep_idx']}"
                cw.config.slurm_config["time"] = 77
            cw.run()
        """
    (config.parent / "main.py").write_text("\n".join(line[8:] for line in script.splitlines()))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    done = subprocess.run(
        [sys.executable, "main.py", "c.yml", "-e", "e", "-s"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert slurm.sizes() == [2]
    [job_script] = (config.parent / "out/_arrays").rglob("*.sh")
    assert "1:17:00" in job_script.read_text()
    assert [slurm.run(*place) for place in slurm.pending()] == [0, 0]
    assert told(config.parent / "out") == {f"e/e__a{a} rep_0{i}": f"array {i}" for a in (1, 2) for i in range(2)}


# ------------------------------------------------------------------------------------------------------ the loggers


def test_the_array_of_loggers_can_be_used(config: Path) -> None:
    class Noting(cw_logging.AbstractLogger):
        def process(self, data):
            Path("noted").write_text(str(data["rep"]))

        def initialize(self, config, rep, rep_log_path): ...
        def finalize(self): ...
        def load(self): ...

    cw = work("-e", "other")
    assert cw.logArray.is_empty()
    cw.logArray.add(Noting())
    cw.run()
    assert Path("noted").read_text() == "0"
    assert [type(one) for one in cw.logArray] == [Noting]


def test_scripts_that_use_full_names_run_with_the_lines_of_the_page(config: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/migrating/cw2.md").read_text("utf-8")
    [command] = re.findall(r"^sed .*main\.py$", page, re.MULTILINE)
    (config.parent / "main.py").write_text(
        "import cw2.cluster_work\nimport cw2.experiment\nimport cw2.cw_data.cw_pd_logger\n"
        "from cw2.experiment import ExperimentSurrender\nfrom cw2 import cw_error\n"
        "import cw2.cw_data.cw_logging as log\n"
        "import cw2.cw_config.cw_conf_keys as KEY\n\n\nclass E(cw2.experiment.AbstractExperiment):\n"
        "    def run(self, cw_config, rep, logger):\n        print(cw_config[KEY.i_REP_IDX], log.getLogger())\n\n\n"
        'if __name__ == "__main__":\n    cw = cw2.cluster_work.ClusterWork(E)\n'
        "    cw.add_logger(cw2.cw_data.cw_pd_logger.PandasLogger())\n    cw.run()\n"
    )
    words = [sys.executable, "main.py", "c.yml", "-e", "other", "--executor", "sequential"]
    done = subprocess.run(["bash", "-c", command + '; "$@"', "-", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (config.parent / "out/other/log/rep_00/out.log").read_text().startswith("0 ")


# ------------------------------------------------------------------------------------------------------- notebooks


class Waits(experiment.AbstractExperiment):
    def run(self, cw_config, rep, logger):
        deadline = time.monotonic() + 60
        logger.restore()
        logger.save(rep)
        while not logger.should_stop():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("executor", ["sequential", "threads", "processes"])
def test_it_runs_where_a_loop_runs(config: Path, executor: str) -> None:
    async def cell() -> object:
        return cluster_work.ClusterWork(Told, argv=["c.yml", "-q", "--executor", executor]).run()

    summary = asyncio.run(cell())
    assert isinstance(summary, Summary)
    assert (summary.complete, summary.ran) == (True, 5)


def test_an_interrupt_of_the_kernel_ends_it_in_good_order(config: Path) -> None:
    def interrupt() -> None:
        while not list(Path("out").rglob("checkpoint/*")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    async def cell() -> None:
        cluster_work.ClusterWork(Waits, argv=["c.yml", "-q", "--executor", "threads", "-e", "other"]).run()

    loop = asyncio.new_event_loop()  # as that of a kernel, it leaves the signal to Python
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(cell())
    thread.join()
    loop.close()
    record = json.loads(Path("out/other/log/rep_00/record.json").read_text())
    assert record["state"] == "preempted"


# ------------------------------------------------------------------------------------------- as the tutorial has it


TUTORIAL = """\
---
name: "SLURM"
partition: "dev"
job-name: "decay"
path_to_template: "/home/somebody/templates/sbatch_template.sh"
num_parallel_jobs: 120
ntasks: 1
cpus-per-task: 1
mem-per-cpu: 1000
time: 30
account: ""
venv: "/home/somebody/venv/bin/activate"
---
name: "DEFAULT"
path: "decays/"
repetitions: 2
iterations: 30
gui: false
params:
  noise: 5
  rate: 0.05
---
name: "single"
params:
  start: 1
---
name: "many"
repetitions: 1
iterations: 5
grid:
  start: [3, 4]
  noise: [0, 1]
"""


class Decay(experiment.AbstractIterativeExperiment):
    """Its methods take what those of the tutorial take."""

    def initialize(self, config, rep):
        self.left = config["params"]["start"]

    def iterate(self, config, rep, n):
        if n > 20:
            raise experiment.ExperimentSurrender
        self.left *= 1 - config["params"]["rate"]
        return {"left": self.left, "trace": np.array([n, rep]), "names": ["a", "007"]}

    def save_state(self, config, rep, n):
        pass

    def finalize(self):
        print("closing down")


def test_a_project_as_that_of_the_tutorial_runs_and_loads(config: Path) -> None:
    config.write_text(TUTORIAL)
    cw = cluster_work.ClusterWork(Decay, argv=["c.yml", "-q", "--executor", "sequential"])
    cw.add_logger(cw_pd_logger.PandasLogger())
    summary = cw.run()
    assert summary is not None
    assert (summary.complete, summary.ran) == (True, 6)
    assert Path("decays/single/log/rep_01/out.log").read_text() == "closing down\n"
    frame = cw.load()
    assert list(frame.index) == [("single", 0), ("single", 1), *[("many", 0)] * 4]
    log = frame["PandasLogger"].iloc[1]
    assert len(log) == 22  # the iteration that surrendered too
    assert log["trace"].iloc[3] == [3, 1]
    assert log["names"].iloc[0] == ["a", "007"]


def test_times_are_loaded_as_local_ones_without_a_zone(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/St_Johns")
    time.tzset()
    try:
        before = datetime.now()  # noqa: DTZ005
        cw = cluster_work.ClusterWork(Decay, argv=["c.yml", "-q", "--executor", "sequential"])
        cw.add_logger(cw_pd_logger.PandasLogger())
        config.write_text(TUTORIAL)
        cw.run()
        times = cw.load()["PandasLogger"].iloc[0]["ts"]
        assert list(times) == sorted(times)
        assert before <= times.iloc[0] <= times.iloc[-1] <= datetime.now()  # noqa: DTZ005
        assert times.iloc[0] > np.datetime64(before)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


class Own(experiment.AbstractExperiment):
    def run(self, cw_config, rep, logger):
        logger.process({"ts": "soon" if rep else 5})


def test_a_column_ts_of_the_user_s_own_stays_as_it_is(config: Path) -> None:
    cw = cluster_work.ClusterWork(Own, argv=["c.yml", "-q", "-e", "e", "--executor", "sequential"])
    cw.add_logger(cw_pd_logger.PandasLogger())
    cw.run()
    assert [one["ts"].tolist() for one in cw.load()["PandasLogger"].iloc[:2]] == [[5], ["soon"]]


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("def run(self, config, rep, logger, more): ...", r"run cannot be called as run\(cw_config, rep, logger\)"),
        ("def finalize(self, *, surrender): ...", r"finalize cannot be called as finalize\(surrender, crash\)"),
        ("def iterate(self, config): ...", r"iterate cannot be called as iterate\(cw_config, rep, n\)"),
        ("def load_state(self): ...", r"load_state cannot be called as load_state\(cw_config, rep\)"),
    ],
)
def test_a_method_that_cannot_be_called_is_an_error_before_anything_runs(config: Path, method, problem) -> None:
    space: dict = {}
    exec(method, space)
    name = next(one for one in space if one != "__builtins__")
    wrong = type("Wrong", (Decay,), {name: space[name], "__module__": __name__})
    with pytest.raises(ExperimentError, match=problem):
        cluster_work.ClusterWork(wrong).run(argv=["c.yml", "-q", "--executor", "sequential"])
    assert not (config.parent / "out").exists()
