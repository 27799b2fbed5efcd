"""For tests of your own: a scheduler over several executors in turn, and the checks that an executor has to pass."""

from amlsched.testing.check import ExecutorCheck
from amlsched.testing.executor_checks import EXECUTOR_CHECKS, check_executor
from amlsched.testing.fixture import scheduler_fixture

__all__ = ["EXECUTOR_CHECKS", "ExecutorCheck", "check_executor", "scheduler_fixture"]
