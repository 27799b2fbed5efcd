"""Executor-agnostic async scheduling of machine-learning experiments."""

from amlsched.errors import (
    AmlschedError,
    CallbackError,
    CallRefusedError,
    CommError,
    ConfigError,
    EventNotKnownError,
    ExperimentError,
    ExperimentSurrender,
    MissingExtraError,
    NotPicklableError,
    SchedulerNotRunningError,
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
    "Emitter",
    "Event",
    "EventNotKnownError",
    "ExitState",
    "ExperimentError",
    "ExperimentSurrender",
    "Future",
    "MissingExtraError",
    "NotPicklableError",
    "Plugin",
    "Scheduler",
    "SchedulerNotRunningError",
    "SequentialExecutor",
    "Subscriber",
    "Task",
    "WorkerExitedError",
    "WorkerKilledError",
    "WorkerLostError",
    "WorkerStartError",
]
