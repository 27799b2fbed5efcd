"""`cw2.cw_data`; its module `cw_loading`, which needs pandas, is imported by name."""

from amlsched.cw2.cw_data import cw_logging, cw_pd_logger, cw_wandb_logger

__all__ = ["cw_logging", "cw_pd_logger", "cw_wandb_logger"]
