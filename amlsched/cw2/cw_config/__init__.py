"""`cw2.cw_config`."""

from amlsched.cw2.cw_config import cw_config

__all__ = ["cw_config"]
