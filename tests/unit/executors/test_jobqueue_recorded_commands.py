"""LSF, Moab and OAR, which are not at hand: little commands in their place keep a record of how they are called.

They start jobs as processes here, and answer as the manuals of LSF 10.1, Moab 9 and OAR 2.5 say.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from amlsched import Scheduler
from tests import calls
from tests.backends import needs
from tests.processes import alive, until

pytestmark = needs("dask_jobqueue")

START = 'setsid sh "$script" >"$record/out" 2>&1 </dev/null & job=$!; echo $job >>"$record/jobs"'
CANCEL = 'for job in "$@"; do case $job in [0-9]*) kill -TERM -- -$job 2>/dev/null;; esac; done'


@dataclass(frozen=True)
class Kind:
    """A batch system.

    Attributes:
        name: Of the executor.
        commands: The bodies of its commands; the first one submits.
        submitted: What the submission was to say, as words of its command line or lines of its script.
    """

    name: str
    commands: dict[str, str]
    submitted: tuple[str, ...]


KINDS = (
    Kind(
        "lsf",
        {
            "bsub": f'cat >"$script"; {START}; echo "Job <$job> is submitted to default queue <normal>."',
            "bkill": CANCEL,
            "bjobs": 'for job in $(cat "$record/jobs"); do echo "$job|RUN|here|-"; done',
            "lsadmin": "exit 1",
        },
        ("#BSUB -q short", "#BSUB -W 00:20", "#BSUB -n 1"),
    ),
    Kind(
        "moab",
        {
            "msub": f'for last in "$@"; do :; done; cp "$last" "$script"; {START}; echo; echo $job',
            "canceljob": CANCEL,
            "qstat": 'for job in $(cat "$record/jobs"); do printf "Job Id: %s.here\\n    job_state = R\\n" $job; done',
        },
        ("#PBS -q short", "#PBS -l walltime=00:20:00", "#PBS -V"),
    ),
    Kind(
        "oar",
        {
            "oarsub": 'for last in "$@"; do :; done; printf "%s" "$last" >"$script"; '
            f'{START}; echo "[ADMISSION RULE] fine"; echo "OAR_JOB_ID=$job"',
            "oardel": CANCEL,
            "oarstat": 'for job in $(cat "$record/jobs"); do echo "$job : Running"; done',
        },
        ("-n amlsched -q short -l /nodes=1/core=1,walltime=00:20:00",),
    ),
)


NAMED = """
previous=
for word in "$@"; do
    case $previous in -J|-n|-N) name=$word;; esac
    previous=$word
done
echo "$name" >"$record/name.$job"
echo "Cannot connect to the server" >&2; exit 1
"""
"""The end of a command that submits: it keeps the name of the job, and loses the answer."""
LOST = {
    "lsf": (
        "bsub",
        "bjobs",
        'case "$*" in *job_name*) echo "$job|$name";; *) echo "$job|RUN|here|-";; esac',
    ),
    "moab": (
        "msub",
        "qstat",
        'printf "Job Id: %s.here\\n    Job_Name = %s\\n    job_state = R\\n" $job "$name"',
    ),
    "oar": (
        "oarsub",
        "oarstat",
        'case "$*" in -f*) printf "Job_Id: %s\\n    name = %s\\n" $job "$name";; *) echo "$job : Running";; esac',
    ),
}
"""Its name, and what the command prints of each job that lists them."""


def results_of(kind: Kind, commands: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run three calls with these commands; the folder of what they have recorded."""
    record = folder / "record"
    record.mkdir()
    for name, body in commands.items():
        lines = ["#!/bin/sh", f"record={shlex.quote(str(record))}", 'script="$record/script.$$"']
        lines += [f'printf "%s\n" "$*" >>"$record/{name}"', body, ""]
        (folder / name).write_text("\n".join(lines))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    scheduler = Scheduler.from_name(
        kind.name,
        n_workers=1,
        cores=1,
        memory="1 GB",
        walltime="00:20" if kind.name == "lsf" else "00:20:00",
        queue="short",
        interface="lo",
        log_directory=str(folder / "logs"),
        start_timeout=60,
    )
    task = scheduler.task(calls.double)
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [task.submit(number) for number in range(3)])
    scheduler.run()
    assert sorted(results) == [0, 2, 4]
    return record


@pytest.mark.filterwarnings("ignore:OAR Job memory")  # dask-jobqueue wants to know a property of the site for that
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_calls_run_on_a_worker_in_a_job(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = results_of(kind, kind.commands, tmp_path, monkeypatch)
    submit, cancel = list(kind.commands)[:2]
    (job,) = (record / "jobs").read_text().split()
    script = next(record.glob("script.*")).read_text()
    said = (record / submit).read_text() + script
    assert all(words in said for words in kind.submitted), said
    assert "distributed.cli.dask_worker" in script
    assert job in (record / cancel).read_text().split()
    until(lambda: not alive(int(job)), 45)


@pytest.mark.filterwarnings("ignore:OAR Job memory")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_job_whose_id_was_lost_is_found_by_its_name(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    submit, listing, line = LOST[kind.name]
    each = f'for job in $(cat "$record/jobs" 2>/dev/null); do name=$(cat "$record/name.$job"); {line}; done'
    started = kind.commands[submit].partition(START)[0] + START + "\n"
    record = results_of(kind, {**kind.commands, submit: started + NAMED, listing: each}, tmp_path, monkeypatch)
    (job,) = (record / "jobs").read_text().split()
    assert f"But the job is in the queue: {job}" in caplog.text
    assert job in (record / list(kind.commands)[1]).read_text().split()
    until(lambda: not alive(int(job)), 45)
