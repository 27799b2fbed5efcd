"""The probe job of the doctor, and where it reports to.

It is the job of a worker, with its directives and its prologue, that runs the probe instead of the worker.
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
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from amlsched.batch_systems import Stage
from amlsched.batch_systems.commands import find, run
from amlsched.doctor import probe
from amlsched.errors import BatchSystemError
from amlsched.executors.jobqueue import job_class, job_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from amlsched.batch_systems import System

__all__ = ["Line", "Trial", "addresses", "own_commands"]

_OURS = ("n_workers", "adaptive", "start_timeout", "security", "native_threads", "submit_command", "cancel_command")
_WITH = "import base64,sys,zlib;exec(zlib.decompress(base64.b64decode(sys.argv.pop(1))))"
_PYTHON, _FAILED = "the probe begins", "the probe failed"
_ENDED = "ended"
_LOG_END = 1500
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
            commands = own_commands(system, options)
            self._job: Any = job_class(system, *commands)("tcp://127.0.0.1:0", "doctor", **given)
        except BaseException:
            self.close()
            raise
        self._job.set_prologue([*self._capture(), *given["job_script_prologue"]])
        self._job.set_command(self._command(given["python"]))
        # The job itself keeps its output, as the folder for logs may be the problem.
        self._job.submit_command = " ".join([self._job.submit_command, *system.quiet])

    def _capture(self) -> list[str]:
        """What the job does first: it keeps its output, and how it ends, in the folder, if that is there."""
        log, ended = (shlex.quote(str(self.folder / name)) for name in ("log", _ENDED))
        folder = shlex.quote(str(self.folder))
        return [f"test -w {folder} && exec > {log} 2>&1", f"trap 'echo $? > '{shlex.quote(ended)} 0"]

    def _command(self, python: str) -> str:
        asked = {
            "token": self._line.token,
            "addresses": self._line.offered,
            "folder": str(self.folder),
            "project": str(Path.cwd()),
            "commands": self._system.requeue_command[:1],
        }
        text = zlib.compress(inspect.getsource(probe).encode(), 9)
        words = [_WITH, _coded(text), _coded(json.dumps(asked).encode())]
        run = " ".join([python, "-c", *(f'"{word}"' for word in words)])
        return f"echo {_PYTHON}; {run} || echo {_FAILED}"

    @property
    def script(self) -> str:
        """The script or description of the job."""
        return str(self._job.job_script())

    @property
    def head(self) -> str:
        """The directives of the script."""
        return re.split(r"^test -w |^Arguments", self.script, flags=re.MULTILINE)[0].strip()

    def submit(self) -> str:
        """Submit the job and return its id.

        Raises:
            BatchSystemError: The batch system rejected it.
        """
        with self._job.job_file() as path:  # like those of workers
            self.id = str(asyncio.run(self._job._submit_job(path)))
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
        """The end of the job's output, from its first line on; or of the probe's, once that has begun."""
        before, _, after = self._output()
        return (after or before)[-_LOG_END:].strip()

    @property
    def complaints(self) -> str:
        """The end of what its prologue printed."""
        return self._output()[0][-_LOG_END:].strip()

    def _output(self) -> tuple[str, str, str]:
        text = self._read("log").replace(f"\n{_FAILED}\n", "\n")
        before, begun, after = f"\n{text}".partition(f"\n{_PYTHON}\n")
        lines = (line for line in before.splitlines() if _PYTHON not in line)  # as `set -x` shows it
        return "\n".join(lines), begun, after

    @property
    def began(self) -> bool:
        """Whether the job has begun, in a folder that it sees."""
        return (self.folder / "log").exists()

    @property
    def reached_python(self) -> bool:
        """Whether it has run its prologue to the end."""
        return bool(self._output()[1])

    @property
    def exit_code(self) -> int | None:
        """The code with which its shell exited; `None` so far, or if it was killed."""
        found = self._read(_ENDED).strip()
        return int(found) if found.isdecimal() else None

    @property
    def failed(self) -> bool:
        """Whether the job has ended without a report."""
        return self.exit_code is not None

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        """Cancel the job and remove its folder."""
        if self.id is not None:
            with contextlib.suppress(BatchSystemError):  # it has ended
                asyncio.run(self._job._close_job(self.id, self._job.cancel_command))
        elif any(self._job.submissions.unclear.values()):
            with contextlib.suppress(BatchSystemError):
                for job in find(self._system, self._job.submissions.run):
                    asyncio.run(self._job._close_job(self._system.job_id(job), self._job.cancel_command))
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._made_shared:
            with contextlib.suppress(OSError):  # it is in use by now
                self.shared.rmdir()


def own_commands(system: System, options: Mapping[str, Any]) -> tuple[str, str]:
    """The commands that submit and cancel."""
    return (
        options.get("submit_command") or system.submit[0],
        options.get("cancel_command") or system.cancel_command,
    )


def _coded(data: bytes) -> str:
    return base64.b64encode(data).decode()
