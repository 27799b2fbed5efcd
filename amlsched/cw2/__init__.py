"""The modules of cw2 under their own names: a project for cw2 runs once it imports from `amlsched.cw2`.

These modules mostly re-export names; the implementation is in `amlsched.experiments`.
"""

from amlsched.cw2 import cluster_work, cw_config, cw_data, cw_error, experiment, job, scheduler

__all__ = ["cluster_work", "cw_config", "cw_data", "cw_error", "experiment", "job", "scheduler"]
