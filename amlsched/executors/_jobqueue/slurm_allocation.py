"""Workers on the nodes of the Slurm job of this program, started by srun without new jobs."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._checks import check_seconds, check_text, check_texts, check_whole
from amlsched.errors import BatchSystemError
from amlsched.executors._dask.clusters import NANNY, SETTINGS, ClusterProvider, check_memory, cluster_security
from amlsched.resources.binding import worker_environment, worker_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amlsched.resources.binding import WorkerThreads

__all__ = ["Allocation"]

_END_S = 10.0
_LOOK_S = 0.5
_LOG_LINES = 20


class Allocation(ClusterProvider):
    """One step of the job, with a worker as each of its tasks.

    Args:
        n_workers: Number of workers; `None` for the job's number of tasks.
        cpus: CPUs per worker; `None` for the job's `--cpus-per-task`.
        memory: Memory that each worker may use before dask restarts it, such as `"4 GB"`; `None` for no limit by dask.
        start_timeout: Seconds until the first worker must have started; `None` for no limit.
        security: `True` for TLS with keys created for these workers only; `False` for none; or a
            `distributed.Security` with files.
        log_directory: Folder for the log of the workers; `None` for a subfolder of the current one.
        srun: Further options of srun.
        native_threads: Number of threads that libraries start in each worker.
    """

    def __init__(
        self,
        n_workers: int | None,
        cpus: int | None,
        memory: str | None,
        start_timeout: float | None,
        security: Any,
        log_directory: str | None,
        srun: Sequence[str],
        native_threads: WorkerThreads,
    ) -> None:
        from amlsched.executors._jobqueue.settings import LOGS

        super().__init__()
        for name, value in (("n_workers", n_workers), ("cpus", cpus)):
            if value is not None:
                check_whole(name, value, 1, ", or None")
        check_memory("memory", memory)
        if start_timeout is not None:
            check_seconds("start_timeout", start_timeout, ", or None")
        check_text("log_directory", log_directory, "logs")
        check_texts("srun", srun, "--gpus-per-task=1")
        job = os.environ.get("SLURM_JOB_ID")
        if job is None:
            remedy = "run the program by sbatch or salloc, or use with_slurm, which submits jobs"
            raise BatchSystemError("Slurm", "srun", "this program is not running in a job", remedy)
        self.max_workers = n_workers or _number("SLURM_NTASKS") or _nodes()
        self._cpus = cpus or _number("SLURM_CPUS_PER_TASK") or 1
        self.cpus = float(self._cpus)
        self._memory, self._start_timeout, self._security = memory, start_timeout, security
        self._logs = Path(log_directory or LOGS).absolute()
        self._log = self._logs / f"workers-{job}-{os.getpid()}.log"
        self._srun = srun
        self._variables = worker_environment(worker_threads(native_threads, "native_threads"), self._cpus)
        self._cluster: Any = None
        self._client: Any = None
        self._step: subprocess.Popen[bytes] | None = None
        self._keys: tempfile.TemporaryDirectory[str] | None = None
        self._ending = threading.Event()

    @property
    def driver_host(self) -> str:
        """As of any provider."""
        from amlsched.batch_systems import WORKER_SYSTEMS
        from amlsched.executors._jobqueue.settings import driver_host

        return driver_host(WORKER_SYSTEMS["slurm"])

    def open(self, fail: Callable[[BaseException], None]) -> Any:
        distributed = importlib.import_module("distributed")
        self._logs.mkdir(parents=True, exist_ok=True)
        security = cluster_security(self._security)
        options: dict[str, Any] = {"host": self.driver_host, "dashboard_address": "127.0.0.1:0", "n_workers": 0}
        if self._security is not False:
            options.update(security=security, protocol="tls://")
        with importlib.import_module("dask").config.set(SETTINGS):
            self._cluster = distributed.LocalCluster(threads_per_worker=1, **options)
        self._client = distributed.Client(self._cluster, set_as_default=False)
        command = self._command(self._cluster.scheduler_address, security)
        with self._log.open("wb") as log:
            try:
                self._step = subprocess.Popen(
                    command,
                    env={**os.environ, **self._variables},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                self.close(at_once=True)
                raise BatchSystemError("Slurm", "srun", f"cannot be started: {error.strerror}") from error
        threading.Thread(target=self._look, args=(fail,), name="amlsched-srun", daemon=True).start()
        return self._client

    def close(self, at_once: bool) -> None:
        self._ending.set()
        if self._client is not None:
            self._client.close(timeout=_END_S)
        if self._cluster is not None:
            with contextlib.suppress(TimeoutError):
                self._cluster.close(timeout=_END_S)  # the workers exit with their scheduler
        if self._step is not None:
            self._end_step(self._step, 0.1 if at_once else 3.0)
        if self._keys is not None:
            self._keys.cleanup()

    def _command(self, address: str, security: Any) -> list[str]:
        words = ["srun", f"--ntasks={self.max_workers}", f"--cpus-per-task={self._cpus}", "--overlap", *self._srun]
        words += [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
        words += ["--preload-nanny", NANNY]
        words += ["--death-timeout", "60", "--local-directory", tempfile.gettempdir()]
        words += ["--memory-limit", "0" if self._memory is None else self._memory.replace(" ", "")]
        return words + self._key_words(security)

    def _key_words(self, security: Any) -> list[str]:
        """Options for the keys of a worker; keys in memory are written to files that only the user can read."""
        if security is None:
            return []
        self._keys = tempfile.TemporaryDirectory(prefix=".keys-", dir=self._logs, ignore_cleanup_errors=True)
        words: list[str] = []
        for name, value in security.get_tls_config_for_role("worker").items():
            if name == "ciphers" or value is None:
                continue
            place = value
            if "\n" in value:
                path = Path(self._keys.name) / name
                path.touch(0o600)
                path.write_text(value, encoding="ascii")
                place = str(path)
            words += [f"--tls-{name.replace('_', '-')}", place]
        return words

    def _look(self, fail: Callable[[BaseException], None]) -> None:
        """Report if the step ends too early, or no worker starts in time."""
        assert self._step is not None
        began = time.monotonic()
        came = False
        while not self._ending.wait(_LOOK_S):
            came = came or bool(self._cluster.scheduler.workers)
            code = self._step.poll()
            if code is not None:
                fail(BatchSystemError("Slurm", "srun", f"ended with exit code {code}{self._tail()}"))
                return
            if not came and self._start_timeout is not None and time.monotonic() - began > self._start_timeout:
                words = f"no worker came within {self._start_timeout:g} s{self._tail()}"
                fail(BatchSystemError("Slurm", "srun", words, "is the job as large as n_workers needs?"))
                return

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        return f"; the end of {self._log}:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""

    def _end_step(self, step: subprocess.Popen[bytes], patience_s: float) -> None:
        for end in (None, step.terminate, step.kill):
            if end is not None:
                end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                step.wait(patience_s)
                return
            patience_s = _END_S / 2


def _number(name: str) -> int:
    """The value of a variable set by Slurm; 0 if it is not set."""
    text = os.environ.get(name) or "0"
    if not (text.isdecimal() and text.isascii()) or len(text) > 9:
        raise ValueError(f"the environment variable {name} is {text[:40]!r}, but Slurm sets it to a whole number")
    return int(text)


def _nodes() -> int:
    found = re.match(r"\d+", os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    return int(found[0]) if found else 1
