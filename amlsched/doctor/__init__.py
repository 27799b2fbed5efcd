"""Says what stands between an executor and its work here: see `amlsched doctor`."""

from amlsched.doctor.examination import Examination, examine
from amlsched.doctor.finding import Finding, Verdict

__all__ = ["Examination", "Finding", "Verdict", "examine"]
