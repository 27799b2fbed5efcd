"""Says what stands between an executor and its work here: see `amlsched doctor`."""

from amlsched.doctor.examination import Examination, Finding, Verdict, examine

__all__ = ["Examination", "Finding", "Verdict", "examine"]
