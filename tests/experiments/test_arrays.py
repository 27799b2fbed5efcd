"""Arrays and the limits of a batch system, on a Slurm that only pretends: it runs an element when the test says so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from amlsched.experiments._storage.claims import Owner
from amlsched.experiments._storage.record import Process
from tests.clusters.project import EXPERIMENT, Project
from tests.pretended_slurm import PretendedSlurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretendedSlurm:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return PretendedSlurm(tmp_path / "bin")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    project = Project(tmp_path)
    project.config("partition: main")
    return project


def test_an_array_that_is_too_large_is_split(project: Project, slurm: PretendedSlurm) -> None:
    slurm.set(largest=3)
    assert "Submitted arrays 1, 2 to Slurm: 4 elements." in project.submit()
    assert slurm.sizes() == [3, 1]
    assert [slurm.run(*place) for place in slurm.pending()] == [0] * 4
    assert project.completions() == [1] * 4


@pytest.mark.parametrize(
    ("venv", "line"),
    [
        ("env", "source {folder}/env/bin/activate"),
        ("{folder}/env", "source {folder}/env/bin/activate"),
        ("{folder}/env/bin/activate", "source {folder}/env/bin/activate"),
        ("./env/", "source {folder}/env/bin/activate"),
        ("~/env", "source {folder}/env/bin/activate"),
        ("{folder}/conda", "source activate {folder}/conda"),
        ("base", "source activate base"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_an_environment_is_activated_once(
    project: Project, slurm: PretendedSlurm, monkeypatch: pytest.MonkeyPatch, venv: str, line: str, again: bool
) -> None:
    monkeypatch.setenv("HOME", str(project.folder))
    (project.folder / "env" / "bin").mkdir(parents=True)
    (project.folder / "env" / "bin" / "activate").touch()
    (project.folder / "conda" / "conda-meta").mkdir(parents=True)
    line = line.format(folder=project.folder)
    project.config(
        f'venv: "{venv.format(folder=project.folder)}"' + (f"\nsh_lines: ['{line}', ls]" if again and line else "")
    )
    project.submit()
    script = slurm.script("1")
    assert [found for found in script.splitlines() if "activate" in found] == [line] * bool(line)


@pytest.mark.parametrize("venv", ["~/none", "none/here", "/none/bin/activate", "$HOME/env"])
def test_an_environment_that_is_not_there_is_told_before_anything_is_submitted(
    project: Project, slurm: PretendedSlurm, venv: str
) -> None:
    project.config(f"venv: {venv}")
    done = project.call("run", "experiment.py:experiment", "config.yml", "-s")
    assert done.returncode == 2
    assert f"key venv): venv is '{venv}', but there is no file" in done.stderr
    assert slurm.sizes() == []


def test_a_section_that_is_wrong_stops_who_submits_and_not_a_run_here(project: Project, slurm: PretendedSlurm) -> None:
    project.config("partiton: main\nnodes: 1")
    done = project.call("run", "experiment.py:experiment", "config.yml", "-s")
    assert done.returncode == 2
    assert "the key partiton is not known in a SLURM section (did you mean partition?" in done.stderr
    assert slurm.sizes() == []
    done = project.call("run", "experiment.py:experiment", "config.yml")
    assert done.returncode == 0, done.stderr
    assert "partiton" not in done.stderr
    checked = project.call("config", "check", "config.yml")
    assert checked.returncode == 2
    assert "partiton" in checked.stdout
    assert "note: config.yml" in checked.stdout
    explained = project.call("config", "explain", "config.yml")
    assert explained.returncode == 0
    assert "left out, because it is invalid: config.yml" in explained.stdout


def test_the_number_of_parallel_jobs_holds_over_all_arrays(project: Project, slurm: PretendedSlurm) -> None:
    slurm.set(largest=2)
    project.config("num_parallel_jobs: 2")
    project.submit()
    assert [slurm.after(job) for job in "12"] == [[], ["#SBATCH --dependency=afterany:1"]]
    project.submit("--set", "repetitions=3")
    assert slurm.sizes() == [2, 2, 2]
    assert slurm.after("3") == ["#SBATCH --dependency=afterany:1:2"]


def test_elements_beyond_the_submit_limit_are_fed_as_others_end(project: Project, slurm: PretendedSlurm) -> None:
    slurm.set(limit=2)
    told = project.submit()
    assert "2 elements." in told
    assert "2 more elements wait to be submitted: sbatch: error: Batch job submission failed: Job violates" in told
    assert "2 pending (not submitted yet)" in project.status()
    while pending := slurm.pending():
        assert slurm.run(*pending[0]) == 0
    assert project.completions() == [1] * 4
    assert "4 repetitions: 4 completed." in project.status()


def test_the_same_command_again_submits_what_was_refused_before(project: Project, slurm: PretendedSlurm) -> None:
    slurm.set(limit=1)
    project.submit()
    slurm.set(limit=100)
    assert "4 repetitions are already in the queue" in project.submit()
    assert sum(slurm.sizes()) == 4


def test_nothing_is_left_of_a_submission_that_was_refused(project: Project, slurm: PretendedSlurm) -> None:
    slurm.set(limit=0)
    done = project.call("run", "experiment.py:experiment", "config.yml", "-s")
    assert (done.returncode, "submit limit" in done.stderr) == (2, True)
    assert "Slurm: sbatch: " in done.stderr
    assert not list(project.results.glob("_arrays/*/"))


def test_without_a_section_it_is_said_which_is_missing(project: Project, slurm: PretendedSlurm) -> None:
    (project.folder / "config.yml").write_text("{name: SLURM_elsewhere, time: 1}\n---\n{name: x, path: results}\n")
    done = project.call("run", "experiment.py:experiment", "config.yml", "-s")
    assert (done.returncode, "there is no SLURM section for this host" in done.stderr) == (2, True)


def test_without_slurm_it_is_said_at_once(project: Project) -> None:
    done = project.call("run", "experiment.py:experiment", "config.yml", "-s")
    assert (done.returncode, "there is no such command here" in done.stderr) == (2, True)


@pytest.mark.parametrize("flag", ["-j=1", "--max-workers=2", "--executor-option=a=1"])
def test_flags_of_a_run_here_do_not_go_with_arrays(project: Project, slurm: PretendedSlurm, flag: str) -> None:
    done = project.call("run", "experiment.py:experiment", "config.yml", "-s", *flag.split("=", 1))
    assert (done.returncode, "does not go with -s" in done.stderr) == (2, True)


@pytest.mark.parametrize("flags", [(), ("--multicopy",)])
def test_elements_run_from_the_copy_of_the_code(
    project: Project, slurm: PretendedSlurm, flags: tuple[str, ...]
) -> None:
    copies = project.folder.parent / f"{project.folder.name}-copies"
    project.config(f"experiment_copy_src: .\nexperiment_copy_dst: {copies}")
    project.submit(*flags)
    (project.folder / "experiment.py").write_text("raise ImportError('this is edited while the array waits')")
    assert [slurm.run(*place) for place in slurm.pending()] == [0] * 4
    assert len(list(copies.glob("experiment.py" if not flags else "?/experiment.py"))) == (4 if flags else 1)
    assert len(list(copies.rglob("pids/*"))) == 4


CW2 = """
from amlsched.cw2 import cluster_work, experiment
from amlsched.experiments import AbstractLogger


class Mine(experiment.AbstractExperiment):
    def initialize(self, cw_config, rep, logger):
        pass

    def run(self, cw_config, rep, logger):
        logger.process({"value": rep})

    def finalize(self, surrender=None, crash=False):
        pass


class Noted(AbstractLogger):
    def initialize(self, config, rep, rep_log_path):
        self.path = rep_log_path

    def process(self, data):
        open(self.path + "/noted", "a").write(str(data["value"]))

    def finalize(self):
        pass

    def load(self):
        pass


if __name__ == "__main__":
    cw = cluster_work.ClusterWork(Mine)
    cw.add_logger(Noted())
    cw.run()
"""


def test_a_script_of_cw2_submits_itself_with_its_loggers(project: Project, slurm: PretendedSlurm) -> None:
    (project.folder / "main.py").write_text(CW2)
    words = [sys.executable, "main.py", "config.yml", "-s"]
    done = subprocess.run(words, cwd=project.folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Submitted array 1 to Slurm: 4 elements" in done.stdout) == (0, True), done.stderr
    assert [slurm.run(*place) for place in slurm.pending()] == [0] * 4
    assert [path.read_text() for path in sorted(project.results.rglob("noted"))] == ["0", "1", "0", "1"]


def test_status_without_the_batch_system_says_what_the_records_say(
    project: Project, slurm: PretendedSlurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project.submit()
    slurm.run("1", "0")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    status = project.status()
    assert "squeue: there is no such command here" in status
    assert "4 repetitions: 1 completed, 3 pending." in status


def test_an_element_that_is_started_again_runs_only_what_is_left(project: Project, slurm: PretendedSlurm) -> None:
    config = project.folder / "config.yml"
    config.write_text(config.read_text() + "reps_per_job: 4\n")
    project.submit()
    assert slurm.run("1", "0") == 0
    assert slurm.run("1", "0", restart=1) == 0
    assert project.completions() == [1] * 4


def test_an_element_that_is_started_again_on_another_host_does_not_wait_for_its_own_claim(
    project: Project, slurm: PretendedSlurm
) -> None:
    """The claim that it left on a node that failed looks alive from everywhere else."""
    project.submit()
    assert slurm.run("1", "0") == 0
    [record] = project.results.rglob("record.json")
    known = json.loads(record.read_text())
    elsewhere = known["attempts"][0]["worker"] | {"host": "elsewhere"}
    known["attempts"][0] |= {"outcome": None, "ended": None, "worker": elsewhere, "driver": elsewhere}
    record.write_text(json.dumps(known | {"state": "running"}))
    owner = Owner("lost", Process.from_json(elsewhere), job="100", restart=0)
    (record.parent / "claim.1").write_text(json.dumps(asdict(owner) | {"process": elsewhere}))
    assert slurm.run("1", "0", restart=1) == 0
    assert project.states() == ["completed"]


def test_repetitions_that_are_run_again_on_request_are_run_once(project: Project, slurm: PretendedSlurm) -> None:
    project.submit()
    for place in slurm.pending():
        slurm.run(*place)
    assert "Submitted array 2 to Slurm: 4 elements" in project.submit("-o")
    for place in slurm.pending():
        slurm.run(*place)
    slurm.run("2", "0", restart=1)
    assert project.completions() == [2] * 4


def test_an_element_that_was_cancelled_does_nothing_when_it_starts_all_the_same(
    project: Project, slurm: PretendedSlurm
) -> None:
    project.submit()
    assert project.call("cancel", "results", "sums__a1").stdout == "Cancelled 2 elements.\n"
    assert project.call("cancel", "results").stdout == "Cancelled 2 elements.\n"
    assert slurm.diary() == [["submitted", "1"], ["cancelled", "1_[0-1]"], ["cancelled", "1"]]
    assert slurm.run("1", "0") == 0
    assert project.records() == []


def test_a_name_that_was_not_submitted_cannot_be_cancelled(project: Project, slurm: PretendedSlurm) -> None:
    assert project.call("cancel", "results").returncode == 2
    project.submit()
    done = project.call("cancel", "results", "sum")
    assert (done.returncode, "there are: sums, sums__a1, sums__a2" in done.stderr) == (2, True)


def test_what_an_element_complained_about_last_is_shown_as_the_cause(project: Project, slurm: PretendedSlurm) -> None:
    project.submit()
    [job] = project.arrays()
    slurm.mark(job, "0", "TIMEOUT")
    [logs] = project.results.glob("_arrays/*/logs")
    (logs / f"err_{job}_0.log").write_text("slurmstepd: error: CANCELLED DUE TO TIME LIMIT\n\n")
    cause = "lost     sums__a1 rep 0 (element 1_0): TIMEOUT: slurmstepd: error: CANCELLED DUE TO TIME LIMIT"
    assert cause in project.status()


def test_the_script_that_is_printed_is_the_one_that_is_submitted_and_printing_does_nothing_else(
    project: Project, slurm: PretendedSlurm
) -> None:
    for flags in (("-s",), ("--submit", "slurm"), ("-s", "--wait")):
        shown = project.call("run", "experiment.py:experiment", "config.yml", *flags, "--print-job-script")
        assert shown.returncode == 0
        assert shown.stderr == f"The script of an array of 4 elements in {project.results} (not submitted):\n"
        assert slurm.state["jobs"] == {}
        assert not project.results.exists()
    project.submit()
    [mark] = re.findall(r"--mark (\w+)", slurm.script("1"))
    assert shown.stdout.replace("the-mark", mark) == slurm.script("1")


@pytest.mark.parametrize(
    ("system", "directive"),
    [("sge", "#$ -t 1-4"), ("pbs", "#PBS -J 0-3"), ("torque", "#PBS -t 0-3"), ("htcondor", "queue 4")],
)
def test_the_script_of_an_array_is_printed_where_its_batch_system_is_not(
    project: Project, system: str, directive: str
) -> None:
    project.config()
    shown = project.call("run", "experiment.py:experiment", "config.yml", "--submit", system, "--print-job-script")
    assert shown.returncode == 0, shown.stderr
    assert directive in shown.stdout.splitlines()
    assert not project.results.exists()


def test_printing_the_script_of_nothing_says_so(project: Project, slurm: PretendedSlurm) -> None:
    assert project.call("run", "experiment.py:experiment", "config.yml", "-q").returncode == 0
    shown = project.call("run", "experiment.py:experiment", "config.yml", "-s", "--print-job-script")
    assert (shown.returncode, shown.stdout) == (0, "")
    assert shown.stderr == "Nothing remains to run in results, so there is no script to print.\n"
    waiting = project.call("run", "experiment.py:experiment", "config.yml", "--wait", "--print-job-script")
    assert waiting.returncode == 2
    assert "--print-job-script: does not go with --wait" in waiting.stderr
