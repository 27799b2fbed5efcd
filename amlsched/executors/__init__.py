"""Executors, and their capabilities."""

from amlsched.executors.capabilities import Capabilities, WorkersNow
from amlsched.executors.sequential import SequentialExecutor

__all__ = ["Capabilities", "SequentialExecutor", "WorkersNow"]
