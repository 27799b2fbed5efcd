"""What to ask each batch system about itself and about one job, and how to read what it says.

Sources:
    The manuals of Slurm 22.05, Grid Engine 8.1, Torque 6, HTCondor 23, LSF 10, Moab 9 and OAR 2.5.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from amlsched._surroundings import user_name

__all__ = ["SITES", "Site", "said"]

_ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """How to ask a batch system.

    Attributes:
        commands: What has to be there besides the commands that submit and cancel.
        version: The command that tells the version.
        quiet: Options of the submit command that keep a job from writing files of output.
        queues: The queues and what there is to say of each; `None` if it has none.
        accounts: The accounts that this user may name; `None` where it keeps no list.
        limits: Limits on jobs, by their names.
    """

    commands: tuple[str, ...]
    version: tuple[str, ...]
    quiet: tuple[str, ...]
    queues: Callable[[], dict[str, str]] | None = None
    accounts: Callable[[], list[str] | None] = lambda: None
    limits: Callable[[], dict[str, str]] = dict


def said(*words: str, complaints: bool = False) -> str:
    """What a command says; empty where it cannot be asked, does not answer in time, or fails.

    Args:
        words: The command.
        complaints: What it says counts even if it fails, and so does its standard error.
    """
    if shutil.which(words[0]) is None:
        return ""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if complaints:
        return done.stdout + done.stderr
    return "" if done.returncode else done.stdout


def _columns(text: str, separator: str | None = None) -> list[list[str]]:
    return [row for line in text.splitlines() if (row := [part.strip() for part in line.split(separator)])]


# ------------------------------------------------------------------------------------------------------------ Slurm


def _slurm_queues() -> dict[str, str]:
    rows = _columns(said("sinfo", "--noheader", "--format=%R|%a|%D|%t|%l"), "|")
    found: dict[str, list[str]] = {}
    for name, available, nodes, state, limit in rows:
        found.setdefault(name, []).append(f"{available}, {nodes} nodes {state}, time limit {limit}")
    return {name: "; ".join(told) for name, told in found.items()}


def _slurm_settings() -> dict[str, str]:
    text = said("scontrol", "show", "config")
    found: list[tuple[str, str]] = re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE)
    return dict(found)


def _slurm_accounts() -> list[str] | None:
    if "slurmdbd" not in _slurm_settings().get("AccountingStorageType", ""):
        return None
    text = said("sacctmgr", "-nP", "show", "associations", f"user={user_name()}", "format=account")
    return sorted(set(text.split()))


def _slurm_limits() -> dict[str, str]:
    settings = _slurm_settings()
    found: dict[str, str] = {name: settings[name] for name in ("MaxArraySize", "MaxJobCount") if name in settings}
    if "slurmdbd" in settings.get("AccountingStorageType", ""):
        asked = ("-nP", "show", "associations", f"user={user_name()}", "format=account,maxjobs,maxsubmit")
        for account, running, submitted in _columns(said("sacctmgr", *asked), "|"):
            found[f"jobs of yours in {account}"] = f"{running or 'any'} running, {submitted or 'any'} submitted"
    return found


# ------------------------------------------------------------------------------------------------ others' questions


def _sge_limits() -> dict[str, str]:
    settings = {row[0]: row[1] for row in _columns(said("qconf", "-sconf", "global")) if len(row) == 2}
    return {name: settings[name] for name in ("max_jobs", "max_u_jobs", "max_aj_tasks") if name in settings}


def _condor_pool() -> dict[str, str]:
    rows = _columns(said("condor_status", "-af", "Machine", "Cpus", "Memory"))
    machines = [(row[0], int(row[1])) for row in rows if len(row) == 3]
    if not machines:
        return {}
    return {"the pool": f"{len(dict(machines))} hosts with {sum(cpus for _, cpus in machines)} free CPUs"}


def _condor_limits() -> dict[str, str]:
    names = ("MAX_JOBS_PER_OWNER", "MAX_JOBS_PER_SUBMISSION", "MAX_JOBS_SUBMITTED")
    return {name: value for name in names if (value := said("condor_config_val", name).strip())}


def _first_column(*words: str, header: int) -> Callable[[], dict[str, str]]:
    def queues() -> dict[str, str]:
        rows = _columns(said(*words))[header:]
        return {row[0]: "" for row in rows if not row[0].startswith("-")}

    return queues


_NO_OUTPUT = ("-o /dev/null", "-e /dev/null")

SITES: dict[str, Site] = {
    "slurm": Site(
        ("squeue", "sinfo", "scontrol"),
        ("sbatch", "--version"),
        ("--output=/dev/null", "--error=/dev/null"),
        _slurm_queues,
        _slurm_accounts,
        _slurm_limits,
    ),
    "sge": Site(
        ("qstat", "qconf"),
        ("qstat", "-help"),
        _NO_OUTPUT,
        _first_column("qconf", "-sql", header=0),
        limits=_sge_limits,
    ),
    "pbs": Site(("qstat",), ("qstat", "--version"), _NO_OUTPUT, _first_column("qstat", "-Q", header=1)),
    "htcondor": Site(("condor_q", "condor_status"), ("condor_version",), (), _condor_pool, limits=_condor_limits),
    "lsf": Site(("bjobs", "bqueues"), ("bsub", "-V"), _NO_OUTPUT, _first_column("bqueues", "-w", header=1)),
    "moab": Site(("checkjob",), ("msub", "--version"), _NO_OUTPUT),
    "oar": Site(("oarstat",), ("oarstat", "--version"), ()),
}
"""The batch systems, by the names of their executors."""
