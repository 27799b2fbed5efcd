"""Log repetitions to Weights & Biases, configured as in cw2."""

from __future__ import annotations

import logging
import operator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.errors import ConfigError, MissingExtraError
from amlsched.experiments.loggers.base import AbstractLogger
from amlsched.plugins.wandb import WandbParams

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["WandBLogger"]

_NAME_LENGTH = 63  # job types and names are truncated to this length, as in cw2
_log = logging.getLogger("amlsched")


class WandBLogger(AbstractLogger):
    """Logs each repetition as a run of Weights & Biases.

    It is configured by the mapping `wandb` of the experiment; without it, nothing is logged. Its keys:

    - `project`; `entity`, `group`, `job_type`, `tags`, `notes`;
    - `enabled`: false to log nothing; `mode`: `online`, `offline` or `disabled`;
    - `log_interval`: log only every n-th iteration; `histogram`: names of columns with a histogram as returned by
      numpy;
    - `log_model`: save the files of the folder `model` in the repetition's folder (which `cw_config["save_model_dir"]`
      names) as the artifact `model_name`;
    - `disable_stats`: do not measure the machine.

    The name of a run of Weights & Biases consists of the run's name and the repetition; its config is the `params`.

    Args:
        ignore_keys: Columns to leave out.
        allow_keys: The only columns to keep.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self, ignore_keys: Iterable[str] | None = None, allow_keys: Iterable[str] | None = None) -> None:
        super().__init__(ignore_keys, allow_keys)
        if find_spec("wandb") is None:
            raise MissingExtraError("WandBLogger", "wandb", "wandb")
        self.run: Any = None
        self.config: dict[str, Any] = {}
        self._rep = 0
        self._models: Path | None = None

    def initialize(self, config: dict[str, Any], rep: int, rep_log_path: str) -> None:
        """Start a run.

        Raises:
            ConfigError: `wandb` names no project.
        """
        self.run, self._rep, self._models = None, rep, None
        section = config.get("wandb")
        if section is None:
            _log.warning("the config has no key wandb: nothing is logged to Weights & Biases")
            return
        if not section.get("project"):
            raise ConfigError(config.get("_experiment_name", "wandb"), "wandb has no project", "add wandb.project")
        self.config = section
        name = str(config.get("_experiment_name", config["name"])).replace("__", "_")
        if section.get("log_model"):
            self._models = Path(rep_log_path) / "model"
            config["save_model_dir"] = str(self._models)
        self.run = _params(section, str(section.get("job_type", name)), rep_log_path).run(
            f"{name}_rep_{rep:02d}"[:_NAME_LENGTH], config.get("params")
        )

    def process(self, data: dict[str, Any]) -> None:
        """Log a row, with its column `iter` as the step."""
        step = _step(data.get("iter"))
        interval = self.config.get("log_interval")
        if self.run is None or (interval and step is not None and step % interval):
            return
        row = self.filter(data)
        for name in self.config.get("histogram") or ():
            if name in row:
                row[name] = import_module("wandb").Histogram(np_histogram=row[name])
        self.run.log(row, step=step)

    def finalize(self) -> None:
        """Finish the run; first log the model, if requested."""
        run, self.run = self.run, None
        if run is None:
            return
        try:
            self._keep_model(run)
        finally:
            run.finish()

    def _keep_model(self, run: Any) -> None:
        if self._models is None:
            return
        files = sorted(path for path in self._models.glob("*") if path.is_file())
        if not files:
            _log.warning("%s: there is no model to save", self._models)
            return
        artifact = import_module("wandb").Artifact(name=self.config.get("model_name", "model"), type="model")
        for path in files:
            artifact.add_file(str(path))
        run.log_artifact(artifact, aliases=["latest", f"finished-rep-{self._rep}"])


def _step(iteration: Any) -> int | None:
    """The number of an iteration; `None` if the experiment logs another value as `iter`."""
    try:
        return operator.index(iteration)
    except TypeError:
        return None


def _params(section: Mapping[str, Any], job_type: str, folder: str) -> WandbParams:
    options: dict[str, Any] = {}
    if section.get("disable_stats"):
        options["settings"] = import_module("wandb").Settings(x_disable_stats=True)
    return WandbParams(
        project=section["project"],
        group=section.get("group"),
        job_type=job_type[:_NAME_LENGTH],
        entity=section.get("entity"),
        tags=section.get("tags"),
        notes=section.get("notes"),
        mode=section.get("mode", "online") if section.get("enabled", True) else "disabled",
        dir=folder,
        options=options,
    )
