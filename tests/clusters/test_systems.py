"""The batch systems that the other tests here lean on: each runs a job."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.processes import until


def said(*words: str, folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read(*paths: Path) -> str:
    return "".join(path.read_text() for path in paths if path.exists())


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job.sh"
    path.write_text("#!/bin/sh\necho $((6 * 7)) > answer.tmp && mv answer.tmp answer\n")
    path.chmod(0o755)
    return path


@pytest.mark.slurm
@pytest.mark.takes_nodes
def test_slurm_runs_jobs_on_several_nodes(script: Path) -> None:
    folder = script.parent
    assert len(set(said("sinfo", "-h", "-N", "-o", "%N", folder=folder).split())) >= 4
    assert set(said("sinfo", "-h", "-o", "%R", folder=folder).split()) == {"main", "high"}
    assert re.fullmatch(r"\d+", said("sbatch", "--parsable", script.name, folder=folder).strip())
    assert until(lambda: read(folder / "answer"), 60) == "42\n"


@pytest.mark.sge
def test_grid_engine_runs_a_job(script: Path) -> None:
    assert re.fullmatch(r"\d+", said("qsub", "-terse", "-cwd", script.name, folder=script.parent).strip())
    assert until(lambda: read(script.parent / "answer"), 60) == "42\n"


@pytest.mark.htcondor
def test_htcondor_runs_a_job(script: Path) -> None:
    (script.parent / "job.sub").write_text(
        f"executable = {script}\nshould_transfer_files = NO\nrequest_disk = 10MB\nqueue\n"
    )
    assert "submitted to cluster" in said("condor_submit", "job.sub", folder=script.parent)
    assert until(lambda: read(script.parent / "answer"), 60) == "42\n"


@pytest.mark.pbs
def test_pbs_hands_jobs_to_slurm(script: Path) -> None:
    job = said("qsub", "-N", "answer", script.name, folder=script.parent).strip()
    assert f"JobId={job} " in said("scontrol", "show", "job", job, folder=script.parent)
    assert until(lambda: read(script.parent / "answer"), 60) == "42\n"
