"""Examines a batch system, from its commands to a call on a worker; each check needs those before it."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from amlsched.doctor.compare import compare
from amlsched.doctor.finding import Finding, Verdict
from amlsched.doctor.first_call import first_call
from amlsched.doctor.line import Line, addresses
from amlsched.doctor.site import SITES, Site, said
from amlsched.doctor.trial import Trial
from amlsched.errors import BatchSystemError
from amlsched.executors._queues import QUEUES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from amlsched.executors._queues import Queue

__all__ = ["ClusterExamination"]

OK, WARNING, FAULT, SKIPPED = Verdict.OK, Verdict.WARNING, Verdict.FAULT, Verdict.SKIPPED
_POLL_S = 0.3
_ASK_S = 2.0
_AFTERWARDS_S = 15.0  # a report in a file may take so long to be seen over a network file system
_DEFAULTS: dict[str, Any] = {"cores": 1, "memory": "1 GB"}


class ClusterExamination:
    """The checks of a batch system: iterate over it for the findings. After a fault, what depends on it is left out.

    Args:
        name: Of the executor, such as `slurm`.
        options: What `with_slurm` or its sister would be given; cores and memory are small by default.
        timeout_s: How long a job may take to start.

    Attributes:
        recommended: The options with what was found out; of use once the iteration is over.
    """

    def __init__(self, name: str, options: Mapping[str, Any], timeout_s: float) -> None:
        self._name = name
        self._queue = QUEUES[name]
        self._site = SITES[name]
        self._timeout_s = timeout_s
        self._options: dict[str, Any] = _DEFAULTS | ({"disk": "100 MB"} if name == "htcondor" else {}) | dict(options)
        self._faults: list[str] = []
        self.recommended: dict[str, Any] = {"n_workers": 1, **self._options}

    def __iter__(self) -> Iterator[Finding]:
        for check in (_commands, _queue, _account):
            yield self._noted(check(self._queue, self._site, self._options))
        if self._faults:
            yield self._left_out("job")
            return
        for found in self._try_a_job():
            yield self._noted(found)
        yield _limits(self._queue, self._site)
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
        return Finding(check, SKIPPED, f"not before this is put right: {', '.join(self._faults)}")

    def _try_a_job(self) -> Iterator[Finding]:
        options = self._options
        wanted = options.get("interface")
        if wanted is not None and wanted not in addresses():
            here = ", ".join(f"{name} ({address})" for name, address in addresses().items())
            yield Finding("driver", FAULT, f"this host has no interface {wanted}", f"interface=… is one of: {here}")
            return
        scheduler: dict[str, Any] = options.get("scheduler_options") or {}
        with Line(wanted, int(scheduler.get("port") or 0)) as line:
            try:
                trial = Trial(self._queue, self._site.quiet, options, line)
            except (TypeError, ValueError, OSError) as error:
                yield Finding("options", FAULT, str(error))
                return
            try:
                yield from self._follow(trial, line)
            finally:
                trial.close()

    def _follow(self, trial: Trial, line: Line) -> Iterator[Finding]:
        try:
            trial.submit()
        except BatchSystemError as error:
            yield Finding("job", FAULT, f"refused: {error.words}", f"this was submitted:\n{trial.head}")
            return
        report, state = _awaited(trial, self._timeout_s)
        if report is None:
            yield _silent(trial, state, self._timeout_s)
            return
        waited = max(0.0, float(report["started"]) - trial.submitted)
        yield Finding("job", OK, f"{trial.id} started on {report['host']} after {waited:.1f} s")
        wanted = self._options.get("interface")
        yield from compare(report, trial.shared, line.offered, wanted)
        if wanted is None and (interface := _usable(report, line)) is not None:
            self.recommended["interface"] = interface


# -------------------------------------------------------------------------------------------- without any job so far


def _commands(queue: Queue, site: Site, options: Mapping[str, Any]) -> Finding:
    own = options.get("submit_command") or queue.submit, options.get("cancel_command") or queue.cancel
    wanted = [*(shlex.split(command)[0] for command in own), *site.commands]
    missing = [name for name in wanted if shutil.which(name) is None]
    if missing:
        remedy = (
            f"run this where jobs are submitted, such as on a login node; is {queue.title} the batch system there?\n"
            "a site may want a module to be loaded first: module avail"
        )
        return Finding("commands", FAULT, f"not found: {', '.join(missing)}", remedy)
    lines = [line.strip() for line in said(*site.version, complaints=True).splitlines() if re.search(r"\d\.\d", line)]
    version = lines[0] if lines and len(lines[0]) < 100 else "version unknown"
    return Finding("commands", OK, f"{version}: {', '.join(wanted)}")


def _queue(queue: Queue, site: Site, options: Mapping[str, Any]) -> Finding:
    wanted = options.get("queue")
    if site.queues is None:
        return Finding("queue", SKIPPED, f"{queue.title} is not asked for its queues")
    if not shutil.which(site.commands[0]):
        return Finding("queue", SKIPPED, "no commands to ask with")
    queues = site.queues()
    if not queues:
        return Finding("queue", WARNING, "the list of queues could not be had")
    names = ", ".join(queues)
    if wanted is None:
        told = "; ".join(f"{name}: {more}" if more else name for name, more in queues.items())
        return Finding("queue", OK, f"the default one; there are {told}")
    unknown = [name for name in str(wanted).split(",") if name not in queues]
    if unknown:
        return Finding("queue", FAULT, f"there is no queue {', '.join(unknown)}", f"queue=… is one of: {names}")
    return Finding("queue", OK, f"{wanted}: {queues.get(str(wanted)) or 'is there'}")


def _account(queue: Queue, site: Site, options: Mapping[str, Any]) -> Finding:
    wanted = options.get("account")
    accounts = site.accounts()
    if accounts is None:
        told = f"{queue.title} keeps no list of accounts here"
        return Finding("account", OK, told if wanted is None else f"{told}: {wanted} is not checked")
    if wanted is None:
        return Finding("account", OK, f"the default one; yours are {', '.join(accounts) or 'none'}")
    if wanted not in accounts:
        remedy = f"account=… is one of: {', '.join(accounts) or 'none; ask for one'}"
        return Finding("account", FAULT, f"you have no account {wanted}", remedy)
    return Finding("account", OK, str(wanted))


def _limits(queue: Queue, site: Site) -> Finding:
    limits = site.limits()
    if not limits:
        return Finding("limits", SKIPPED, f"{queue.title} tells of none")
    return Finding("limits", OK, ", ".join(f"{name} {value}" for name, value in limits.items()))


# -------------------------------------------------------------------------------------------------- with a small job


def _awaited(trial: Trial, timeout_s: float) -> tuple[dict[str, Any] | None, str]:
    """The report, and what the batch system said last."""
    deadline = time.monotonic() + timeout_s
    asked, told, over = 0.0, "", None
    while (report := trial.report()) is None:
        now = time.monotonic()
        if now > deadline or (over is not None and (trial.failed or now > over + _AFTERWARDS_S)):
            return trial.report(), told
        if now > asked + _ASK_S and over is None:
            ended, told = trial.state()
            asked = time.monotonic()
            over = asked if ended else None
        time.sleep(_POLL_S)
    return report, told


def _silent(trial: Trial, state: str, timeout_s: float) -> Finding:
    if log := trial.log():
        remedy = "the Python of jobs is set with python=…, what runs before it with job_script_prologue=[…]"
        return Finding("job", FAULT, f"{trial.id} ran, but its Python did not get far:\n{log}", remedy)
    if not trial.state()[0]:
        remedy = "ask for less (cores, memory, walltime), or in another queue; --timeout waits for longer"
        return Finding("job", FAULT, f"{trial.id} did not start within {timeout_s:g} s ({state})", remedy)
    remedy = f"is {trial.shared} there on the nodes? Is {sys.executable}? May nodes connect to this host?"
    return Finding("job", FAULT, f"{trial.id} ended ({state}), and nothing was heard of it", remedy)


def _usable(report: Mapping[str, Any], line: Line) -> str | None:
    """The interface to name: one that the job reached, and that it has as well, since dask looks there for it."""
    reached = [name for name, *_ in line.offered if "error" not in report["reached"].get(name, {"error": ""})]
    return next((name for name in reached if name in report["interfaces"]), None)


# --------------------------------------------------------------------------------------------- the thing as a whole
