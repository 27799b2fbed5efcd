"""Examines a batch system, from its commands to a call on a worker; each check needs those before it.

What to ask each batch system about itself and about one job, and how to read what it says.

Sources:
    The manuals of Slurm 22.05, Grid Engine 8.1, Torque 6, HTCondor 23, LSF 10, Moab 9 and OAR 2.5.

A job that the doctor submits: with the header of a worker's job, and the probe in the worker's place.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._surroundings import user_name
from amlsched.batch_systems import Stage
from amlsched.batch_systems.queues import QUEUES
from amlsched.doctor import probe
from amlsched.doctor.examination import Finding, Line, Verdict, addresses, first_call
from amlsched.doctor.host import compare
from amlsched.errors import BatchSystemError
from amlsched.executors._jobqueue.dask_classes import call, job_class
from amlsched.executors._jobqueue.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from amlsched.batch_systems.queues import Queue
    from amlsched.doctor.examination import Line


__all__ = ["ClusterExamination", "SITES", "Site", "Trial", "said"]

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
_OURS = ("n_workers", "adaptive", "start_timeout", "security", "native_threads", "submit_command", "cancel_command")
_OF_CLUSTERS = ("asynchronous", "loop", "name", "scheduler_cls", "scheduler_options", "shared_temp_directory")
_NOT_OF_JOBS = frozenset((*_OURS, *_OF_CLUSTERS, "silence_logs"))
_WITH = "import base64,sys,zlib;exec(zlib.decompress(base64.b64decode(sys.argv.pop(1))))"
_FAILED = "the probe failed"
_LOG_END = 1500


class Trial:
    """One probe job.

    Args:
        queue: The batch system.
        quiet: Options of its submit command that keep a job from writing files of output.
        options: What `with_slurm` or its sister would be given.
        line: Where the probe reports to.

    Attributes:
        id: Of the job; `None` before it is submitted.
        submitted: When it was, in seconds since the epoch.
        shared: The folder that jobs should see: that of their logs and keys.
        folder: One of its own in there.

    Raises:
        TypeError: An option is unknown or wrong; so for a `ValueError`.
        OSError: There can be no such folder.
    """

    def __init__(self, queue: Queue, quiet: Sequence[str], options: Mapping[str, Any], line: Line) -> None:
        self._queue = queue
        self._line = line
        self.id: str | None = None
        self.submitted = 0.0
        of_jobs = {key: value for key, value in options.items() if key not in _NOT_OF_JOBS}
        given = settings(queue, of_jobs, options.get("native_threads", "auto"))
        self.shared = Path(given["log_directory"])
        self._made_shared = not self.shared.exists()
        self.shared.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=".amlsched-doctor-", dir=self.shared))
        try:
            (self.folder / "token").write_text(line.token)
            commands = options.get("submit_command") or queue.submit, options.get("cancel_command") or queue.cancel
            kept = {key: value for key, value in given.items() if key not in _NOT_OF_JOBS and value is not None}
            self._job: Any = job_class(queue, *commands)("tcp://127.0.0.1:0", "doctor", **kept)
        except BaseException:
            self.close()
            raise
        self._job.set_command(self._command(given["python"]))
        # What it prints is kept by the probe; the folder for logs may be the very thing that is wrong.
        self._job.submit_command = " ".join([self._job.submit_command, *quiet])

    def _command(self, python: str) -> str:
        asked = {
            "token": self._line.token,
            "addresses": self._line.offered,
            "folder": str(self.folder),
            "project": str(Path.cwd()),
        }
        text = zlib.compress(inspect.getsource(probe).encode(), 9)
        words = [_WITH, _coded(text), _coded(json.dumps(asked).encode())]
        log = shlex.quote(str(self.folder / "log"))
        run = " ".join([python, "-c", *(f'"{word}"' for word in words)])
        return f"test -w {shlex.quote(str(self.folder))} && exec > {log} 2>&1; {run} || echo {_FAILED}"

    @property
    def script(self) -> str:
        """The script, or the description, of the job."""
        return str(self._job.job_script())

    @property
    def head(self) -> str:
        """The script up to the probe."""
        return self.script.partition("test -w ")[0].strip()

    def submit(self) -> str:
        """Submit it.

        Returns:
            Its id.

        Raises:
            BatchSystemError: It was refused.
        """
        with self._job.job_file() as path:  # as those of workers
            said = asyncio.run(self._job._submit_job(path))
        try:
            self.id = str(self._job._job_id_from_submit_output(said))
        except ValueError as error:
            raise BatchSystemError(self._queue.title, str(self._job.submit_command), str(error)) from error
        self.submitted = time.time()
        return self.id

    def state(self) -> tuple[bool, str]:
        """Whether it has ended, and its state and the reason for that in the batch system's words."""
        assert self.id is not None
        words = self._queue.query([self.id])
        try:
            said = asyncio.run(call(self._queue.title, words, self._queue.environment()))
            found = self._queue.read(said).get(self.id)
        except (BatchSystemError, ValueError, SyntaxError):  # as some say of a job that they have forgotten
            found = None
        return (
            (True, "no longer in the queue")
            if found is None
            else (found.stage is Stage.ENDED, str(found.reason or found.stage))
        )

    def report(self) -> dict[str, Any] | None:
        """What the probe has reported so far, over the network or else in the folder."""
        if self._line.report is not None:
            return self._line.report
        try:
            report: dict[str, Any] = json.loads((self.folder / "report").read_text())
        except (OSError, ValueError):
            return None
        return report

    def log(self) -> str:
        """The end of what the job printed."""
        try:
            return (self.folder / "log").read_text(errors="replace")[-_LOG_END:].strip()
        except OSError:
            return ""

    @property
    def failed(self) -> bool:
        """Whether its Python is known to have failed."""
        return self.log().endswith(_FAILED)

    def close(self) -> None:
        """Cancel it and remove its folder."""
        if self.id is not None:
            with contextlib.suppress(BatchSystemError):  # it has ended
                asyncio.run(self._job._close_job(self.id, self._job.cancel_command))
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._made_shared:
            with contextlib.suppress(OSError):  # somebody else uses it by now
                self.shared.rmdir()


def _coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


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
