"""Options of workers in jobs that cannot be meant: an error with argument, value and remedy, on every batch system."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from amlsched import Scheduler
from amlsched.batch_systems import WORKER_SYSTEMS
from amlsched.doctor import Verdict
from amlsched.doctor.cluster import ClusterExamination
from amlsched.executors import jobqueue
from tests.backends import needs
from tests.readers import worker_options

pytestmark = needs("dask_jobqueue")

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"memory": 0}, "memory=0: must be a string, such as '4 GB'"),
    ({"memory": 4096}, "memory=4096: must be a string, such as '4 GB'"),
    ({"memory": "4096"}, "memory='4096': must be an amount of memory with its unit, such as '4 GB'"),
    ({"memory": "-1GB"}, "memory='-1GB': must be an amount of memory with its unit, such as '4 GB'"),
    ({"memory": "100 B"}, "memory='100 B': must be at least 1 MiB"),
    ({"n_workers": None}, "n_workers=None: must be a whole number of at least 1"),
    ({"n_workers": "4"}, "n_workers='4': must be a whole number of at least 1"),
    ({"n_workers": 1.5}, "n_workers=1.5: must be a whole number of at least 1"),
    ({"n_workers": True}, "n_workers=True: must be a whole number of at least 1"),
    ({"cores": 0}, "cores=0: must be at least 1"),
    ({"cores": -1}, "cores=-1: must be at least 1"),
    ({"cores": 1.5}, "cores=1.5: must be a whole number of at least 1"),
    ({"processes": 8}, "processes=8: more than the job has cores, which are 4; .*write cores=8, or processes=4"),
    ({"job_script_prologue": "module load"}, "job_script_prologue='module load': must be a list of strings"),
    ({"worker_extra_args": "--no-nanny"}, "worker_extra_args='--no-nanny': must be a list of strings"),
    ({"job_directives_skip": "--mem"}, "job_directives_skip='--mem': must be a list of strings"),
    ({"env_extra": ["a"]}, r"env_extra=\['a'\]: .* write job_script_prologue="),
    ({"job_extra": ["a"]}, r"job_extra=\['a'\]: .* write job_extra_directives="),
    (
        {"adaptive": {"minimum": 9}},
        "adaptive: minimum=9: more than n_workers=2; write n_workers=9, or a smaller minimum",
    ),
    ({"adaptive": {"maximum_jobs": 3}}, "adaptive: maximum_jobs=3: more than n_workers=2"),
    ({"adaptive": {"minimum": -1}}, "adaptive: minimum=-1: must be at least 0"),
    ({"adaptive": {"minimun": 1}}, ".*has no option minimun .did you mean minimum"),
    ({"adaptive": 2}, "adaptive=2: must be True, False or options of dask's Adaptive"),
    ({"job_name": "a\nb"}, r"job_name='a\\nb': a directive of .* is one line; leave out the line break"),
    ({"job_name": " "}, "job_name=' ': must not be empty; write a value such as 'training', or leave it out"),
    ({"scheduler_options": "x"}, "scheduler_options='x': must be a mapping, such as"),
    ({"scheduler_options": {"port": "x"}}, "scheduler_options: port='x': must be a whole number"),
    ({"scheduler_options": {"port": 70000}}, "scheduler_options: port=70000: must be at most 65535"),
    (
        {"log_directory": "/proc/nolog"},
        "log_directory='/proc/nolog': this folder cannot be created .*; choose a",
    ),
    ({"log_directory": __file__}, r"log_directory='.*': this folder cannot be created \(a file has this name\)"),
    ({"log_directory": 3}, "log_directory=3: must be a path"),
    ({"local_directory": 3}, "local_directory=3: must be a path"),
    ({"security": "yes"}, "security='yes': must be True, False or a distributed.Security"),
    ({"shebang": "#!/bin/sh\nrm"}, "shebang='.*': must be one line that begins with #!"),
    ({"submit_command": "sbatch 'a"}, 'submit_command="sbatch \'a": no closing quotation; quote it as for a shell'),
    ({"cancel_command": ""}, "cancel_command='': must not be empty"),
    ({"death_timeout": -1}, "death_timeout=-1: must be a number of seconds of at least 0"),
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", sorted(WORKER_SYSTEMS))
@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_an_error_with_its_name_its_value_and_a_remedy(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{message}"):
        jobqueue.job_script(name, **{**worker_options(name), **options})


@pytest.mark.parametrize("name", sorted(set(WORKER_SYSTEMS) - {"htcondor"}))
def test_a_text_for_a_list_of_directives_is_an_error(name: str) -> None:
    with pytest.raises(TypeError, match=r"^job_extra_directives='--gres=gpu:1': must be a list of strings, such as \["):
        jobqueue.job_script(name, **worker_options(name), job_extra_directives="--gres=gpu:1")


@pytest.mark.parametrize("given", ["+a = 1", ["+a = 1"]])
def test_directives_of_htcondor_are_a_mapping(given: object) -> None:
    with pytest.raises(TypeError, match=r"^job_extra_directives=.*: must be a mapping for htcondor, such as \{"):
        jobqueue.job_script("htcondor", **worker_options("htcondor"), job_extra_directives=given)


@pytest.mark.parametrize(
    ("name", "walltime", "message"),
    [
        ("slurm", "1h", "walltime='1h': Slurm reads minutes, "),
        ("slurm", "1:00:00:00", "walltime='1:00:00:00': Slurm reads minutes, .*days-hours"),
        ("sge", "1:30", "walltime='1:30': Grid Engine reads seconds or hours:minutes:seconds"),
        ("pbs", "1-12:00:00", "walltime='1-12:00:00': PBS reads seconds, "),
        ("moab", "2 h", "walltime='2 h': Moab reads seconds, "),
        ("lsf", "1:00:00", "walltime='1:00:00': LSF reads minutes or hours:minutes, and no seconds"),
        ("oar", "0", "walltime='0': OAR reads hours, "),
    ],
)
def test_a_walltime_that_the_system_does_not_read_is_an_error(name: str, walltime: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        jobqueue.job_script(name, **{**worker_options(name), "walltime": walltime})


HERE: list[tuple[dict[str, Any], str]] = [
    ({"interface": "nowhere0"}, r"interface='nowhere0': this machine has no such interface, but .*lo \(127.0.0.1\)"),
    (
        {"scheduler_options": {"interface": "x0"}},
        "scheduler_options: interface='x0': this machine has no",
    ),
    (
        {"scheduler_options": {"host": "192.0.2.77"}},
        r"scheduler_options: host='192.0.2.77': is no address of this machine, which has .*lo \(127.0.0.1\).*; leave",
    ),
]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an sbatch that writes down that it was called."""
    for name in ("sbatch", "scancel", "squeue", "sinfo", "scontrol"):
        (tmp_path / name).write_text(f"#!/bin/sh\n[ $1 = --version ] || touch {tmp_path}/{name}.called\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


@pytest.mark.parametrize(("options", "message"), HERE, ids=["interface", "interface of the scheduler", "host"])
def test_an_address_that_this_machine_does_not_have_is_an_error_before_anything_is_submitted(
    commands: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Scheduler.with_slurm(**{**worker_options("slurm"), **options})
    assert not (commands / "sbatch.called").exists()


@pytest.mark.parametrize(
    ("options", "message"), [*HERE[1:], WRONG[0], ({"log_directory": "/proc/no"}, "log_directory=")]
)
def test_the_doctor_has_the_same_words(commands: Path, options: dict[str, Any], message: str) -> None:
    wanted = {key: value for key, value in worker_options("slurm").items() if key != "n_workers"}
    found = next(found for found in ClusterExamination("slurm", {**wanted, **options}, 10) if found.check == "options")
    assert found.verdict is Verdict.FAULT
    assert re.match(message, found.told), found.told
    assert not (commands / "sbatch.called").exists()


def test_an_address_of_this_machine_is_one_by_its_name_too() -> None:
    from amlsched.executors._jobqueue.checks import check_host

    for host in ("127.0.0.1", "localhost", "tcp://127.0.0.1"):
        check_host({"scheduler_options": {"host": host}})


def test_the_doctor_names_a_port_that_is_taken(commands: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = {"interface": "lo", "scheduler_options": {"port": port}}
        found = next(found for found in ClusterExamination("slurm", wanted, 10) if found.check == "driver")
    assert found.verdict is Verdict.FAULT
    assert found.told == f"port {port} of this host: Address already in use"
    assert "choose another in scheduler_options" in found.remedy
