"""`amlsched doctor` on real batch systems, healthy ones and such with one fault each."""

import re
import sys
from pathlib import Path

import pytest

from amlsched.cli import main
from amlsched.doctor import Finding, Verdict, examine
from tests.clusters.site import KINDS, Kind, Site
from tests.processes import until


def faults(findings: list[Finding]) -> dict[str, str]:
    return {found.check: found.told for found in findings if found.verdict is Verdict.FAULT}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: one that a job can be kept from seeing."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text("")
    monkeypatch.chdir(folder)
    return folder


def python_in(folder: Path, prepare: str, *namespaces: str) -> str:
    """A Python for jobs that runs in namespaces of its own, where something was done first."""
    path = folder / "python"
    path.write_text(
        f"#!/bin/sh\nexec unshare --user --map-root-user {' '.join(namespaces)} "
        f'sh -c \'{prepare} && exec {sys.executable} "$@"\' sh "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.slurm
def test_a_healthy_slurm_gives_the_line_that_works(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--executor", "slurm", "--executor-option", "walltime=00:05:00", "--timeout", "90"])
    said = capsys.readouterr().out
    assert code == 0, said
    order = "commands queue account job requeue project python packages folder driver clock limits preempt worker"
    assert [line.split()[1] for line in said.splitlines() if line.startswith("ok")] == order.split()
    assert "slurm-wlm" in said
    assert "main: up" in said
    assert "PreemptMode REQUEUE in main: a job that is preempted is killed; Slurm requeues elements of arrays" in said
    assert "    Scheduler.with_slurm(n_workers=1, cores=1, memory='1 GB', walltime='00:05:00', interface=" in said
    assert sorted(path.name for path in project.iterdir()) in (["train.py"], ["amlsched-jobs", "train.py"])


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=getattr(pytest.mark, kind.name), id=kind.name) for kind in KINDS.values()][1:],
)
def test_a_job_is_tried_on_the_other_systems(kind: Kind, project: Path, tmp_path: Path) -> None:
    site = Site(kind, tmp_path)
    findings = list(examine(kind.name, {**site.options(), "interface": None}, timeout_s=90))
    assert faults(findings) == {}
    assert {found.check: found.verdict for found in findings}["driver"] is Verdict.OK
    assert findings[-1].check == "worker"
    until(lambda: not site.jobs(), 15)


@pytest.mark.slurm
def test_no_commands(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(project))
    assert main(["doctor", "--executor", "slurm"]) == 1
    said = capsys.readouterr().out
    assert "FAULT   commands  not found: sbatch, " in said
    assert "login node" in said


@pytest.mark.slurm
def test_an_unknown_queue(project: Path) -> None:
    findings = list(examine("slurm", {"queue": "nowhere"}))
    assert faults(findings) == {"queue": "there is no queue nowhere"}
    assert "main, high" in next(found.remedy for found in findings if found.check == "queue")


@pytest.mark.slurm
def test_a_driver_that_cannot_be_reached(project: Path, tmp_path: Path) -> None:
    python = python_in(tmp_path, "true", "--net")
    findings = list(examine("slurm", {"python": python}, timeout_s=90))
    assert list(faults(findings)) == ["driver"]
    assert "unreachable" in faults(findings)["driver"]
    assert "lo (127.0.0.1)" in faults(findings)["driver"]


@pytest.mark.slurm
def test_an_interface_that_is_not_there(project: Path) -> None:
    findings = list(examine("slurm", {"interface": "nowhere0"}))
    assert faults(findings) == {"driver": "this host has no interface nowhere0"}


@pytest.mark.slurm
def test_another_python_in_the_job(project: Path) -> None:
    other = str(Path(sys.base_prefix) / "bin" / "python3")
    found = faults(list(examine("slurm", {"python": other}, timeout_s=90)))
    assert list(found) == ["python", "packages"]
    assert other in found["python"]
    assert "distributed missing" in found["packages"]


@pytest.mark.slurm
def test_a_folder_that_is_not_shared(project: Path, tmp_path: Path) -> None:
    python = python_in(tmp_path, f"mount -t tmpfs none {project}", "--mount")
    found = faults(list(examine("slurm", {"python": python}, timeout_s=90)))
    assert list(found) == ["project", "folder"]
    assert str(project / "amlsched-jobs") in found["folder"]


@pytest.mark.slurm
def test_a_python_that_does_not_start(project: Path) -> None:
    found = faults(list(examine("slurm", {"python": "/nowhere/python3"}, timeout_s=90)))
    assert list(found) == ["job"]
    assert "/nowhere/python3" in found["job"]


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=getattr(pytest.mark, kind.name), id=kind.name) for kind in KINDS.values()],
)
def test_a_prologue_that_exits_is_shown_with_its_words(kind: Kind, project: Path, tmp_path: Path) -> None:
    options = Site(kind, tmp_path).options(job_script_prologue=["module load nosuch || exit 7"])
    findings = list(examine(kind.name, {**options, "interface": None}, timeout_s=90))
    assert list(faults(findings)) == ["job"]
    assert "its prologue exited with code 7 before Python:\n" in faults(findings)["job"]
    assert "module: " in faults(findings)["job"]
    assert "not found" in faults(findings)["job"]
    assert findings[-1].verdict is Verdict.SKIPPED


@pytest.mark.slurm
def test_a_complaint_of_the_prologue_is_shown_though_the_job_goes_on(project: Path) -> None:
    findings = list(examine("slurm", {"job_script_prologue": ["module load cuda", "set -x"]}, timeout_s=90))
    assert faults(findings) == {}
    job = next(found for found in findings if found.check == "job")
    assert job.verdict is Verdict.WARNING
    assert re.search(r"printed before Python:\n\S+: line \d+: module: command not found$", job.told)
    assert "job_script_prologue" in job.remedy


@pytest.mark.slurm
def test_a_prologue_that_does_not_end(project: Path) -> None:
    findings = list(examine("slurm", {"job_script_prologue": ["echo waiting", "sleep 600"]}, timeout_s=10))
    assert re.search(r"prologue did not end within 10 s \(RUNNING\):\nwaiting$", faults(findings)["job"])


@pytest.mark.slurm
def test_a_job_without_scontrol(project: Path) -> None:
    findings = list(examine("slurm", {"job_script_prologue": ["export PATH=/usr/sbin"]}, timeout_s=90))
    requeue = next(found for found in findings if found.check == "requeue")
    assert requeue.verdict is Verdict.WARNING
    assert "has no scontrol: an element of an array (-s) cannot requeue itself there" in requeue.told


@pytest.mark.slurm
def test_what_the_partition_does_with_preempted_jobs(project: Path) -> None:
    found = {found.check: found.told for found in examine("slurm", {"queue": "high", "cores": 1000})}
    assert found["preempt"] == "PreemptMode OFF in high: jobs are not preempted"


@pytest.mark.slurm
def test_a_request_that_is_refused(project: Path) -> None:
    findings = list(examine("slurm", {"cores": 1000}))
    assert "More processors requested than permitted" in faults(findings)["job"]
    assert "#SBATCH --cpus-per-task=1000" in next(found.remedy for found in findings if found.check == "job")


@pytest.mark.slurm
def test_the_options_may_come_from_a_config(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "train.yml").write_text(
        "name: SLURM\npartition: high\nnum_parallel_jobs: 2\ntime: 5\n---\nname: a\npath: results\nrepetitions: 1\n"
    )
    code = main(["doctor", "train.yml", "--executor", "slurm", "--timeout", "90"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "ok      queue     high: up" in said
    assert "queue='high'" in said.splitlines()[-1]
