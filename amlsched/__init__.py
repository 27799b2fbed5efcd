"""Executor-agnostic async scheduling of machine-learning experiments."""

from amlsched.errors import (
    AmlschedError,
    BatchSystemError,
    CallbackError,
    CallRefusedError,
    CommError,
    ConfigError,
    CpuTimeLimitError,
    EventNotKnownError,
    ExperimentError,
    ExperimentSurrender,
    JobCancelledError,
    JobLostError,
    JobWalltimeError,
    LimitError,
    MemoryLimitError,
    MissingExtraError,
    NodeLostError,
    NotPicklableError,
    PoolBrokenError,
    PreemptedError,
    SchedulerNotRunningError,
    WalltimeLimitError,
    WorkerExitedError,
    WorkerKilledError,
    WorkerLostError,
    WorkerOutOfMemoryError,
    WorkerStartError,
)
from amlsched.events import Emitter, Event, Subscriber
from amlsched.executors import Capabilities, SequentialExecutor
from amlsched.exit_state import ExitState
from amlsched.future import Future
from amlsched.scheduler import Scheduler
from amlsched.task import Plugin, Task

__version__ = "0.1.0"

__all__ = [
    "AmlschedError",
    "BatchSystemError",
    "CallRefusedError",
    "CallbackError",
    "Capabilities",
    "CommError",
    "ConfigError",
    "CpuTimeLimitError",
    "Emitter",
    "Event",
    "EventNotKnownError",
    "ExitState",
    "ExperimentError",
    "ExperimentSurrender",
    "Future",
    "JobCancelledError",
    "JobLostError",
    "JobWalltimeError",
    "LimitError",
    "MemoryLimitError",
    "MissingExtraError",
    "NodeLostError",
    "NotPicklableError",
    "Plugin",
    "PoolBrokenError",
    "PreemptedError",
    "Scheduler",
    "SchedulerNotRunningError",
    "SequentialExecutor",
    "Subscriber",
    "Task",
    "WalltimeLimitError",
    "WorkerExitedError",
    "WorkerKilledError",
    "WorkerLostError",
    "WorkerOutOfMemoryError",
    "WorkerStartError",
]
