"""A copy of the code for jobs to run from; see `amlsched run --help`, below "a copy of the code"."""

from amlsched.experiments._code.copy import CodeCopy, CopyPlan, check_runs_from, copy_code, zip_code

__all__ = ["CodeCopy", "CopyPlan", "check_runs_from", "copy_code", "zip_code"]
