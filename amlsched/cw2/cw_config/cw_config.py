"""`cw2.cw_config.cw_config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amlsched.experiments import layout
from amlsched.experiments.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from amlsched.experiments.expand import Debug

__all__ = ["Config"]


class Config:
    """What a config file says, repetition by repetition.

    Args:
        config_path: The file.
        experiment_selections: Names of experiments; none for all.
        debug: Only a short trial of the first run of each experiment.
        debug_all: Only a short trial of each run.

    Attributes:
        exp_configs: The `cw_config` of each repetition.
        slurm_config: The section for the batch system of this host, `None` if there is none.

    Raises:
        ConfigError: The file is wrong.
    """

    def __init__(
        self,
        config_path: str | Path,
        experiment_selections: Sequence[str] | None = None,
        debug: bool = False,
        debug_all: bool = False,
    ) -> None:
        self.config_path = str(config_path)
        mode: Debug = "debugall" if debug_all else "debug" if debug else ""
        plan = Plan(config_path, select=experiment_selections or (), debug=mode)
        self.exp_configs: list[dict[str, Any]] = [
            layout.cw_config(run, index, path) for path, run in plan.runs() for index in plan.indices(run)
        ]
        self.slurm_config = plan.resolved.cluster
