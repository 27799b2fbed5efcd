"""Checks whether an executor works on this host or cluster; see `amlsched doctor`."""

from amlsched.doctor.examination import Examination, Finding, Verdict, examine

__all__ = ["Examination", "Finding", "Verdict", "examine"]
