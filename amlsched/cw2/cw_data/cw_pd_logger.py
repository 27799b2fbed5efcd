"""`cw2.cw_data.cw_pd_logger`."""

from amlsched.experiments.pandas_logger import PandasLogger

__all__ = ["PandasLogger"]
