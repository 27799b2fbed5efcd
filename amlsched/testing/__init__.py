"""For your own tests: a scheduler fixture over several executors, and checks that every executor must pass."""

from amlsched.testing.checks import EXECUTOR_CHECKS, check_executor, scheduler_fixture
from amlsched.testing.stage import ExecutorCheck

__all__ = ["EXECUTOR_CHECKS", "ExecutorCheck", "check_executor", "scheduler_fixture"]
