"""Checks of a batch system, from its commands to a call on a worker; each check needs those before it.

One of them submits a probe job: it has the directives of a worker's job, and runs the probe instead of the worker.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import importlib
import inspect
import ipaddress
import json
import re
import secrets
import selectors
import shlex
import shutil
import socket
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from amlsched.batch_systems import WORKER_SYSTEMS, Stage
from amlsched.batch_systems.commands import completed, run
from amlsched.doctor import probe
from amlsched.doctor.findings import Finding, Verdict, first_call
from amlsched.doctor.host import compare
from amlsched.errors import BatchSystemError
from amlsched.executors.jobqueue import job_class, job_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from amlsched.batch_systems import System

__all__ = ["ClusterExamination", "Line", "Trial", "addresses"]

_OURS = ("n_workers", "adaptive", "start_timeout", "security", "native_threads", "submit_command", "cancel_command")
_WITH = "import base64,sys,zlib;exec(zlib.decompress(base64.b64decode(sys.argv.pop(1))))"
_FAILED = "the probe failed"
_LOG_END = 1500
OK, WARNING, FAULT, SKIPPED = Verdict.OK, Verdict.WARNING, Verdict.FAULT, Verdict.SKIPPED
_POLL_S = 0.3
_ASK_S = 2.0
_AFTERWARDS_S = 15.0  # how long a report in a file may take to become visible on a network file system
_DEFAULTS: dict[str, Any] = {"cores": 1, "memory": "1 GB"}
_LONGEST = 4 * 2**20
_MOST = 8
_ANSWER_S = 10.0


def addresses() -> dict[str, str]:
    """The IPv4 addresses of this host by interface, with loopback last."""
    psutil: Any = importlib.import_module("psutil")  # distributed needs it

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found: dict[str, str] = {}
    for name, kinds in psutil.net_if_addrs().items():
        for one in kinds:
            if one.family == socket.AF_INET and name in up:
                found.setdefault(name, one.address)
    return dict(sorted(found.items(), key=lambda item: ipaddress.ip_address(item[1]).is_loopback))


class Line:
    """Listens for a probe. A client without the token gets no answer.

    Args:
        wanted: The interface that workers should use; `None` for any.
        port: The port to listen on; 0 for a free one.
    """

    def __init__(self, wanted: str | None = None, port: int = 0) -> None:
        self.token = secrets.token_hex(16)
        self.report: dict[str, Any] | None = None
        self.sockets: dict[str, socket.socket] = {}
        self._known = addresses()
        first = {wanted: self._known[wanted]} if wanted in self._known else {}
        for name, address in list((first | self._known).items())[:_MOST]:
            self.sockets[name] = socket.create_server((address, port), backlog=16)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="doctor", daemon=True)

    @property
    def offered(self) -> list[tuple[str, str, int]]:
        """Interface, address and port of each socket."""
        return [(name, *one.getsockname()[:2]) for name, one in self.sockets.items()]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake.close()
        self._thread.join()
        self._woken.close()
        for one in self.sockets.values():
            one.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in (*self.sockets.values(), self._woken):
                selector.register(one, selectors.EVENT_READ, one)
            while True:
                for key, _ in selector.select():
                    ready: socket.socket = key.data
                    if ready is self._woken:
                        return
                    caller, _ = ready.accept()
                    with caller:
                        self._answer(caller)

    def _answer(self, caller: socket.socket) -> None:
        heard = bytearray()
        deadline = time.monotonic() + _ANSWER_S
        try:
            while not heard.endswith(b"\n"):
                caller.settimeout(max(0.01, deadline - time.monotonic()))
                part = caller.recv(65536)
                if not part or len(heard) > _LONGEST or time.monotonic() > deadline:
                    return
                heard += part
            said: dict[str, Any] = json.loads(heard)
            if not hmac.compare_digest(str(said["token"]).encode(), self.token.encode()):
                return
            self.report = said.get("report") or self.report
            caller.sendall(json.dumps({"time": time.time()}).encode() + b"\n")
        except (OSError, ValueError, KeyError, TypeError):
            return


class Trial:
    """The probe job.

    Args:
        system: The batch system.
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

    def __init__(self, system: System, options: Mapping[str, Any], line: Line) -> None:
        self._system = system
        self._line = line
        self.id: str | None = None
        self.submitted = 0.0
        theirs = {key: value for key, value in options.items() if key not in _OURS}
        given = job_settings(system, theirs, options.get("native_threads", "auto"))
        self.shared = Path(given["log_directory"])
        self._made_shared = not self.shared.exists()
        self.shared.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=".amlsched-doctor-", dir=self.shared))
        try:
            (self.folder / "token").write_text(line.token)
            commands = _own_commands(system, options)
            self._job: Any = job_class(system, *commands)("tcp://127.0.0.1:0", "doctor", **given)
        except BaseException:
            self.close()
            raise
        self._job.set_command(self._command(given["python"]))
        # The probe itself keeps the output, as the folder for logs may be the problem.
        self._job.submit_command = " ".join([self._job.submit_command, *system.quiet])

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
        """The script or description of the job."""
        return str(self._job.job_script())

    @property
    def head(self) -> str:
        """The script up to the probe."""
        return self.script.partition("test -w ")[0].strip()

    def submit(self) -> str:
        """Submit the job and return its id.

        Raises:
            BatchSystemError: The batch system rejected it.
        """
        with self._job.job_file() as path:  # like those of workers
            said = asyncio.run(self._job._submit_job(path))
        try:
            self.id = str(self._job._job_id_from_submit_output(said))
        except ValueError as error:
            raise BatchSystemError(self._system.title, str(self._job.submit_command), str(error)) from error
        self.submitted = time.time()
        return self.id

    def state(self) -> tuple[bool, str]:
        """Whether it has ended, and its state and reason in the batch system's words."""
        assert self.id is not None
        try:
            text = run(self._system, self._system.job_query([self.id]))
            found = self._system.job_states(text).get(self.id)
        except (BatchSystemError, ValueError, SyntaxError):  # some fail for a job that they have forgotten
            found = None
        if found is None:
            return True, "no longer in the queue"
        return found.stage is Stage.ENDED, found.reason or str(found.stage)

    def report(self) -> dict[str, Any] | None:
        """The report of the probe, over the network or in the folder; `None` so far."""
        if self._line.report is not None:
            return self._line.report
        try:
            report: dict[str, Any] = json.loads((self.folder / "report").read_text())
        except (OSError, ValueError):
            return None
        return report

    def log(self) -> str:
        """The end of the job's output."""
        try:
            return (self.folder / "log").read_text(errors="replace")[-_LOG_END:].strip()
        except OSError:
            return ""

    @property
    def failed(self) -> bool:
        """Whether the probe has failed."""
        return self.log().endswith(_FAILED)

    def close(self) -> None:
        """Cancel the job and remove its folder."""
        if self.id is not None:
            with contextlib.suppress(BatchSystemError):  # it has ended
                asyncio.run(self._job._close_job(self.id, self._job.cancel_command))
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._made_shared:
            with contextlib.suppress(OSError):  # it is in use by now
                self.shared.rmdir()


def _coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


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
        options = self._options
        wanted = options.get("interface")
        if wanted is not None and wanted not in addresses():
            here = ", ".join(f"{name} ({address})" for name, address in addresses().items())
            yield Finding("driver", FAULT, f"this host has no interface {wanted}", f"interface=… is one of: {here}")
            return
        scheduler: dict[str, Any] = options.get("scheduler_options") or {}
        with Line(wanted, int(scheduler.get("port") or 0)) as line:
            try:
                trial = Trial(self._system, options, line)
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
            yield Finding("job", FAULT, f"rejected: {error.words}", f"this was submitted:\n{trial.head}")
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


# ---------------------------------------------------------------------------------------------- checks without a job
def _commands(system: System, options: Mapping[str, Any]) -> Finding:
    own = _own_commands(system, options)
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


def _own_commands(system: System, options: Mapping[str, Any]) -> tuple[str, str]:
    """The commands that submit and cancel."""
    return (
        options.get("submit_command") or system.submit[0],
        options.get("cancel_command") or system.cancel_command,
    )


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


def _silent(trial: Trial, state: str, timeout_s: float) -> Finding:
    if log := trial.log():
        remedy = "set the Python of jobs with python=…, and commands to run before it with job_script_prologue=[…]"
        return Finding("job", FAULT, f"{trial.id} ran, but its Python program failed:\n{log}", remedy)
    if not trial.state()[0]:
        remedy = "request less (cores, memory, walltime), or another queue; or wait longer with --timeout"
        return Finding("job", FAULT, f"{trial.id} did not start within {timeout_s:g} s ({state})", remedy)
    remedy = f"do {trial.shared} and {sys.executable} exist on the nodes? May nodes connect to this host?"
    return Finding("job", FAULT, f"{trial.id} ended ({state}) without a report", remedy)


def _usable(report: Mapping[str, Any], line: Line) -> str | None:
    """The interface to use: one that the job reached and that its node has as well, where dask needs it."""
    reached = [name for name, *_ in line.offered if "error" not in report["reached"].get(name, {"error": ""})]
    return next((name for name in reached if name in report["interfaces"]), None)
