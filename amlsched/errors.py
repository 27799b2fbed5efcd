"""Every error that amlsched raises.

    AmlschedError
    ├── ConfigError (ValueError)               an experiment file has an error at a known place
    ├── ExperimentError (ValueError)           an experiment class or a results folder cannot be used
    ├── CodeCopyError (ValueError)             the code cannot be copied, or a job does not run from its copy
    ├── ResourcesError (ValueError)            more CPUs or GPUs were requested than there are
    ├── ResultsNotWritableError (RuntimeError) the disk is full or read-only; no result was lost
    ├── EventNotKnownError (ValueError)        the emitter has no event of this name
    ├── CallbackError (TypeError)              a callback does not accept the arguments of its event
    ├── SchedulerNotRunningError (RuntimeError)
    ├── CallRefusedError (RuntimeError)        a plugin rejected a call that was to be awaited
    ├── BatchSystemError (RuntimeError)        a command of the batch system failed
    │   └── MaybeSubmittedError                its answer to a submission was lost
    ├── CommError (RuntimeError)               the channel between a call and its driver cannot be used
    ├── CallAbortedError                       a call raised something other than an Exception, such as SystemExit
    ├── LimitError                             a call exceeded one of its limits and was terminated
    │   ├── CpuTimeLimitError (TimeoutError)   of CPU time
    │   ├── MemoryLimitError (MemoryError)     of memory
    │   └── WalltimeLimitError (TimeoutError)  of time
    ├── NotPicklableError (TypeError)          an object cannot be sent to a worker or back
    ├── SearcherError (RuntimeError)           the searcher of a search raised, or proposed something else than trials
    ├── TrialsFailedError (RuntimeError)       the first trials of a search all failed
    ├── MissingExtraError (ImportError)        an optional package is not installed
    ├── ImportFailedError (ImportError)        an optional package is installed, but its import fails
    └── WorkerLostError (BrokenExecutor)       the worker failed, not the function
        ├── WorkerKilledError                  it was killed by a signal
        ├── WorkerExitedError                  it exited
        ├── WorkerOutOfMemoryError             it ran out of memory: the kernel or the batch system killed it
        ├── WorkerStartError                   it did not start
        ├── PoolBrokenError                    its whole pool broke, perhaps because of another call
        └── JobLostError                       its job of the batch system ended
            ├── JobCancelledError              the job was cancelled
            ├── JobWalltimeError               the job reached its time limit
            ├── NodeLostError                  the node failed
            └── PreemptedError                 the job was preempted by another
    ExperimentSurrender (Exception)            not an error: an experiment ends its repetition early

Errors are created from positional arguments, so that they can be pickled, and keep them as attributes.
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
    "MaybeSubmittedError",
    "MemoryLimitError",
    "MissingExtraError",
    "NodeLostError",
    "NotPicklableError",
    "PoolBrokenError",
    "PreemptedError",
    "ResourcesError",
    "ResultsNotWritableError",
    "SchedulerNotRunningError",
    "SearcherError",
    "TrialsFailedError",
    "WalltimeLimitError",
    "WorkerExitedError",
    "WorkerKilledError",
    "WorkerLostError",
    "WorkerOutOfMemoryError",
    "WorkerStartError",
]


class AmlschedError(Exception):
    """Base class of all errors that amlsched raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The same as of any exception. Without it, tblib, which dask uses to pickle exceptions, would not call
        # `__init__`.
        return type(self), self.args, self.__dict__


class _ProblemError(AmlschedError):
    """An error with its place, the problem and the remedy."""

    def __init__(self, where: str, problem: str, remedy: str = "") -> None:
        super().__init__(where, problem, remedy)
        self.where, self.problem, self.remedy = where, problem, remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f" ({self.remedy})" if self.remedy else "")


class ConfigError(_ProblemError, ValueError):
    """An experiment file has an error at a known place.

    Args:
        where: File, and if known, line, document and key.
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
    """The code cannot be copied, or a job does not run from the copy that was created for it.

    Args:
        where: The folder.
        problem: What is wrong with it.
        remedy: What to do about it.
    """


class ResourcesError(_ProblemError, ValueError):
    """More CPUs or GPUs were requested than there are, or they cannot be divided as requested.

    Args:
        where: What requested them.
        problem: What was requested, and what there is.
        remedy: What to do about it.
    """


class ResultsNotWritableError(_ProblemError, RuntimeError):
    """The disk with the results is full or read-only. Everything written before is intact.

    Args:
        where: The file or the folder.
        problem: The error of the operating system.
        remedy: What to do about it.
    """


class EventNotKnownError(AmlschedError, ValueError):
    """The emitter has no event of this name.

    Args:
        name: The requested name.
        emitter: Name of the emitter.
        known: The names of its events.
    """

    def __init__(self, name: str, emitter: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(name, emitter, known)
        self.name, self.emitter, self.known = name, emitter, known

    def __str__(self) -> str:
        return f"{self.emitter} has no event {self.name!r}; it has: {', '.join(self.known) or 'none'}"


class CallbackError(AmlschedError, TypeError):
    """A callback does not accept the arguments of its event.

    Args:
        callback: Name of the callback.
        event: Name of the event.
        problem: Why it cannot be called.
    """

    def __init__(self, callback: str, event: str, problem: str) -> None:
        super().__init__(callback, event, problem)
        self.callback, self.event, self.problem = callback, event, problem

    def __str__(self) -> str:
        event = self.event.replace("-", "_") if self.event.startswith("on-") else self.event  # as users write it
        return f"{self.callback} cannot be a callback of {event}: {self.problem}"


class SchedulerNotRunningError(AmlschedError, RuntimeError):
    """A call was submitted while the scheduler accepts none: before `run()`, or when the run is ending."""


class CallRefusedError(AmlschedError, RuntimeError):
    """A plugin rejected a call that was to be awaited.

    Args:
        task: The task.
        plugins: Names of its plugins.
    """

    def __init__(self, task: str, plugins: str) -> None:
        super().__init__(task, plugins)
        self.task, self.plugins = task, plugins

    def __str__(self) -> str:
        return (
            f"{self.task}: a plugin rejected the call (plugins: {self.plugins}); use task.submit() to get None instead"
        )


class CallAbortedError(AmlschedError):
    """A call raised something other than an `Exception`: SystemExit, GeneratorExit, or another BaseException.

    Only the call fails; the program goes on. The original exception is the `__cause__`.

    Args:
        call: The call.
        reason: Type and message of the original exception.
    """

    def __init__(self, call: str, reason: str) -> None:
        super().__init__(call, reason)
        self.call, self.reason = call, reason

    def __str__(self) -> str:
        return f"{self.call} was aborted by {self.reason}"


class BatchSystemError(AmlschedError, RuntimeError):
    """A command of the batch system is missing, failed, or did not answer in time.

    Args:
        system: The batch system, such as `Slurm`.
        command: The command, with its first arguments.
        words: Its output, or why it could not be run.
        remedy: What to do about it; empty if the output already says so.
    """

    def __init__(self, system: str, command: str, words: str, remedy: str = "") -> None:
        super().__init__(system, command, words, remedy)
        self.system, self.command, self.words, self.remedy = system, command, words, remedy

    def __str__(self) -> str:
        return f"{self.system}: {self.command}: {self.words}" + (f" ({self.remedy})" if self.remedy else "")


class MaybeSubmittedError(BatchSystemError):
    """The batch system's answer to a submission was lost, so it may have been accepted.

    Args:
        system: The batch system, such as `Slurm`.
        command: The command that submits.
        words: Its output, or why there is none.
        remedy: How to find out.
    """


class CommError(AmlschedError, RuntimeError):
    """The channel between a call and its driver is closed or lost, or a request was not answered.

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
    """A call exceeded a limit of its task and was terminated with all processes it had started; see `Limits`."""


class CpuTimeLimitError(LimitError, TimeoutError):
    """A call exceeded its limit of CPU time.

    Args:
        call: The call.
        limit_s: The limit.
        used_s: What the call and its child processes had used when they were terminated.
    """

    def __init__(self, call: str, limit_s: float, used_s: float) -> None:
        super().__init__()
        self.args = (call, limit_s, used_s)  # TimeoutError would treat three arguments as those of an OSError
        self.call, self.limit_s, self.used_s = call, limit_s, used_s

    def __str__(self) -> str:
        return f"{self.call} was terminated: it used {self.used_s:.2f} s of CPU time, its limit is {self.limit_s:g} s"


# MemoryError comes first: otherwise its `__new__` rejects the class, which distributed calls to load errors.
class MemoryLimitError(MemoryError, LimitError):
    """A call exceeded its memory limit.

    Args:
        call: The call.
        limit_bytes: The limit, in addition to what its worker used before the call.
        used_bytes: How much of that the call and its child processes used when they were terminated.
    """

    def __init__(self, call: str, limit_bytes: int, used_bytes: int) -> None:
        super().__init__(call, limit_bytes, used_bytes)
        self.call, self.limit_bytes, self.used_bytes = call, limit_bytes, used_bytes

    def __str__(self) -> str:
        used, limit = self.used_bytes / 2**20, self.limit_bytes / 2**20
        return f"{self.call} was terminated: it used {used:.1f} MiB of memory, its limit is {limit:.1f} MiB"


class WalltimeLimitError(LimitError, TimeoutError):
    """A call exceeded its time limit.

    Args:
        call: The call.
        limit_s: The limit, counted from the start of the function.
        used_s: How long it had run when it was terminated.
    """

    def __init__(self, call: str, limit_s: float, used_s: float) -> None:
        super().__init__()
        self.args = (call, limit_s, used_s)
        self.call, self.limit_s, self.used_s = call, limit_s, used_s

    def __str__(self) -> str:
        return f"{self.call} was terminated: it ran for {self.used_s:.2f} s, its limit is {self.limit_s:g} s"


class NotPicklableError(AmlschedError, TypeError):
    """An object cannot be sent to a worker or back.

    Args:
        call: The call that it belongs to.
        what: Which part cannot be sent, such as `argument 'model'` or `the result`.
        reason: The error of the pickler.
    """

    def __init__(self, call: str, what: str, reason: str) -> None:
        super().__init__(call, what, reason)
        self.call, self.what, self.reason = call, what, reason

    def __str__(self) -> str:
        return f"{self.call}: {self.what} cannot be sent between processes: {self.reason}"


class SearcherError(AmlschedError, RuntimeError):
    """The searcher of a search raised, or proposed something that is no trial. Its exception is the cause.

    Args:
        searcher: Name of the searcher's class.
        method: Its method, such as `ask`.
        n_trials: How many trials it had proposed before; `None` if that is unknown.
        problem: What is wrong.
    """

    def __init__(self, searcher: str, method: str, n_trials: int | None, problem: str) -> None:
        super().__init__(searcher, method, n_trials, problem)
        self.searcher, self.method, self.n_trials, self.problem = searcher, method, n_trials, problem

    def __str__(self) -> str:
        after = "" if self.n_trials is None else f" after it had proposed {self.n_trials} trials"
        return f"{self.searcher}.{self.method}{after}: {self.problem}"


class TrialsFailedError(AmlschedError, RuntimeError):
    """The first trials of a search all failed, so that more of them would probably fail too. The last one's exception
    is the cause.

    Args:
        n_trials: How many.
        problem: What the last one raised.
    """

    def __init__(self, n_trials: int, problem: str) -> None:
        super().__init__(n_trials, problem)
        self.n_trials, self.problem = n_trials, problem

    def __str__(self) -> str:
        return (
            f"the first {self.n_trials} trials of the search all failed, the last one with {self.problem} "
            "(keep_going=True goes on regardless)"
        )


class MissingExtraError(AmlschedError, ImportError):
    """A required optional package is not installed.

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
    """A required optional package is installed, but cannot be imported.

    Args:
        what: What needs it.
        package: The package.
        reason: The exception of its import.
        remedy: What to do about it, if known.
    """

    def __init__(self, what: str, package: str, reason: str, remedy: str = "") -> None:
        super().__init__(what, package, reason, remedy)
        self.what, self.package, self.reason, self.remedy = what, package, reason, remedy

    def __str__(self) -> str:
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.what} needs {self.package}, which cannot be imported: {self.reason}{remedy}"


class WorkerLostError(AmlschedError, BrokenExecutor):
    """The worker that ran a call died: a failure of the worker, not of the function.

    Args:
        call: The lost call.
        cause: How the worker died, in words, if it is known.
        pid: Process id of the worker, if known.
        host: Host of the worker, if known.

    Attributes:
        attempts: How often the call was tried; this error is about the last attempt.
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
    """The worker was killed by a signal.

    Args:
        call: The lost call.
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
    """The worker process exited, for example by `os._exit`.

    Args:
        call: The lost call.
        exitcode: Exit code of the process.
        pid: Process id of the worker, if known.
        host: Host of the worker, if known.
    """

    def __init__(self, call: str, exitcode: int, pid: int | None = None, host: str | None = None) -> None:
        super().__init__(call, f"exited with code {exitcode}", pid, host)
        self.args = (call, exitcode, pid, host)
        self.exitcode = exitcode


class WorkerOutOfMemoryError(WorkerLostError):
    """The worker ran out of memory and was killed by the kernel or the batch system.

    A call that exceeds a limit of its own task fails with `MemoryLimitError` instead.

    Args:
        call: The lost call.
        evidence: How this is known, such as `oom_kill of the cgroup /sys/fs/cgroup rose by 1`, `Slurm: OUT_OF_MEMORY`.
        peak_bytes: Peak resident memory of the worker process, if known.
        limit_bytes: Its memory limit, if known.
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
        amounts = ((peak_bytes, "it used {:.0f} MiB"), (limit_bytes, "the limit is {:.0f} MiB"))
        known = [text.format(amount / 2**20) for amount, text in amounts if amount is not None]
        super().__init__(call, f"ran out of memory and was killed ({'; '.join((evidence, *known))})", pid, host)
        self.args = (call, evidence, peak_bytes, limit_bytes, pid, host)
        self.evidence, self.peak_bytes, self.limit_bytes = evidence, peak_bytes, limit_bytes


class WorkerStartError(WorkerLostError):
    """A worker could not be started: its process exited at once, or its initializer raised."""


class PoolBrokenError(WorkerLostError):
    """The whole pool broke and lost all of its calls; which of them is to blame is unknown.

    Args:
        call: The lost call.
        pool: What broke, such as `ProcessPoolExecutor`.
        reason: What is known about it, in words.
    """

    def __init__(self, call: str, pool: str, reason: str) -> None:
        super().__init__(call, f"went down with the {pool}: {reason}")
        self.args = (call, pool, reason)
        self.pool, self.reason = pool, reason

    def __str__(self) -> str:
        return (
            f"{super().__str__()}. If one worker of a {self.pool} dies, the pool loses all of its calls; "
            "Scheduler.with_processes() loses only the call that the worker was running, and goes on"
        )


class JobLostError(WorkerLostError):
    """The batch job of the worker ended.

    Args:
        call: The lost call.
        job: The batch system's id of the job.
        state: Final state of the job in the batch system's terms, such as `NODE_FAIL`.
        reason: Further details, if any.
        host: Host of the worker, if known.
    """

    _what = "ended"

    def __init__(self, call: str, job: str, state: str, reason: str = "", host: str | None = None) -> None:
        words = f"{state}: {reason}" if reason else state
        super().__init__(call, f"is gone: its job {job} {self._what} ({words})", None, host)
        self.args = (call, job, state, reason, host)
        self.job, self.state, self.reason = job, state, reason


class JobCancelledError(JobLostError):
    """The worker's job was cancelled."""

    _what = "was cancelled"


class JobWalltimeError(JobLostError):
    """The worker's job reached its time limit."""

    _what = "reached its time limit"


class NodeLostError(JobLostError):
    """The node of the worker's job failed."""

    _what = "lost its node"


class PreemptedError(JobLostError):
    """The worker's job was preempted."""

    _what = "was preempted"


class ExperimentSurrender(Exception):  # noqa: N818  (cw2's name)
    """Raised by an experiment to end its repetition early and successfully.

    Args:
        payload: A mapping or a number; logged as the row of the current iteration, and passed to `finalize`.

    Attributes:
        logged: Whether it has been logged.
    """

    logged = False

    def __init__(self, payload: Any = None) -> None:
        super().__init__(payload)
        self.payload = payload
