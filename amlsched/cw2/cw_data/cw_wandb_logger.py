"""`cw2.cw_data.cw_wandb_logger`."""

from amlsched.experiments.wandb_logger import WandBLogger

__all__ = ["WandBLogger"]
