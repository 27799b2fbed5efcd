"""For tests of your own: a scheduler over several executors in turn, and the checks that an executor has to pass."""

from amlsched.testing.checks import EXECUTOR_CHECKS, check_executor, scheduler_fixture
from amlsched.testing.stage import ExecutorCheck

__all__ = ["EXECUTOR_CHECKS", "ExecutorCheck", "check_executor", "scheduler_fixture"]
