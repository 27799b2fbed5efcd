"""PBS in its two dialects: PBS Professional and OpenPBS, and Torque.

Sources:
    PBS Professional, reference guide, release 2022; the manuals of Torque's qsub, qstat and qdel, release 6.1.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from amlsched.arrays.job import ArrayJob, Element, Places, Stage, System, clock, ranges, written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["PBS", "TORQUE"]

_ID = re.compile(r"(\d+)\[(\d+)\]")


def _common(job: ArrayJob) -> Iterator[str]:
    yield f"-N {re.sub(r'[^A-Za-z0-9_.+-]', '_', job.name)[:200]}"
    yield "-V"
    yield "-j oe"
    yield f"-o {written(job.logs)}/"  # the script itself writes one file for each element
    yield f"-r {'y' if job.requeue else 'n'}"
    if job.partition is not None:
        yield f"-q {job.partition}"
    if job.account is not None:
        yield f"-A {job.account}"
    if job.time_s is not None and not math.isinf(job.time_s):
        yield f"-l walltime={clock(job.time_s)}"


def _range(job: ArrayJob, least: int) -> str:
    """Its indices; an array of one is refused by some, so that it gets another element, which ends at once."""
    return f"0-{max(job.count, least) - 1}" + (f"%{job.at_once}" if job.at_once else "")


def _megabytes(job: ArrayJob) -> int | None:
    """All memory of an element."""
    if job.memory_bytes is None:
        return None
    return max(1, -(-job.memory_bytes * job.tasks * job.cpus // 2**20))


def _directives(job: ArrayJob) -> Iterator[str]:
    yield from _common(job)
    yield f"-J {_range(job, 2)}"
    memory = _megabytes(job)
    yield f"-l select=1:ncpus={job.tasks * job.cpus}" + (f":mem={memory}mb" if memory else "")
    if job.after:
        yield f"-W depend={':'.join(('afterany', *(f'{one}[]' for one in job.after)))}"


def _torque_directives(job: ArrayJob) -> Iterator[str]:
    yield from _common(job)
    yield f"-t {_range(job, 1)}"
    memory = _megabytes(job)
    yield f"-l nodes=1:ppn={job.tasks * job.cpus}"
    if memory:
        yield f"-l mem={memory}mb"
    if job.after:
        yield f"-W depend={':'.join(('afteranyarray', *(f'{one}[]' for one in job.after)))}"


def _states(text: str) -> Places:
    found: Places = {}
    jobs: dict[str, dict[str, Any]] = json.loads(text).get("Jobs", {}) if text.strip() else {}
    for name, job in jobs.items():
        if place := _ID.match(name):
            found[place[1], int(place[2])] = _element(
                job.get("job_state", ""), job.get("comment", ""), job.get("exec_host", ""), job.get("Exit_status")
            )
    return found


def _torque_states(text: str) -> Places:
    found: Places = {}
    if not text.strip():
        return found
    for job in ElementTree.fromstring(text).iter("Job"):
        if place := _ID.match(job.findtext("Job_Id", "")):
            code = job.findtext("exit_status")
            found[place[1], int(place[2])] = _element(
                job.findtext("job_state", ""), job.findtext("comment", ""), job.findtext("exec_host", ""), code
            )
    return found


def _element(state: str, comment: str, host: str, code: Any) -> Element:
    host = re.split(r"[/+]", host)[0]
    if state in ("Q", "W", "T", "M"):
        return Element(Stage.PENDING, comment)
    if state == "H":
        return Element(Stage.PENDING if "depend" in comment.lower() else Stage.STUCK, comment or "held")
    if state in ("R", "E", "S", "U", "B"):
        return Element(Stage.RUNNING, "" if state in "RB" else state, host)
    return Element(Stage.ENDED, "" if code in (None, "0", 0) else f"exit code {code}", host)


def _cancel(job: str, indices: Sequence[int]) -> list[str]:
    return ["qdel", *(f"{job}[{part}]" for part in ranges(indices))]


def _torque_cancel(job: str, indices: Sequence[int]) -> list[str]:
    return ["qdel", "-t", ",".join(ranges(indices)), f"{job}[]"]


_SUBMITTED = re.compile(r"^(\d+)(?:\[\])?(?:\.\S*)?$", re.MULTILINE)
_TOO_MANY = re.compile(r"max_array_size|array size|exceeds? .*limit|max_queued|maximum number of jobs", re.IGNORECASE)
_FORGOTTEN = re.compile(r"unknown job|has finished|job id has finished", re.IGNORECASE)
_INHERITED = ("PBS_", "NCPUS")
_KEPT = ("PBS_CONF_FILE", "PBS_SERVER", "PBS_DEFAULT")

PBS = System(
    name="pbs",
    title="PBS",
    index="$PBS_ARRAY_INDEX",
    directives=_directives,
    marker="#PBS",
    submit=("qsub",),
    submitted=_SUBMITTED,
    query=lambda jobs: ["qstat", "-x", "-t", "-f", "-F", "json", *(f"{job}[]" for job in jobs)],
    states=_states,
    cancel=_cancel,
    cancel_all=lambda job: ["qdel", f"{job}[]"],
    too_many=_TOO_MANY,
    forgotten=_FORGOTTEN,
    again=("qrerun", "$PBS_JOBID"),
    inside="PBS_JOBID",
    inherited=_INHERITED,
    kept=_KEPT,
    own_logs="${PBS_JOBID%%[*}",
)
"""PBS Professional and OpenPBS."""

TORQUE = System(
    name="torque",
    title="Torque",
    index="${PBS_ARRAYID:-$SLURM_ARRAY_TASK_ID}",  # Slurm has commands that look like Torque's
    directives=_torque_directives,
    marker="#PBS",
    submit=("qsub",),
    submitted=_SUBMITTED,
    query=lambda jobs: ["qstat", "-x", "-t", *(f"{job}[]" for job in jobs)],
    states=_torque_states,
    cancel=_torque_cancel,
    cancel_all=lambda job: ["qdel", f"{job}[]"],
    too_many=_TOO_MANY,
    forgotten=_FORGOTTEN,
    again=("qrerun", "$PBS_JOBID"),
    inside="PBS_JOBID",
    inherited=_INHERITED,
    kept=_KEPT,
    own_logs="${PBS_JOBID%%[*}",
)
"""Torque."""
