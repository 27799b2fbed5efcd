"""Batch systems for workers in jobs: their names, their commands, and the states of jobs.

Sources:
    The manuals of squeue (22.05), qstat of Grid Engine (8.1.9) and of PBS Professional (2022) and Torque (6.1),
    condor_q (23), bjobs of LSF (10.1), oarstat (2.5).
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from amlsched.batch_systems.grid_engine import GRID_ENGINE
from amlsched.batch_systems.htcondor import HTCONDOR
from amlsched.batch_systems.pbs import PBS, TORQUE
from amlsched.batch_systems.slurm import SLURM
from amlsched.batch_systems.system import Element, Stage, Syntax

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from amlsched.batch_systems.system import System

__all__ = ["QUEUES", "Queue"]

States = dict[str, Element]
"""The states of jobs by id; jobs that the batch system has forgotten are missing."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A batch system, with what is needed for workers in its jobs.

    Attributes:
        name: Its name in the API and in dask-jobqueue's configuration.
        title: Its usual name.
        cluster: dask-jobqueue's class.
        submit: The command that submits a job.
        cancel: The command that cancels jobs.
        query: Returns the command that prints the states of jobs.
        read: Parses the output of that command.
        syntax: The syntax of its directives.
        system: Its description for job arrays.
        directives: Directives that pass the environment to jobs, if that is not the default; and that keep a job from
            being requeued: it is replaced by another one, and its end would not be recorded.
        at_home: Whether a job starts in the user's home instead of the folder in which it was submitted.
    """

    name: str
    title: str
    cluster: str
    submit: str
    cancel: str
    query: Callable[[Sequence[str]], Sequence[str]]
    read: Callable[[str], States]
    syntax: Syntax
    system: System | None = None
    directives: Sequence[str] | Mapping[str, str] = ()
    at_home: bool = False

    def __str__(self) -> str:
        return self.title

    def environment(self) -> dict[str, str]:
        """The variables of this process for the commands, and thus for the jobs.

        Without those that the batch system sets in a job, which would change the jobs submitted there.
        """
        if self.system is None:
            return dict(os.environ)
        found = self.system.environment()
        if self.system.inside in os.environ:
            return {key: value for key, value in found.items() if not key.startswith(("PMI_", "PMIX_", "PMI2_"))}
        return found

    @property
    def inside(self) -> str | None:
        """The id of the job of this system in which this process runs; `None` if there is none."""
        return os.environ.get(self.system.inside) if self.system is not None else None


_SLURM_PENDING = ("PENDING", "REQUEUED", "REQUEUE_FED", "CONFIGURING")
_SLURM_STUCK = ("REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_SLURM_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


def _slurm_states(text: str) -> States:
    found: States = {}
    for line in text.splitlines():
        job, state, host, reason = line.strip().split("|", 3)
        suffix = "" if reason in ("None", "") else f" ({reason})"
        if state in _SLURM_RUNNING:
            stage = Stage.RUNNING
        elif state in _SLURM_PENDING:
            stage = Stage.PENDING
        else:
            stage = Stage.STUCK if state in _SLURM_STUCK else Stage.ENDED
        found[job] = Element(stage, f"{state}{suffix}", host)
    return found


def _condor_states(text: str) -> States:
    return {f"{job}.{index}": element for (job, index), element in HTCONDOR.states(text).items()}


def _sge_states(text: str) -> States:
    return {job: element for (job, _), element in GRID_ENGINE.states(text).items()}


_PBS_STAGES = {**dict.fromkeys("QWTM", Stage.PENDING), "H": Stage.STUCK, **dict.fromkeys("RESUB", Stage.RUNNING)}


def _pbs_states(text: str) -> States:
    found: States = {}
    for part in re.split(r"^Job Id:", text, flags=re.MULTILINE)[1:]:
        job = re.match(r"\s*(\d+)", part)
        values = {key: value.strip() for key, value in re.findall(r"^\s+(\w+) = (.*)$", part, re.MULTILINE)}
        if job:
            state = values.get("job_state", "")
            host = values.get("exec_host", "").partition("/")[0]
            comment = values.get("comment", "")
            words = f"{state} ({comment})" if comment else state
            found[job[1]] = Element(_PBS_STAGES.get(state, Stage.ENDED), words, host)
    return found


_LSF_STAGES = {"PEND": Stage.PENDING, "PSUSP": Stage.STUCK, "RUN": Stage.RUNNING, "USUSP": Stage.RUNNING}


def _lsf_states(text: str) -> States:
    found: States = {}
    for line in text.splitlines():
        parts = line.strip().split("|", 3)
        if len(parts) == 4:
            job, state, host, reason = parts
            words = f"{state} ({reason.strip()})" if reason.strip(" -") else state
            found[job] = Element(_LSF_STAGES.get(state, Stage.ENDED), words, host.strip("-"))
    return found


_OAR_STAGES = {
    **dict.fromkeys(("Waiting", "toLaunch", "toAckReservation", "Launching"), Stage.PENDING),
    "Hold": Stage.STUCK,
    **dict.fromkeys(("Running", "Finishing", "Suspended", "Resuming"), Stage.RUNNING),
}


def _oar_states(text: str) -> States:
    found = re.findall(r"^(\d+)\s*:\s*(\w+)", text, re.MULTILINE)
    return {job: Element(_OAR_STAGES.get(state, Stage.ENDED), state) for job, state in found}


def _quote_for_lsf(text: str) -> str:
    """Quote with the kind of quotes that the text does not contain; LSF has no escapes."""
    if re.fullmatch(r"[\w@%+=:,./~-]+", text):
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'


_LSF_SYNTAX = Syntax(
    title="LSF",
    quote=_quote_for_lsf,
    rejected='"',  # dask-jobqueue puts the project in double quotes
    names=re.compile(r"[^\[\]]{1,4094}"),
    names_rule="a text without [ and ], which would create an array,",
)
_OAR_SYNTAX = Syntax(title="OAR", quote=shlex.quote)  # dask-jobqueue splits directives as a shell does


def _of_pbs(name: str, title: str, cluster: str, submit: str, cancel: str, syntax: Syntax) -> Queue:
    def query(jobs: Sequence[str]) -> Sequence[str]:
        return ["qstat", "-f", *jobs]

    return Queue(name, title, cluster, submit, cancel, query, _pbs_states, syntax, PBS, ("-V",), at_home=True)


QUEUES = {
    queue.name: queue
    for queue in (
        Queue(
            "slurm",
            "Slurm",
            "SLURMCluster",
            "sbatch",
            "scancel",
            lambda jobs: ["squeue", "--noheader", "--states=all", f"--jobs={','.join(jobs)}", "--format=%i|%T|%N|%r"],
            _slurm_states,
            SLURM.syntax,
            SLURM,
            ("--no-requeue",),
        ),
        Queue(
            "sge",
            "Grid Engine",
            "SGECluster",
            "qsub",
            "qdel",
            GRID_ENGINE.query,
            _sge_states,
            GRID_ENGINE.syntax,
            GRID_ENGINE,
            ("-V",),
        ),
        Queue(
            "htcondor",
            "HTCondor",
            "HTCondorCluster",
            "condor_submit",
            "condor_rm",
            HTCONDOR.query,
            _condor_states,
            HTCONDOR.syntax,
            HTCONDOR,
            {"getenv": "True"},
        ),
        _of_pbs("pbs", "PBS", "PBSCluster", "qsub", "qdel", PBS.syntax),
        _of_pbs("moab", "Moab", "MoabCluster", "msub", "canceljob", replace(TORQUE.syntax, title="Moab")),
        Queue(
            "lsf",
            "LSF",
            "LSFCluster",
            "bsub",
            "bkill",
            lambda jobs: ["bjobs", "-noheader", "-o", "jobid stat exec_host pend_reason delimiter='|'", *jobs],
            _lsf_states,
            _LSF_SYNTAX,
        ),
        Queue(
            "oar",
            "OAR",
            "OARCluster",
            "oarsub",
            "oardel",
            lambda jobs: ["oarstat", "-s", *(word for job in jobs for word in ("-j", job))],
            _oar_states,
            _OAR_SYNTAX,
            at_home=True,
        ),
    )
}
"""The batch systems, by name."""
