"""A batch system as the tests here use it: what to ask for, and which jobs of its queue are a test's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from amlsched import Scheduler

__all__ = ["KINDS", "Kind", "Site"]


@dataclass(frozen=True)
class Kind:
    """What differs between batch systems.

    Attributes:
        name: Of the executor, and of the mark.
        submit: The command that submits.
        cancel: The command that cancels jobs by their ids.
        extra: An option of the submit command that does no harm.
        options: What has to be asked for besides cores and memory.
    """

    name: str
    submit: str
    cancel: str
    extra: str
    options: Mapping[str, Any] = field(default_factory=lambda: {"walltime": "00:10:00"})


KINDS = {
    kind.name: kind
    for kind in (
        Kind("slurm", "sbatch", "scancel", "--comment=extra"),
        Kind("sge", "qsub", "qdel", "-js 7"),
        Kind("htcondor", "condor_submit", "condor_rm", "-batch-name extra", {"disk": "100 MB"}),
        Kind("pbs", "qsub", "qdel", "-p 7"),
    )
}


class Site:
    """One batch system for one test.

    Args:
        kind: Which.
        folder: For logs.

    Attributes:
        label: The name of the test's jobs.
    """

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.label = f"t{uuid4().hex[:8]}"

    @property
    def name(self) -> str:
        return self.kind.name

    def options(self, **more: Any) -> dict[str, Any]:
        """Arguments of the constructor: small workers on the loopback interface."""
        logs = self.folder / "jobs"  # PBS in front of Slurm takes no note of where the script wants its output
        return {
            "cores": 1,
            "memory": "1 GB",
            "interface": "lo",
            "job_name": self.label,
            "log_directory": str(logs),
            "start_timeout": 90,
            **self.kind.options,
            **({"submit_command": f"qsub -o {logs}/%j.out -e {logs}/%j.err"} if self.name == "pbs" else {}),
            **more,
        }

    def scheduler(self, n_workers: int, **more: Any) -> Scheduler:
        return Scheduler.from_name(self.name, n_workers=n_workers, **self.options(**more))

    def jobs(self) -> list[str]:
        """The ids of the test's jobs that wait or run."""
        if self.name in ("slurm", "pbs"):
            states = "PENDING,RUNNING,CONFIGURING,SUSPENDED,REQUEUED,REQUEUE_HOLD"
            rows = said("squeue", "-h", "-o", "%i|%j", "-t", states).splitlines()
            return [job for job, _, name in (row.partition("|") for row in rows) if self._is_own(name)]
        if self.name == "sge":
            text = said("qstat", "-xml", "-u", "*")
            pairs = re.findall(r"<JB_job_number>(\d+)</JB_job_number>.*?<JB_name>([^<]+)</JB_name>", text, re.DOTALL)
            return [job for job, name in pairs if self._is_own(name)]
        rows = said("condor_q", "-allusers", "-af", "ClusterId", "JobStatus", "Out").splitlines()
        own = str(self.folder / "jobs")
        return [row.split()[0] for row in rows if own in row and row.split()[1] in "1257"]

    def _is_own(self, name: str) -> bool:
        """Whether a job with this name is the test's; some systems have the mark of its submission in it."""
        return name == self.label or bool(re.fullmatch(rf"{re.escape(self.label)}\.[0-9a-f]{{8}}-\d{{4}}", name))

    def cancel(self, *jobs: str) -> None:
        said(self.kind.cancel, *jobs)

    def recorder(self) -> tuple[Path, Path]:
        """A folder with a submit command that keeps a record of how it was called, and that record."""
        folder, record = self.folder / "recorder", self.folder / "record"
        folder.mkdir()
        real = shutil.which(self.kind.submit)
        (folder / self.kind.submit).write_text(f'#!/bin/sh\necho "$@" >> {record}\nexec {real} "$@"\n')
        (folder / self.kind.submit).chmod(0o755)
        return folder, record


def said(*words: str) -> str:
    """What a command says; it has to succeed."""
    done = subprocess.run(
        words, env=dict(os.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout
