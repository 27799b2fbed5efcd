"""`cw2.cw_config`."""

from amlsched.cw2.cw_config import cw_conf_keys, cw_config

__all__ = ["cw_conf_keys", "cw_config"]
