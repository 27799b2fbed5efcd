"""Executor-agnostic async scheduling of machine-learning experiments."""

from amlsched.errors import (
    AmlschedError,
    CallbackError,
    CallRefusedError,
    CommError,
    ConfigError,
    CpuTimeLimitError,
    EventNotKnownError,
    ExperimentError,
    ExperimentSurrender,
    LimitError,
    MemoryLimitError,
    MissingExtraError,
    NotPicklableError,
    SchedulerNotRunningError,
    WalltimeLimitError,
    WorkerExitedError,
    WorkerKilledError,
    WorkerLostError,
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
    "LimitError",
    "MemoryLimitError",
    "MissingExtraError",
    "NotPicklableError",
    "Plugin",
    "Scheduler",
    "SchedulerNotRunningError",
    "SequentialExecutor",
    "Subscriber",
    "Task",
    "WalltimeLimitError",
    "WorkerExitedError",
    "WorkerKilledError",
    "WorkerLostError",
    "WorkerStartError",
]
