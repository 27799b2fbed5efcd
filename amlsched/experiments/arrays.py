"""Arrays of jobs, for the command line: submit experiments, run an element, and see or cancel what was submitted."""

from amlsched.experiments._arrays.attach import Attached
from amlsched.experiments._arrays.cluster_options import worker_options
from amlsched.experiments._arrays.queue import cancel
from amlsched.experiments._arrays.run_element import run_element
from amlsched.experiments._arrays.status import Overview, SubmittedRepetition
from amlsched.experiments._arrays.submission import submissions
from amlsched.experiments._arrays.submit import SubmitResult, job_scripts, submit

__all__ = [
    "Attached",
    "Overview",
    "SubmitResult",
    "SubmittedRepetition",
    "cancel",
    "job_scripts",
    "run_element",
    "submissions",
    "submit",
    "worker_options",
]
