"""The modules of cw2 under their own names: a project of cw2 runs here once its imports say `amlsched.cw2`.

Nothing is done here but naming; what the names stand for is in `amlsched.experiments`.
"""

from amlsched.cw2 import cluster_work, cw_config, cw_data, cw_error, experiment, job, scheduler

__all__ = ["cluster_work", "cw_config", "cw_data", "cw_error", "experiment", "job", "scheduler"]
