"""Workers in jobs: job scripts, settings, and a batch system that is made of three little scripts."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amlsched import BatchSystemError, Scheduler
from amlsched.batch_systems import WORKER_SYSTEMS, Stage
from amlsched.executors import jobqueue
from amlsched.executors._jobqueue.settings import lifetime
from tests import calls
from tests.backends import needs
from tests.processes import until
from tests.readers import READERS, condor_words, directives, submit_file, worker_options

pytestmark = needs("dask_jobqueue")


OPTIONS = worker_options("slurm")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_JOB_ID", "SBATCH_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)


# ------------------------------------------------------------------------------------------------------------- scripts


@pytest.mark.parametrize("name", sorted(WORKER_SYSTEMS))
def test_a_job_script_can_be_looked_at_without_the_batch_system(name: str) -> None:
    script = jobqueue.job_script(name, **worker_options(name))
    assert ("RequestCpus = " if name == "htcondor" else f"\n{READERS[name][0]} ") in script
    assert "--tls-key" in script
    assert "--no-dashboard" in script
    assert '--local-directory "${TMPDIR:-/tmp}"' in script.replace('""', '"')
    assert re.findall(r"--nthreads \d+", script) == ["--nthreads 1"]
    assert not [path for path in Path.cwd().rglob("*") if path.is_file()]


def test_workers_end_before_their_jobs() -> None:
    script = jobqueue.job_script("slurm", **OPTIONS)
    found = re.search(r"--lifetime (\d+)s --lifetime-stagger (\d+)s", script)
    assert found
    assert 300 < int(found[1]) + int(found[2]) < 600
    assert "--lifetime 1h" in (own := jobqueue.job_script("slurm", **OPTIONS, worker_extra_args=["--lifetime", "1h"]))
    assert own.count("--lifetime ") == 1
    assert "--lifetime 540s" in jobqueue.job_script("lsf", **worker_options("lsf"))  # 0:10 is hours and minutes there


@pytest.mark.parametrize("walltime", [60, 600, 3600, 7 * 86400])
def test_a_lifetime_leaves_time(walltime: int) -> None:
    lasts, stagger = lifetime(walltime)
    assert 0.5 * walltime < lasts + stagger < walltime


def test_the_environment_is_carried_where_the_system_does_not() -> None:
    assert "#$ -V" in jobqueue.job_script("sge", **worker_options("sge"))
    assert "#PBS -V" in jobqueue.job_script("pbs", **worker_options("pbs"))
    assert "getenv = True" in jobqueue.job_script("htcondor", **worker_options("htcondor"))


def test_jobs_of_slurm_are_not_requeued_unless_the_user_says_so() -> None:
    own = jobqueue.job_script("slurm", **OPTIONS, job_extra_directives=["--requeue"])
    assert own.index("#SBATCH --no-requeue\n") < own.index("#SBATCH --requeue\n")  # the last one counts


def test_libraries_use_the_cores_of_a_worker() -> None:
    assert "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}\n" in jobqueue.job_script("slurm", **OPTIONS)
    assert "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}\n" in jobqueue.job_script("slurm", **OPTIONS, processes=2)
    assert "export OMP_NUM_THREADS=3\n" in jobqueue.job_script("slurm", **OPTIONS, native_threads=3)
    assert "OMP_NUM_THREADS" not in jobqueue.job_script("slurm", **OPTIONS, native_threads=None)


def test_workers_have_the_hash_seed_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in (("", "0"), ("7", "7")):
        monkeypatch.setenv("PYTHONHASHSEED", given)
        script = jobqueue.job_script("slurm", **OPTIONS)
        assert f"export PYTHONHASHSEED={expected}\n" in script
        assert "--preload-nanny amlsched.executors._dask.nanny" in script
    assert "--preload-nanny" not in jobqueue.job_script("slurm", **OPTIONS, worker_extra_args=["--no-nanny"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"n_workers": 0}, "at least 1"), ({"coers": 2}, "coers"), ({"cores": None}, "cores")],
)
def test_wrong_options_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises((ValueError, TypeError), match=problem):
        jobqueue.job_script("slurm", **{**OPTIONS, **options})


def test_each_constructor_shows_the_one_signature() -> None:
    import inspect

    whole = list(inspect.signature(jobqueue.jobqueue).parameters)
    for name in WORKER_SYSTEMS:
        constructor = getattr(Scheduler, f"with_{name}")
        shown = [each for each in inspect.signature(constructor).parameters if each in whole]
        assert shown == whole[1:]
        assert "start_timeout" in (constructor.__doc__ or "")


def test_a_batch_system_with_the_class_of_another_has_its_own_commands(tmp_path: Path) -> None:
    system = replace(WORKER_SYSTEMS["pbs"], name="own", submit=("tsub",), cancel_all=lambda job: ["tdel", job])
    options = {"cores": 1, "memory": "1 GB", "log_directory": str(tmp_path)}
    job = jobqueue.job_class(system, "tsub --extra", "tdel")("tcp://127.0.0.1:1", name="w", **options)
    assert (job.submit_command, job.cancel_command) == ("tsub --extra", "tdel")


# ------------------------------------------------------------------------------------------------------ blanks, quotes

FOLDERS = {"sge": "my results", "lsf": "my 'results' # 1"}
"""The worst that a folder for logs may be called; elsewhere it is this."""
WORST = "my 'res\"ults' # 100% $(date) `x`"


def spaced(name: str, tmp_path: Path) -> dict[str, Any]:
    """Options with blanks and quotes wherever the batch system takes them."""
    options = {**worker_options(name), "log_directory": str(tmp_path / FOLDERS.get(name, WORST))}
    if name != "htcondor":
        options["queue"] = "a queue" if name in FOLDERS else 'a "queue\'s"'
    if name in ("slurm", "lsf", "oar"):
        options["job_name"] = "my sweep's # 1"
    return options


@pytest.mark.parametrize("name", sorted(set(WORKER_SYSTEMS) - {"htcondor"}))
def test_blanks_and_quotes_reach_the_batch_system_as_they_are(name: str, tmp_path: Path) -> None:
    options = spaced(name, tmp_path)
    words = directives(name, jobqueue.job_script(name, **options))
    logs = options["log_directory"].replace("%", "%%" if name == "slurm" else "%")

    def value(*names: str) -> str:
        return next(words[words.index(one) + 1] for one in names if one in words)

    assert value("-p" if name == "slurm" else "-q") == options["queue"]
    assert value("-J", "-N") if name != "oar" else value("-n") == options.get("job_name", "amlsched")
    if name != "oar":  # whose logs are where it likes
        files = {"slurm": "/my sweep's # 1-%J.err", "lsf": "/WORKER-%J.err"}
        assert value("-e") == logs + files.get(name, "/")


def test_blanks_and_quotes_reach_htcondor_as_they_are(tmp_path: Path) -> None:
    options = spaced("htcondor", tmp_path)
    values = submit_file(jobqueue.job_script("htcondor", **options, job_script_prologue=["export N=$(nproc)"]))
    assert values["Output"] == f"{options['log_directory']}/worker-$F(MY.JobId).out"
    [flag, command] = condor_words(values["Arguments"])
    assert flag == "-c"
    assert "export N=$(nproc); " in command
    assert f"{options['log_directory']}/KEYS/key" in shlex.split(command)


@pytest.mark.parametrize("name", sorted(set(WORKER_SYSTEMS) - {"htcondor"}))
def test_the_shell_of_a_job_reads_each_word_of_its_worker(name: str, tmp_path: Path) -> None:
    python = tmp_path / "my env" / "python"
    python.parent.mkdir()
    python.touch()
    options = spaced(name, tmp_path) | {"python": str(python), "local_directory": "$SCRATCH/my files"}
    arguments = ["--resources", "GPU=1 MEM=2", "--death-timeout 60"]
    script = jobqueue.job_script(name, **options, worker_extra_args=arguments)
    words = shlex.split(script.strip().splitlines()[-1])
    assert words[0] == str(python)
    assert words[words.index("--tls-key") + 1] == f"{options['log_directory']}/KEYS/key"
    assert words[words.index("--local-directory") + 1] == "$SCRATCH/my files"
    assert words[words.index("--resources") + 1] == "GPU=1 MEM=2"
    assert words[words.index("--death-timeout") + 1] == "60"
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_python_of_several_words_is_left_alone() -> None:
    script = jobqueue.job_script("slurm", **OPTIONS, python="singularity exec image.sif python3")
    assert "\nsingularity exec image.sif python3 -m distributed" in script


def test_directives_that_are_quoted_already_stand_as_they_are() -> None:
    given = [
        '--comment="lr sweep (v2)"',
        "--gres=gpu:1 --exclusive",
        "-J 'mine'",
        "--mem=0 # all",
        "--comment=a b --hold",
    ]
    script = jobqueue.job_script("slurm", **OPTIONS, job_extra_directives=given)
    assert all(f"#SBATCH {one}\n" in script for one in given)
    script = jobqueue.job_script("slurm", **OPTIONS, job_extra_directives=["--comment=lr sweep (v2)"])
    assert '#SBATCH --comment="lr sweep (v2)"\n' in script


def test_a_name_that_is_no_name_of_a_file_has_logs_all_the_same() -> None:
    words = directives("slurm", jobqueue.job_script("slurm", **OPTIONS, job_name="lr/100%"))
    assert words[words.index("-J") + 1] == "lr/100%"
    assert words[words.index("-o") + 1].endswith("/amlsched-jobs/lr_100%%-%J.out")


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("sge", "job_name", "my sweep", r"job_name='my sweep': Grid Engine takes .*write job_name='my_sweep'"),
        ("sge", "job_name", "a/b", r"job_name='a/b'.*write job_name='a_b'"),
        ("sge", "job_name", "1st", r"job_name='1st'.*write job_name='j1st'"),
        ("sge", "log_directory", "it's", r"log_directory=\".*it's\": Grid Engine cannot hold ' here"),
        ("sge", "log_directory", "a,b", r"Grid Engine cannot hold , here"),
        ("sge", "queue", "a#b", r"queue='a#b': Grid Engine cannot hold # here"),
        ("pbs", "job_name", "my sweep", r"job_name='my sweep': PBS takes .*write job_name='my_sweep'"),
        ("pbs", "log_directory", "a:b", r"PBS cannot hold : here"),
        ("moab", "job_name", "1", r"Moab takes up to 15 .*write job_name='j1'"),
        ("moab", "job_name", "sixteen_letters_", r"write job_name='sixteen_letters'"),
        ("slurm", "job_name", "a\n#SBATCH --uid=0", r"a directive of Slurm is one line; leave out the line break"),
        ("slurm", "queue", "a\rb", r"queue='a\\rb': a directive"),
        ("slurm", "log_directory", "a\\b", r"Slurm cannot hold \\ here"),
        ("slurm", "job_extra_directives", ["--a\n--b"], r"job_extra_directives='--a\\n--b': a directive"),
        ("lsf", "job_name", "a[1-9]", r"LSF takes .*write job_name='a_1-9_'"),
        ("lsf", "project", 'a"b', r'LSF cannot hold " here'),
        ("htcondor", "job_extra_directives", {"a": "1\nqueue 9"}, r"a directive of HTCondor is one line"),
        ("htcondor", "job_script_prologue", ["a\nb"], r"job_script_prologue='a\\nb': a directive"),
    ],
)
def test_what_the_batch_system_cannot_hold_is_an_error(name: str, option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jobqueue.job_script(name, **{**worker_options(name), option: value})


def test_the_doctor_runs_the_prologue_on_htcondor_too(tmp_path: Path) -> None:
    from amlsched.doctor.trial import Trial

    options = {
        **worker_options("htcondor"),
        "job_script_prologue": ["export N=$(nproc)"],
        "log_directory": str(tmp_path),
    }
    line: Any = SimpleNamespace(token="x", offered=[])
    trial = Trial(WORKER_SYSTEMS["htcondor"], options, line)
    [_, command] = condor_words(submit_file(trial.script)["Arguments"])
    trial.close()
    assert re.search(r"^test -w .*; trap .*; export N=\$\(nproc\); echo the probe begins; ", command)


# ------------------------------------------------------------------------------------------------- what the queue says


@pytest.mark.parametrize(
    ("name", "text", "job", "stage", "reason"),
    [
        ("slurm", "7|PENDING||Resources\n", "7", Stage.PENDING, "Resources"),
        ("slurm", "7|RUNNING|n1|None\n", "7", Stage.RUNNING, "RUNNING"),
        ("slurm", "7|NODE_FAIL|n1|NodeDown\n", "7", Stage.ENDED, "NODE_FAIL (NodeDown)"),
        ("pbs", "Job Id: 7.host\n    job_state = Q\n    comment = no room\n", "7", Stage.PENDING, "no room"),
        ("pbs", "Job Id:\t7\n\tjob_state = R\n\texec_host = n1/0\n", "7", Stage.RUNNING, "R"),
        ("lsf", "7|PEND|-|New job is waiting\n", "7", Stage.PENDING, "waiting"),
        ("lsf", "7|EXIT|n1|-\n", "7", Stage.ENDED, "EXIT"),
        ("oar", "7: Waiting\n", "7", Stage.PENDING, "Waiting"),
        ("htcondor", '[{"ClusterId": 7, "ProcId": 0, "JobStatus": 5, "HoldReason": "no"}]', "7.0", Stage.STUCK, "no"),
    ],
)
def test_states_of_jobs_are_read(name: str, text: str, job: str, stage: Stage, reason: str) -> None:
    element = WORKER_SYSTEMS[name].job_states(text)[job]
    assert element.stage is stage
    assert reason in element.reason


# ------------------------------------------------------------------------------------------------ a little batch system


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put an sbatch, squeue and scancel first in the path; each writes its words to a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(sbatch: str = "echo Submitted batch job $$", squeue: str = "") -> Path:
        listed = 'for job in $(cat bin/jobs 2>/dev/null); do echo "$job|PENDING||Resources"; done'
        bodies = {"sbatch": sbatch, "squeue": squeue or listed, "scancel": "", "scontrol": "exit 1"}
        for name, body in bodies.items():
            command = folder / name
            log = f'cd "{tmp_path}"; echo "$@" >>bin/{name}.log; env >bin/{name}.env'
            keep = "echo $$ >>bin/jobs" if name == "sbatch" else ""
            command.write_text(f"#!/bin/sh\n{log}\n{keep}\n{body}\n")
            command.chmod(0o755)
        return folder

    return make


def run_one(display: bool = False, **options: Any) -> None:
    scheduler = Scheduler.with_slurm(**{**OPTIONS, "scheduler_options": {"host": "127.0.0.1"}, **options})
    task = scheduler.task(calls.double)
    scheduler.on_start(lambda: task.submit(1))
    scheduler.run(on_exception="continue", display=display)  # which is about calls, not about this


def test_a_refused_submission_raises_with_its_words_and_the_script(commands: Callable[..., Path]) -> None:
    commands(sbatch="echo 'no such partition' >&2; exit 1")
    began = time.monotonic()
    with pytest.raises(BatchSystemError, match=r"(?s)sbatch: no such partition.*slurm-job-\w+\.sh") as caught:
        run_one(queue="none")
    assert time.monotonic() - began < 30
    script = re.search(r"\S+slurm-job-\S+\.sh", str(caught.value))
    assert script
    assert "#SBATCH -p none" in Path(script[0]).read_text()


def test_inside_a_job_a_refusal_names_what_to_do(
    commands: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(sbatch="exit 1")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with pytest.raises(BatchSystemError, match=r"job 42.*with_slurm_allocation"):
        run_one()


def test_a_missing_command_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BatchSystemError, match="sbatch: there is no such command here"):
        Scheduler.with_slurm(**OPTIONS)


def test_jobs_that_die_at_once_raise_with_the_end_of_their_log(commands: Callable[..., Path], tmp_path: Path) -> None:
    fails = 'echo "out of luck" >amlsched-jobs/amlsched-$$.err; echo Submitted batch job $$'
    commands(sbatch=fails, squeue='for job in $(cat bin/jobs); do echo "$job|FAILED|n1|NonZeroExitCode"; done')
    with pytest.raises(BatchSystemError, match=r"(?s)3 jobs in a row ended .*FAILED.*out of luck"):
        run_one()


def test_when_no_worker_comes_the_reasons_are_told(
    commands: Callable[..., Path], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = commands()
    with pytest.raises(BatchSystemError, match=r"no worker came within 7 s: 2 jobs PENDING \(Resources\)"):
        run_one(start_timeout=7, display=True)
    assert "no worker for" in caplog.text
    line = capsys.readouterr().out.splitlines()[0]  # with the share of callbacks in it where the machine is busy
    assert "1 submitted, 0 running, 1 queued, 0 results, 0 exceptions, 0 cancelled, 0/s" in line
    assert "; 0 of 2 workers: 2 jobs PENDING" in line
    jobs = (folder / "jobs").read_text().split()
    assert set((folder / "scancel.log").read_text().split()) == set(jobs)


def test_commands_of_one_cluster_are_not_those_of_another(commands: Callable[..., Path]) -> None:
    folder = commands()
    with pytest.raises(BatchSystemError):
        run_one(start_timeout=0.1, submit_command="sbatch --comment='two words'", cancel_command="scancel --quiet")
    assert all(line.startswith("--comment=two words ") for line in (folder / "sbatch.log").read_text().splitlines())
    assert (folder / "scancel.log").read_text().startswith("--quiet ")
    (folder / "sbatch.log").unlink()
    with pytest.raises(BatchSystemError):
        run_one(start_timeout=0.1)
    assert "--comment" not in (folder / "sbatch.log").read_text()


def test_variables_of_a_job_stay_out_of_its_submissions(
    commands: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = commands()
    for name, value in {"SLURM_JOB_ID": "1", "SLURM_CPU_BIND": "x", "SBATCH_EXPORT": "NONE", "PMI_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("MINE", "kept")
    with pytest.raises(BatchSystemError):
        run_one(start_timeout=0.1)
    found = (folder / "sbatch.env").read_text()
    assert "SLURM_CONF=" in found
    assert "MINE=kept" in found
    assert not re.search(r"^(SLURM_JOB_ID|SLURM_CPU_BIND|SBATCH_EXPORT|PMI_RANK)=", found, re.MULTILINE)


def test_only_who_has_the_keys_is_let_in(commands: Callable[..., Path], tmp_path: Path) -> None:
    import distributed

    folder = commands()
    executor = jobqueue.slurm(**OPTIONS, scheduler_options={"host": "127.0.0.1"})
    executor.submit(calls.double, 1)
    try:
        until(lambda: (folder / "sbatch.log").exists())
        address = executor.cluster.scheduler_address
        assert address.startswith("tls://127.0.0.1:")
        (keys,) = (tmp_path / "amlsched-jobs").glob(".keys-*")
        assert keys.stat().st_mode & 0o777 == 0o700
        assert {file.stat().st_mode & 0o777 for file in keys.iterdir()} == {0o600}
        for security in (None, distributed.Security.temporary()):
            with pytest.raises((OSError, TypeError)):
                distributed.Client(address if security else address.replace("tls", "tcp"), timeout=3, security=security)
    finally:
        executor.kill_workers()
    assert not keys.exists()


def test_no_security_is_warned_of(commands: Callable[..., Path]) -> None:
    commands()
    with pytest.warns(UserWarning, match="security=False"), pytest.raises(BatchSystemError):
        run_one(start_timeout=0.1, security=False)


def test_an_allocation_needs_a_job() -> None:
    with pytest.raises(BatchSystemError, match=r"is not running in a job.*with_slurm"):
        Scheduler.with_slurm_allocation()


@pytest.mark.parametrize(
    "line",
    [
        "jobqueue.job_script('slurm', n_workers=1, cores=1, memory='1 GB')",
        "dask_classes.job_class(WORKER_SYSTEMS['slurm'], 'sbatch', 'scancel')",  # as the doctor does
    ],
)
def test_ctrl_c_stays_what_it_was(line: str) -> None:
    program = f"""
import signal
from amlsched.batch_systems import WORKER_SYSTEMS
from amlsched.executors import jobqueue
from amlsched.executors._jobqueue import dask_classes
{line}
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
