"""`cw2.cw_data.cw_pd_logger`."""

from amlsched.experiments.loggers.csv import PandasLogger

__all__ = ["PandasLogger"]
