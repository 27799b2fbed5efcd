"""`cw2.cw_config.cw_config`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.errors import ExperimentError
from amlsched.experiments.config import as_config, cluster_section, copied, keys, raise_error, write
from amlsched.experiments.plan import Plan
from amlsched.experiments.storage import layout, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amlsched.experiments.config import Debug, ResolvedExperiment

__all__ = ["Config"]

_OURS = frozenset({"name", "path", "log_path", "cpu_cores", "_seed"}) | keys.WRITTEN_KEYS
"""Keys that identify a repetition, or are set when it runs."""
_OF_JOBS = ("reps_per_job", "reps_in_parallel")


class Config:
    """A config file, expanded to its repetitions.

    Args:
        config_path: The file; `None` for an empty config, to be filled by `load_config`.
        experiment_selections: Names of experiments, or one name; none for all.
        debug: Only a short trial of the first run of each experiment.
        debug_all: Only a short trial of each run.

    Attributes:
        config_path: The file.
        f_name: Its name without the folder.
        exp_selections: The names of the selected experiments.
        exp_configs: The `cw_config` of each repetition. Repetitions get what a script changes in those of
            `ClusterWork.config`.
        slurm_config: The section for the batch system of this host; `None` if there is none.

    Raises:
        ConfigError: The file is invalid.
    """

    def __init__(
        self,
        config_path: str | Path | None = None,
        experiment_selections: str | Sequence[str] | None = None,
        debug: bool = False,
        debug_all: bool = False,
    ) -> None:
        self.config_path: str | None = None
        self.f_name: str | None = None
        self.exp_selections = experiment_selections
        self.exp_configs: list[dict[str, Any]] | None = None
        self.slurm_config: dict[str, Any] | None = None
        self._plan: Plan | None = None
        self._before: list[dict[str, Any]] = []
        if config_path is not None:
            self.load_config(config_path, experiment_selections, debug, debug_all)

    def load_config(
        self,
        config_path: str | Path,
        experiment_selections: str | Sequence[str] | None = None,
        debug: bool = False,
        debug_all: bool = False,
    ) -> None:
        """Load another file; arguments as for the constructor."""
        mode: Debug = "debugall" if debug_all else "debug" if debug else ""
        self.use(Plan(config_path, select=experiment_selections or (), debug=mode))
        self.exp_selections = experiment_selections

    def use(self, plan: Plan) -> None:
        """Load the config of a plan."""
        self._plan = plan
        self.config_path, self.f_name = str(plan.config), plan.config.name
        self.exp_configs = [
            layout.cw_config(run, index, path) for path, run in plan.runs() for index in plan.indices(run)
        ]
        self._before = copied(self.exp_configs)
        self.slurm_config = copied(plan.resolved.cluster)

    @property
    def is_changed(self) -> bool:
        """Whether a script has changed the config since it was loaded."""
        return self._plan is not None and (
            repr(self._now()) != repr(self._before) or self.slurm_config != self._plan.resolved.cluster
        )

    def _now(self) -> list[dict[str, Any]]:
        return [as_config(config, f"exp_configs[{number}]") for number, config in enumerate(self.exp_configs or ())]

    def apply(self, plan: Plan) -> Plan:
        """Apply the changes of a script to a plan of the same config.

        Raises:
            ConfigError: A config cannot hold a value.
            ExperimentError: A repetition was removed or added, or its folder was changed.
        """
        if not self.is_changed:
            return plan
        varied: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
        jobs: dict[str, dict[str, Any]] = {}
        now = self._now()
        if len(now) != len(self._before):
            problem = f"it had {len(self._before)} configs when it was loaded, and now has {len(now)}"
            raise ExperimentError("exp_configs", problem, "select experiments with -e, or one job with -j")
        for number, (config, before) in enumerate(zip(now, self._before, strict=True)):
            _check(number, config, before)
            jobs.setdefault(before["name"], {key: config[key] for key in _OF_JOBS if key in config})
            if repr(config) != repr(before):
                own = {key: value for key, value in config.items() if key not in _OURS}
                own |= {"name": before["name"], "repetitions": before["repetitions"]}
                varied.setdefault(before["name"], {}).setdefault(before["_experiment_name"], {})[before["_rep_idx"]] = (
                    own
                )
        plan.replace([_with(one, varied.get(one.name), jobs.get(one.name, {})) for one in plan.experiments])
        if self.slurm_config != plan.resolved.cluster:
            section = as_config(self.slurm_config, "slurm_config")
            keys.check_rules(section or {}, cluster_section.RULES, (), _place("slurm_config"), raise_error)
            plan.resolved = replace(plan.resolved, sections=replace(plan.resolved.sections, cluster=section))
        return plan

    def to_yaml(self, dir_path: str | Path = "", relpath: bool = True) -> None:
        """Write the config, with all changes, to files that can be loaded again and give the same repetitions.

        The names are those of cw2: `relative_NAME.yml`, with the names of the selected experiments, and
        `EXPERIMENT/relative_NAME_EXPERIMENT.yml` for each experiment.

        Args:
            dir_path: The folder for the files; empty for that of the results.
            relpath: Whether the folder for the results is written relative to the file, so that both can be moved.

        Raises:
            ExperimentError: No config was loaded.
            OSError: A file cannot be written.
        """
        if self._plan is None or not self._plan.experiments:
            raise ExperimentError("Config.to_yaml", "no config was loaded", "Config(path).to_yaml(…)")
        plan = self.apply(self._plan)
        folder = Path(dir_path or plan.paths[0]).resolve()
        stem = plan.config.stem
        chosen = [self.exp_selections] if isinstance(self.exp_selections, str) else self.exp_selections or ()
        name = f"{'_'.join([stem, *chosen])}.yml" if chosen else plan.config.name
        everything = folder / f"relative_{name}"
        files: dict[Path, list[dict[str, Any]]] = {everything: []}
        for path, run in plan.runs():
            own = folder / run.experiment_name / f"relative_{stem}_{run.experiment_name}.yml"
            for index in plan.indices(run):
                one = layout.resolved_config(run.at(index)) | {"_rep_idx": index}
                for file in (own, everything):
                    place = os.path.relpath(path, file.parent) if relpath else str(path)
                    files.setdefault(file, []).append(one | {"path": place})
        section = [self.slurm_config] if self.slurm_config is not None else []
        for file, documents in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, write([*section, *documents]))


def _with(
    experiment: ResolvedExperiment, varied: dict[str, dict[int, dict[str, Any]]] | None, jobs: dict[str, Any]
) -> ResolvedExperiment:
    config = experiment.config | jobs
    return replace(experiment, config=config | {keys.VARIED: varied} if varied else config)


def _check(number: int, config: dict[str, Any], before: dict[str, Any]) -> None:
    """Reject changes of keys that a script cannot change, and values of the wrong type."""
    where = f"exp_configs[{number}]"
    for key in sorted(_OURS):
        if config.get(key) != before.get(key):
            problem = f"the key {key} was changed from {before.get(key)!r} to {config.get(key)!r}; amlsched sets it"
            remedy = "use -t or --results for new folders, seed for other seeds: see the page on migrating from cw2"
            raise ExperimentError(where, problem, remedy)
    keys.check_rules(config, keys.RULES, (*keys.NULLABLE, "repetitions"), _place(where), raise_error)


def _place(where: str) -> Callable[..., str]:
    return lambda *path: f"{where}, key {'.'.join(map(str, path))}"
