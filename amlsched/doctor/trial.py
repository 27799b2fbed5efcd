"""A job that the doctor submits: with the header of a worker's job, and the probe in the worker's place."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
import shlex
import shutil
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.arrays import Stage
from amlsched.doctor import probe
from amlsched.errors import BatchSystemError
from amlsched.executors._jobqueue_cluster import call, job_class
from amlsched.executors._jobqueue_settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from amlsched.doctor.line import Line
    from amlsched.executors._queues import Queue

__all__ = ["Trial"]

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
