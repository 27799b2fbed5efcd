"""Checks of a batch system, from its commands to a call on a worker; each check needs those before it.

One of them submits a probe job: it has the directives of a worker's job, and runs the probe instead of the worker.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from amlsched.batch_systems import WORKER_SYSTEMS
from amlsched.batch_systems.commands import completed
from amlsched.doctor.findings import Finding, Verdict, first_call
from amlsched.doctor.host import compare
from amlsched.doctor.trial import Line, Trial, addresses, own_commands
from amlsched.errors import BatchSystemError, MaybeSubmittedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from amlsched.batch_systems import System

__all__ = ["ClusterExamination"]

OK, WARNING, FAULT, SKIPPED = Verdict.OK, Verdict.WARNING, Verdict.FAULT, Verdict.SKIPPED
_POLL_S = 0.3
_ASK_S = 2.0
_AFTERWARDS_S = 15.0  # how long a report in a file may take to become visible on a network file system
_COMPLAINTS = re.compile(
    r"not found|no such|error|fail|cannot|can't|unable|denied|invalid|unknown|unbound|illegal", re.IGNORECASE
)
_DEFAULTS: dict[str, Any] = {"cores": 1, "memory": "1 GB"}


class ClusterExamination:
    """The checks of a batch system: iterate over it to get the findings. After a fault, dependent checks are skipped.

    Args:
        name: Name of the executor, such as `slurm`.
        options: Arguments of its constructor, such as `with_slurm`; cores and memory are small by default.
        timeout_s: How long a job may take to start.

    Attributes:
        recommended: The options, completed by the findings; valid after the iteration.
    """

    def __init__(self, name: str, options: Mapping[str, Any], timeout_s: float) -> None:
        self._name = name
        self._system = WORKER_SYSTEMS[name]
        self._timeout_s = timeout_s
        self._options: dict[str, Any] = _DEFAULTS | ({"disk": "100 MB"} if name == "htcondor" else {}) | dict(options)
        self._faults: list[str] = []
        self.recommended: dict[str, Any] = {"n_workers": 1, **self._options}

    def __iter__(self) -> Iterator[Finding]:
        for check in (_commands, _queue, _account):
            yield self._noted(check(self._system, self._options))
        if self._faults:
            yield self._left_out("job")
            return
        for found in self._try_a_job():
            yield self._noted(found)
        yield _limits(self._system)
        if preemption := self._system.preemption(self._options.get("queue")):
            yield Finding("preempt", OK, preemption)
        if self._faults:
            yield self._left_out("worker")
            return
        options = {**self.recommended, "n_workers": 1, "start_timeout": self._timeout_s}
        yield first_call("worker", self._name, options, self._timeout_s)

    def _noted(self, found: Finding) -> Finding:
        if found.verdict is FAULT:
            self._faults.append(found.check)
        return found

    def _left_out(self, check: str) -> Finding:
        return Finding(check, SKIPPED, f"not before this is fixed: {', '.join(self._faults)}")

    def _try_a_job(self) -> Iterator[Finding]:
        if importlib.util.find_spec("dask_jobqueue") is None:
            remedy = "pip install 'amlsched[jobqueue]'\narrays (amlsched run CODE CONFIG -s) work without it"
            yield Finding("packages", FAULT, "workers in jobs need dask-jobqueue, which is not installed", remedy)
            return
        options = self._options
        wanted = options.get("interface")
        if wanted is not None and wanted not in addresses():
            here = ", ".join(f"{name} ({address})" for name, address in addresses().items())
            yield Finding("driver", FAULT, f"this host has no interface {wanted}", f"interface=… is one of: {here}")
            return
        scheduler: dict[str, Any] = options.get("scheduler_options") or {}
        try:
            listens = Line(wanted, int(scheduler.get("port") or 0))
        except OSError as error:
            remedy = "another program uses the port: end it, or choose another in scheduler_options={'port': …}"
            text = f"port {scheduler.get('port')} of this host: {os.strerror(error.errno or 0)}"
            yield Finding("driver", FAULT, text, remedy)
            return
        with listens as line:
            try:
                trial = Trial(self._system, options, line)
            except OSError as error:
                remedy = "choose a folder with free space that you can write and the nodes see: log_directory=…"
                yield Finding("options", FAULT, f"log_directory: {error.filename}: {error.strerror}", remedy)
                return
            except (TypeError, ValueError) as error:
                yield Finding("options", FAULT, str(error))
                return
            try:
                yield from self._follow(trial, line)
            finally:
                trial.close()

    def _follow(self, trial: Trial, line: Line) -> Iterator[Finding]:
        try:
            trial.submit()
        except MaybeSubmittedError as error:
            yield Finding("job", FAULT, f"neither accepted nor rejected: {error.words}", error.remedy)
            return
        except BatchSystemError as error:
            yield Finding("job", FAULT, f"rejected: {error.words}", f"this was submitted:\n{trial.head}")
            return
        report, state = _awaited(trial, self._timeout_s)
        if report is None:
            yield _silent(trial, state, self._timeout_s)
            return
        waited = max(0.0, float(report["started"]) - trial.submitted)
        yield _started(f"{trial.id} started on {report['host']} after {waited:.1f} s", trial.complaints)
        yield from _requeue(self._system, report)
        wanted = self._options.get("interface")
        yield from compare(report, trial.shared, line.offered, wanted)
        if wanted is None and (interface := _usable(report, line)) is not None:
            self.recommended["interface"] = interface


# ---------------------------------------------------------------------------------------------- checks without a job
def _commands(system: System, options: Mapping[str, Any]) -> Finding:
    own = own_commands(system, options)
    wanted = [*(shlex.split(command)[0] for command in own), *system.needed]
    missing = [name for name in wanted if shutil.which(name) is None]
    if missing:
        remedy = (
            f"run this where jobs are submitted, such as on a login node; is {system.title} the batch system there?\n"
            "a site may want a module to be loaded first: module avail"
        )
        return Finding("commands", FAULT, f"not found: {', '.join(missing)}", remedy)
    lines = [line.strip() for line in _version(system).splitlines() if re.search(r"\d\.\d", line)]
    version = lines[0] if lines and len(lines[0]) < 100 else "version unknown"
    return Finding("commands", OK, f"{version}: {', '.join(wanted)}")


def _version(system: System) -> str:
    """What the command for the version prints: some print it to standard error, some fail."""
    try:
        done = completed(system.title, system.version)
    except BatchSystemError:
        return ""
    return done.stdout + done.stderr


def _queue(system: System, options: Mapping[str, Any]) -> Finding:
    wanted = options.get("queue")
    if system.queues is None:
        return Finding("queue", SKIPPED, f"{system.title} is not asked for its queues")
    if not shutil.which(system.needed[0]):
        return Finding("queue", SKIPPED, "the commands to list queues are missing")
    queues = system.queues()
    if not queues:
        return Finding("queue", WARNING, "the list of queues is not available")
    names = ", ".join(queues)
    if wanted is None:
        listed = "; ".join(f"{name}: {more}" if more else name for name, more in queues.items())
        return Finding("queue", OK, f"the default one; there are {listed}")
    unknown = [name for name in str(wanted).split(",") if name not in queues]
    if unknown:
        return Finding("queue", FAULT, f"there is no queue {', '.join(unknown)}", f"queue=… is one of: {names}")
    return Finding("queue", OK, f"{wanted}: {queues.get(str(wanted)) or 'exists'}")


def _account(system: System, options: Mapping[str, Any]) -> Finding:
    wanted = options.get("account")
    accounts = system.accounts()
    if accounts is None:
        detail = f"{system.title} keeps no list of accounts here"
        return Finding("account", OK, detail if wanted is None else f"{detail}: {wanted} is not checked")
    if wanted is None:
        return Finding("account", OK, f"the default one; yours are {', '.join(accounts) or 'none'}")
    if wanted not in accounts:
        remedy = f"account=… is one of: {', '.join(accounts) or 'none; ask for one'}"
        return Finding("account", FAULT, f"you have no account {wanted}", remedy)
    return Finding("account", OK, str(wanted))


def _limits(system: System) -> Finding:
    limits = system.limits()
    if not limits:
        return Finding("limits", SKIPPED, f"{system.title} tells of none")
    return Finding("limits", OK, ", ".join(f"{name} {value}" for name, value in limits.items()))


# ------------------------------------------------------------------------------------------- checks with a small job
def _awaited(trial: Trial, timeout_s: float) -> tuple[dict[str, Any] | None, str]:
    """The report, and the last state of the job in the batch system's words."""
    deadline = time.monotonic() + timeout_s
    asked, state, over = 0.0, "", None
    while (report := trial.report()) is None:
        now = time.monotonic()
        if now > deadline or (over is not None and (trial.failed or now > over + _AFTERWARDS_S)):
            return trial.report(), state
        if now > asked + _ASK_S and over is None:
            ended, state = trial.state()
            asked = time.monotonic()
            over = asked if ended else None
        time.sleep(_POLL_S)
    return report, state


def _started(text: str, printed: str) -> Finding:
    """The job ran its prologue and the probe. Complaints of the prologue may not have ended it."""
    if not printed:
        return Finding("job", OK, text)
    text = f"{text}, and printed before Python:\n{printed}"
    if _COMPLAINTS.search(printed) is None:
        return Finding("job", OK, text)
    remedy = "a command of job_script_prologue=[…] (sh_lines of a config) failed, and the job went on: correct it"
    return Finding("job", WARNING, text, remedy)


def _requeue(system: System, report: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether a job has the command with which an element of an array requeues itself."""
    for command, path in report.get("commands", {}).items():
        if path is None:
            remedy = f"ask for {command} on the nodes, or in the container; workers do not need it"
            text = f"{report['host']} has no {command}: an element of an array (-s) cannot requeue itself there"
            yield Finding("requeue", WARNING, text, remedy)
        else:
            yield Finding("requeue", OK, f"{command} is in the job: elements of arrays can requeue themselves")


def _silent(trial: Trial, state: str, timeout_s: float) -> Finding:
    log = trial.log()
    printed = f":\n{log}" if log else ", and printed nothing"
    if trial.reached_python:
        remedy = "set the Python of jobs with python=…, and commands to run before it with job_script_prologue=[…]"
        return Finding("job", FAULT, f"{trial.id} ran, but its Python program failed{printed}", remedy)
    if trial.exit_code is not None:
        remedy = "correct job_script_prologue=[…] (sh_lines of a config): workers run it too"
        text = f"{trial.id} ran, but its prologue exited with code {trial.exit_code} before Python{printed}"
        return Finding("job", FAULT, text, remedy)
    if trial.began and not trial.state()[0]:
        remedy = "a command of job_script_prologue=[…] does not end: correct it, or wait longer with --timeout"
        text = f"{trial.id} started, but its prologue did not end within {timeout_s:g} s ({state}){printed}"
        return Finding("job", FAULT, text, remedy)
    if trial.began:
        remedy = "see its output; was it killed, or does job_script_prologue=[…] run another program by exec?"
        return Finding("job", FAULT, f"{trial.id} ended ({state}) in its prologue, before Python{printed}", remedy)
    if not trial.state()[0]:
        remedy = "request less (cores, memory, walltime), or another queue; or wait longer with --timeout"
        return Finding("job", FAULT, f"{trial.id} did not start within {timeout_s:g} s ({state})", remedy)
    remedy = f"do {trial.shared} and {sys.executable} exist on the nodes? May nodes connect to this host?"
    return Finding("job", FAULT, f"{trial.id} ended ({state}) without a report", remedy)


def _usable(report: Mapping[str, Any], line: Line) -> str | None:
    """The interface to use: one that the job reached and that its node has as well, where dask needs it."""
    reached = [name for name, *_ in line.offered if "error" not in report["reached"].get(name, {"error": ""})]
    return next((name for name in reached if name in report["interfaces"]), None)
