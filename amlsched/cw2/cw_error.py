"""`cw2.cw_error`."""

from amlsched.errors import ConfigError, ExperimentSurrender

__all__ = ["ConfigKeyError", "ExperimentNotFoundError", "ExperimentSurrender", "MissingConfigError"]

ConfigKeyError = MissingConfigError = ExperimentNotFoundError = ConfigError
