"""Checks whether an executor works on this host or cluster; see `amlsched doctor`."""

from amlsched.doctor.examination import Examination, examine
from amlsched.doctor.findings import Finding, Verdict

__all__ = ["Examination", "Finding", "Verdict", "examine"]
