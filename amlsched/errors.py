"""Every error that amlsched raises.

    AmlschedError
    ├── ConfigError (ValueError)               an experiment file is wrong at a known place
    ├── ExperimentError (ValueError)           an experiment class or a results folder cannot be used
    ├── CodeCopyError (ValueError)             a copy of the code cannot be made, or a job does not run from it
    ├── ResourcesError (ValueError)            there are fewer CPUs or GPUs than somebody asks for
    ├── ResultsNotWritableError (RuntimeError) the disk is full, or read-only: nothing was lost
    ├── EventNotKnownError (ValueError)        a name that no event of this emitter has
    ├── CallbackError (TypeError)              a callback cannot be called with what its event gives
    ├── SchedulerNotRunningError (RuntimeError)
    ├── CallRefusedError (RuntimeError)        a plugin refused a call that somebody wants to await
    ├── BatchSystemError (RuntimeError)        a command of the batch system failed
    ├── CommError (RuntimeError)               the channel between a call and its driver cannot be used
    ├── CallAbortedError                       a call raised what is no Exception, such as SystemExit
    ├── LimitError                             a call was ended because it passed one of its limits
    │   ├── CpuTimeLimitError (TimeoutError)   of CPU time
    │   ├── MemoryLimitError (MemoryError)     of memory
    │   └── WalltimeLimitError (TimeoutError)  of time
    ├── NotPicklableError (TypeError)          something cannot travel to a worker or back
    ├── MissingExtraError (ImportError)        an optional package is needed
    ├── ImportFailedError (ImportError)        an optional package is there, and its import raises
    └── WorkerLostError (BrokenExecutor)       the place failed, not the work
        ├── WorkerKilledError                  by a signal
        ├── WorkerExitedError                  by its own exit
        ├── WorkerOutOfMemoryError             there was no memory left: the kernel or the batch system ended it
        ├── WorkerStartError                   it never came up
        ├── PoolBrokenError                    another call may have done it: all that the pool had is lost
        └── JobLostError                       with its job of the batch system
            ├── JobCancelledError              somebody cancelled the job
            ├── JobWalltimeError               the job reached its time limit
            ├── NodeLostError                  its host failed
            └── PreemptedError                 the job had to make room for another
    ExperimentSurrender (Exception)            not an error: an experiment ends itself early

An error is built from positional arguments, so that it can cross processes, and keeps them as attributes.
"""

from concurrent.futures import BrokenExecutor
from signal import Signals
from typing import Any

__all__ = [
    "AmlschedError",
    "BatchSystemError",
    "CallAbortedError",
    "CallRefusedError",
    "CallbackError",
    "CodeCopyError",
    "CommError",
    "ConfigError",
    "CpuTimeLimitError",
    "EventNotKnownError",
    "ExperimentError",
    "ExperimentSurrender",
    "ImportFailedError",
    "JobCancelledError",
    "JobLostError",
    "JobWalltimeError",
    "LimitError",
    "MemoryLimitError",
    "MissingExtraError",
    "NodeLostError",
    "NotPicklableError",
    "PoolBrokenError",
    "PreemptedError",
    "ResourcesError",
    "ResultsNotWritableError",
    "SchedulerNotRunningError",
    "WalltimeLimitError",
    "WorkerExitedError",
    "WorkerKilledError",
    "WorkerLostError",
    "WorkerOutOfMemoryError",
    "WorkerStartError",
]


class AmlschedError(Exception):
    """The parent of all errors that amlsched raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # As any exception does. That it stands here keeps tblib, which dask has pickle exceptions, from leaving
        # `__init__` out.
        return type(self), self.args, self.__dict__


class _ProblemError(AmlschedError):
    """What is wrong, where, and what to do about it."""

    def __init__(self, where: str, problem: str, remedy: str = "") -> None:
        super().__init__(where, problem, remedy)
        self.where, self.problem, self.remedy = where, problem, remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f" ({self.remedy})" if self.remedy else "")


class ConfigError(_ProblemError, ValueError):
    """An experiment file is wrong at a known place.

    Args:
        where: File, and as far as known line, document and key.
        problem: What is wrong there, with the value.
        remedy: What to write instead.
    """


class ExperimentError(_ProblemError, ValueError):
    """An experiment class, a target on the command line or a results folder cannot be used.

    Args:
        where: The class, the target or the folder.
        problem: What is wrong with it.
        remedy: What to do about it.
    """


class CodeCopyError(_ProblemError, ValueError):
    """A copy of the code cannot be made, or a job does not run from the copy that was made for it.

    Args:
        where: The folder.
        problem: What is wrong with it.
        remedy: What to do about it.
    """


class ResourcesError(_ProblemError, ValueError):
    """There are fewer CPUs or GPUs than somebody asks for, or they cannot be divided.

    Args:
        where: Who asks.
        problem: For what, and what there is.
        remedy: What to do about it.
    """


class ResultsNotWritableError(_ProblemError, RuntimeError):
    """The disk with the results is full, or read-only. What was written before is whole.

    Args:
        where: The file or the folder.
        problem: What the operating system says.
        remedy: What to do about it.
    """


class EventNotKnownError(AmlschedError, ValueError):
    """No event of this name can be emitted here.

    Args:
        name: The name asked for.
        emitter: Whose events were searched.
        known: The names that exist there.
    """

    def __init__(self, name: str, emitter: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(name, emitter, known)
        self.name, self.emitter, self.known = name, emitter, known

    def __str__(self) -> str:
        return f"{self.emitter} has no event {self.name!r}; it has: {', '.join(self.known) or 'none'}"


class CallbackError(AmlschedError, TypeError):
    """A callback cannot be called with the arguments that its event gives.

    Args:
        callback: Name of the callback.
        event: Name of the event.
        problem: Why the call cannot work.
    """

    def __init__(self, callback: str, event: str, problem: str) -> None:
        super().__init__(callback, event, problem)
        self.callback, self.event, self.problem = callback, event, problem

    def __str__(self) -> str:
        return f"{self.callback} cannot be a callback of {self.event!r}: {self.problem}"


class SchedulerNotRunningError(AmlschedError, RuntimeError):
    """A call was submitted to a scheduler that takes none: before `run()`, or once the run is ending."""


class CallRefusedError(AmlschedError, RuntimeError):
    """A plugin refused a call that was to be awaited.

    Args:
        task: The task.
        plugins: Names of its plugins.
    """

    def __init__(self, task: str, plugins: str) -> None:
        super().__init__(task, plugins)
        self.task, self.plugins = task, plugins

    def __str__(self) -> str:
        return (
            f"{self.task}: a plugin refused the call (plugins: {self.plugins}); use task.submit() to get None instead"
        )


class CallAbortedError(AmlschedError):
    """A call raised what is no `Exception`: SystemExit, as `sys.exit` does, GeneratorExit, or another BaseException.

    It ends the call, and not the program. What was raised is the `__cause__`.

    Args:
        call: The call.
        reason: Type and message of what was raised.
    """

    def __init__(self, call: str, reason: str) -> None:
        super().__init__(call, reason)
        self.call, self.reason = call, reason

    def __str__(self) -> str:
        return f"{self.call} was aborted by {self.reason}"


class BatchSystemError(AmlschedError, RuntimeError):
    """A command of the batch system is missing, refused what was asked of it, or did not answer.

    Args:
        system: The batch system, such as `Slurm`.
        command: The command, with its first words.
        words: What it said, or why it could not be asked.
        remedy: What to do about it; empty where its own words say so.
    """

    def __init__(self, system: str, command: str, words: str, remedy: str = "") -> None:
        super().__init__(system, command, words, remedy)
        self.system, self.command, self.words, self.remedy = system, command, words, remedy

    def __str__(self) -> str:
        return f"{self.system}: {self.command}: {self.words}" + (f" ({self.remedy})" if self.remedy else "")


class CommError(AmlschedError, RuntimeError):
    """The channel between a call and its driver cannot be used: closed, lost, or a request that nobody answers.

    Args:
        call: The call that the channel belongs to.
        problem: What is wrong with it, and what to do.
    """

    def __init__(self, call: str, problem: str) -> None:
        super().__init__(call, problem)
        self.call, self.problem = call, problem

    def __str__(self) -> str:
        return f"{self.call}: {self.problem}"


class LimitError(AmlschedError):
    """A call passed a limit that its task sets, and was ended with all that it had started; see `Limits`."""


class CpuTimeLimitError(LimitError, TimeoutError):
    """A call used more CPU time than it may.

    Args:
        call: The call.
        limit_s: What it may use.
        used_s: What it and the processes below it had used when it was ended.
    """

    def __init__(self, call: str, limit_s: float, used_s: float) -> None:
        super().__init__()
        self.args = (call, limit_s, used_s)  # TimeoutError would take three arguments for those of an OSError
        self.call, self.limit_s, self.used_s = call, limit_s, used_s

    def __str__(self) -> str:
        return f"{self.call} was ended: it used {self.used_s:.2f} s of CPU time, and its limit is {self.limit_s:g} s"


# MemoryError comes first: with LimitError there, its `__new__` refuses the class, and distributed loads errors by that.
class MemoryLimitError(MemoryError, LimitError):
    """A call used more memory than it may.

    Args:
        call: The call.
        limit_bytes: What it may use beyond what its worker had before.
        used_bytes: What it and the processes below it had used of that when it was ended.
    """

    def __init__(self, call: str, limit_bytes: int, used_bytes: int) -> None:
        super().__init__(call, limit_bytes, used_bytes)
        self.call, self.limit_bytes, self.used_bytes = call, limit_bytes, used_bytes

    def __str__(self) -> str:
        used, limit = self.used_bytes / 2**20, self.limit_bytes / 2**20
        return f"{self.call} was ended: it used {used:.1f} MiB of memory, and its limit is {limit:.1f} MiB"


class WalltimeLimitError(LimitError, TimeoutError):
    """A call took longer than it may.

    Args:
        call: The call.
        limit_s: What it may take from the start of the function.
        used_s: What it had taken when it was ended.
    """

    def __init__(self, call: str, limit_s: float, used_s: float) -> None:
        super().__init__()
        self.args = (call, limit_s, used_s)
        self.call, self.limit_s, self.used_s = call, limit_s, used_s

    def __str__(self) -> str:
        return f"{self.call} was ended: it took {self.used_s:.2f} s, and its limit is {self.limit_s:g} s"


class NotPicklableError(AmlschedError, TypeError):
    """Something cannot be sent to a worker, or back from it.

    Args:
        call: The call it belongs to.
        what: Which part cannot be sent, such as `argument 'model'` or `the result`.
        reason: What the pickler said.
    """

    def __init__(self, call: str, what: str, reason: str) -> None:
        super().__init__(call, what, reason)
        self.call, self.what, self.reason = call, what, reason

    def __str__(self) -> str:
        return f"{self.call}: {self.what} cannot be sent between processes: {self.reason}"


class MissingExtraError(AmlschedError, ImportError):
    """An optional package is needed and is not installed.

    Args:
        what: What needs it.
        package: The package that is missing.
        extra: The extra of amlsched that installs it.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(what, package, extra)
        self.what, self.package, self.extra = what, package, extra

    def __str__(self) -> str:
        return f"{self.what} needs {self.package}: pip install 'amlsched[{self.extra}]'"


class ImportFailedError(AmlschedError, ImportError):
    """An optional package is needed, is installed, and cannot be imported.

    Args:
        what: What needs it.
        package: The package.
        reason: What its import raised.
        remedy: What to do about it, if that is known.
    """

    def __init__(self, what: str, package: str, reason: str, remedy: str = "") -> None:
        super().__init__(what, package, reason, remedy)
        self.what, self.package, self.reason, self.remedy = what, package, reason, remedy

    def __str__(self) -> str:
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.what} needs {self.package}, which cannot be imported: {self.reason}{remedy}"


class WorkerLostError(AmlschedError, BrokenExecutor):
    """The worker that ran a call is gone: a failure of the place, not of the function.

    Args:
        call: The call that was lost.
        cause: What is known of the death, in words.
        pid: Process id of the worker, if known.
        host: Host of the worker, if known.

    Attributes:
        attempts: How often the call was run until it was given up; this error is of the last time.
        in_limits: Whether the worker was the process in which `Limits` ran the call.
    """

    attempts = 1
    in_limits = False

    def __init__(self, call: str, cause: str, pid: int | None = None, host: str | None = None) -> None:
        super().__init__(call, cause, pid, host)
        self.call, self.cause, self.pid, self.host = call, cause, pid, host

    def __str__(self) -> str:
        worker = "its worker" if self.pid is None else f"its worker (process {self.pid})"
        where = f" on {self.host}" if self.host else ""
        which = f" (attempt {self.attempts}, the last)" if self.attempts > 1 else ""
        return f"{self.call} was lost{which}: {worker}{where} {self.cause}"


class WorkerKilledError(WorkerLostError):
    """A signal ended the worker.

    Args:
        call: The call that was lost.
        signal: Number of the signal.
        pid: Process id of the worker, if known.
        host: Host of the worker, if known.
    """

    def __init__(self, call: str, signal: int, pid: int | None = None, host: str | None = None) -> None:
        try:
            name = Signals(signal).name
        except ValueError:  # a real-time signal has no name
            name = f"signal {signal}"
        super().__init__(call, f"was killed by {name}", pid, host)
        self.args = (call, signal, pid, host)
        self.signal = signal


class WorkerExitedError(WorkerLostError):
    """The worker's process ended itself, such as by `os._exit`.

    Args:
        call: The call that was lost.
        exitcode: Exit code of the process.
        pid: Process id of the worker, if known.
        host: Host of the worker, if known.
    """

    def __init__(self, call: str, exitcode: int, pid: int | None = None, host: str | None = None) -> None:
        super().__init__(call, f"exited with code {exitcode}", pid, host)
        self.args = (call, exitcode, pid, host)
        self.exitcode = exitcode


class WorkerOutOfMemoryError(WorkerLostError):
    """The worker was ended because no memory was left: by the kernel, or by the batch system.

    A call that passed a limit of its own task ends with `MemoryLimitError` instead.

    Args:
        call: The call that was lost.
        evidence: Who says so, such as `oom_kill of the cgroup / rose by 1` or `Slurm: OUT_OF_MEMORY`.
        peak_bytes: The most resident memory that the worker's process had, if known.
        limit_bytes: What it might have had, if known.
        pid: Process id of the worker, if known.
        host: Host of the worker, if known.
    """

    def __init__(
        self,
        call: str,
        evidence: str,
        peak_bytes: int | None = None,
        limit_bytes: int | None = None,
        pid: int | None = None,
        host: str | None = None,
    ) -> None:
        amounts = ((peak_bytes, "it had {:.0f} MiB"), (limit_bytes, "the limit is {:.0f} MiB"))
        known = [text.format(amount / 2**20) for amount, text in amounts if amount is not None]
        super().__init__(call, f"was ended for want of memory ({'; '.join((evidence, *known))})", pid, host)
        self.args = (call, evidence, peak_bytes, limit_bytes, pid, host)
        self.evidence, self.peak_bytes, self.limit_bytes = evidence, peak_bytes, limit_bytes


class WorkerStartError(WorkerLostError):
    """No worker could be started: its process ended at once, or its initializer raised."""


class PoolBrokenError(WorkerLostError):
    """The pool broke, and with it every call that it had; which of them did it is not known.

    Args:
        call: The call that was lost.
        pool: What broke, such as `ProcessPoolExecutor`.
        reason: What is known of it, in words.
    """

    def __init__(self, call: str, pool: str, reason: str) -> None:
        super().__init__(call, f"went down with the {pool}: {reason}")
        self.args = (call, pool, reason)
        self.pool, self.reason = pool, reason

    def __str__(self) -> str:
        return (
            f"{super().__str__()}. One worker that dies takes all calls of a {self.pool} with it; "
            "Scheduler.with_processes() loses only the call that the worker ran, and goes on"
        )


class JobLostError(WorkerLostError):
    """The job of the batch system ended that held the worker.

    Args:
        call: The call that was lost.
        job: The batch system's id of the job.
        state: How the batch system calls the end of the job, such as `NODE_FAIL`.
        reason: What else it says; empty for nothing.
        host: Host of the worker, if known.
    """

    _what = "ended"

    def __init__(self, call: str, job: str, state: str, reason: str = "", host: str | None = None) -> None:
        words = f"{state}: {reason}" if reason else state
        super().__init__(call, f"is gone: its job {job} {self._what} ({words})", None, host)
        self.args = (call, job, state, reason, host)
        self.job, self.state, self.reason = job, state, reason


class JobCancelledError(JobLostError):
    """Somebody cancelled the job that held the worker."""

    _what = "was cancelled"


class JobWalltimeError(JobLostError):
    """The job that held the worker reached its time limit."""

    _what = "reached its time limit"


class NodeLostError(JobLostError):
    """The host failed on which the job ran that held the worker."""

    _what = "lost its node"


class PreemptedError(JobLostError):
    """The job that held the worker had to make room for another."""

    _what = "was preempted"


class ExperimentSurrender(Exception):  # noqa: N818  (cw2's name)
    """Raised by an experiment to end its repetition early and well.

    Args:
        payload: A mapping or a number; logged as a row (that of the iteration in which it was raised), and handed to
            `finalize`.

    Attributes:
        logged: Whether it has been logged.
    """

    logged = False

    def __init__(self, payload: Any = None) -> None:
        super().__init__(payload)
        self.payload = payload
