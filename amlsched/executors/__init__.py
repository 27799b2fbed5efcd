"""Backends: functions that return an Executor, and what each can do."""

from amlsched.executors.capabilities import Capabilities, WorkersNow
from amlsched.executors.sequential import SequentialExecutor

__all__ = ["Capabilities", "SequentialExecutor", "WorkersNow"]
