"""`cw2.cw_data.cw_wandb_logger`."""

from amlsched.experiments.loggers.wandb import WandBLogger

__all__ = ["WandBLogger"]
