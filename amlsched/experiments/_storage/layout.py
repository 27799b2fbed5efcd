"""The layout of results: the folders and files of runs and repetitions, and their configs.

    OUTPUT/                                the experiment's `path`
        NAME/                              an experiment
            config.yml                     its resolved config
            RUN/                           a run; without expansions, NAME itself
                log/rep_00/                a repetition: out.log, err.log, rep_0.csv, record.json
        _debug/NAME/...                    the same for debug runs, so that they are never mistaken for real ones

Only `write_resolved` writes a file.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from amlsched._files import replace_file
from amlsched._surroundings import expanded, import_extra
from amlsched.errors import ConfigError
from amlsched.experiments._config.axes import DEBUG_FOLDER
from amlsched.experiments._config.expand import Debug, Run, debug_mode
from amlsched.experiments._config.resolve import ResolvedExperiment
from amlsched.experiments._config.values import copied, escaped
from amlsched.experiments._config.yaml import write

__all__ = [
    "CHECKPOINT",
    "ERR_LOG",
    "OUT_LOG",
    "RECORD",
    "RESOLVED_CONFIG",
    "csv_name",
    "cw_config",
    "experiment_folder",
    "is_resolved",
    "log_folder",
    "output_folder",
    "repetition_folder",
    "repetition_name",
    "repetition_seed",
    "resolved_config",
    "resolved_config_folder",
    "run_folder",
    "write_resolved",
]

OUT_LOG = "out.log"
ERR_LOG = "err.log"
RECORD = "record.json"
CHECKPOINT = "checkpoint"
RESOLVED_CONFIG = "config.yml"


def output_folder(experiment: ResolvedExperiment) -> Path:
    """The folder for all output of an experiment.

    A relative `path` is relative to the working folder, as in cw2; in a resolved config it is relative to the file, so
    that the whole folder can be moved.
    """
    path = experiment.config.get("_basic_path") or experiment.config["path"]
    path = expanded(path, f"{experiment.document.file}, path {path}")
    if experiment.config.get("_path_relative_to") == "file":
        return Path(os.path.normpath(experiment.document.file.parent / path))
    return path


def experiment_folder(output: str | Path, experiment: ResolvedExperiment, debug: Debug = "") -> Path:
    """The folder of an experiment and its runs.

    Args:
        output: The output folder.
        experiment: The experiment.
        debug: The debug mode; debug runs have a separate folder.
    """
    return _below(Path(output), *_parents(bool(debug_mode(experiment.config, debug))), experiment.name)


def run_folder(output: str | Path, run: Run) -> Path:
    """The folder of a run: inside its experiment's folder, or that folder itself if nothing is expanded."""
    nested = _nested(run)
    return _below(Path(output), *_parents(bool(run.debug)), *([nested] if nested else []), run.name)


def log_folder(output: str | Path, run: Run) -> Path:
    """The folder of a run's repetitions; cw2's `log_path`."""
    return run_folder(output, run) / "log"


def repetition_folder(output: str | Path, run: Run, index: int) -> Path:
    """The folder of a repetition; cw2's `_rep_log_path`.

    Args:
        output: The output folder.
        run: The run.
        index: The repetition's index, from 0.
    """
    return log_folder(output, run) / repetition_name(index)


def repetition_name(index: int) -> str:
    """Name of the folder of a repetition."""
    return f"rep_{index:02d}"


def csv_name(index: int) -> str:
    """Name of the file with a repetition's iterations."""
    return f"rep_{index}.csv"


def repetition_seed(run: Run, index: int) -> int:
    """The seed of a repetition, at least 0 and below 2**32.

    It only depends on the experiment's seed and the repetition's index. So all runs of an experiment are compared on
    the same seeds (as with cw2, where the index is the natural seed), and the executor, the order and other runs do not
    change it.

    Args:
        run: The run.
        index: The repetition's index, from 0.

    Raises:
        MissingExtraError: numpy is not installed.

    Sources:
        numpy's parallel random generation: child `index` of `SeedSequence(seed)`, its first 32 bits.
    """
    import_extra("numpy.random", "the seed of a repetition", "numpy", "experiments")
    from numpy.random import SeedSequence

    return int(SeedSequence(run.at(index).seed, spawn_key=(index,)).generate_state(1)[0])


def cw_config(run: Run, index: int, output: str | Path, cpu_cores: Iterable[int] | None = None) -> dict[str, Any]:
    """The config that a repetition's experiment class gets: all keys of the experiment, and those of cw2.

    `seed` is the experiment's, as in the file; `_seed` is the repetition's own. `iterations` is missing if it is not in
    the file.

    Args:
        run: The run.
        index: The repetition's index, from 0.
        output: The output folder.
        cpu_cores: The cores that the repetition is bound to; `None` if it is not bound.

    Returns:
        A new mapping of plain values (`cpu_cores` is a set).
    """
    config = run.at(index).config | {
        "name": run.experiment_name,
        "path": str(run_folder(output, run)),
        "log_path": str(log_folder(output, run)),
        "cpu_cores": None if cpu_cores is None else set(cpu_cores),
        "_basic_path": str(_below(Path(output), *_parents(bool(run.debug)))),
        "_nested_dir": _nested(run),
        "_experiment_name": run.name,
        "_rep_idx": index,
        "_rep_log_path": str(repetition_folder(output, run, index)),
        "_seed": repetition_seed(run, index),
    }
    config.pop("_path_relative_to", None)
    return config


def resolved_config(one: ResolvedExperiment | Run, debug: Debug = "") -> dict[str, Any]:
    """A document without imports and DEFAULT that gives the same repetitions when it is loaded.

    It has to be written to `resolved_config_folder`, because its path is relative to that.

    Args:
        one: An experiment, whose expansions are kept; or a run, for only that run.
        debug: The debug mode of the experiment; a run has its own.
    """
    experiment = one.experiment if isinstance(one, Run) else one
    debug = one.debug if isinstance(one, Run) else debug_mode(experiment.config, debug)
    config: dict[str, Any] = one.config if isinstance(one, Run) else copied(one.config)
    for key in ("_basic_path", "log_path", "_rep_idx", "_rep_log_path", "_debug"):
        config.pop(key, None)
    if isinstance(one, Run):
        config |= {"_experiment_name": one.name, "_nested_dir": _nested(one)}
    depth = len(resolved_config_folder(".", one, debug).parts)
    config = escaped(config) | {"path": "/".join([".."] * depth), "_path_relative_to": "file"}
    return config | ({"_debug": debug} if debug else {})


def resolved_config_folder(output: str | Path, one: ResolvedExperiment | Run, debug: Debug = "") -> Path:
    """The folder for a resolved config: the experiment's folder, or for a single run that of the run."""
    if isinstance(one, Run):
        return run_folder(output, one)
    folder = experiment_folder(output, one, debug)
    name = one.config.get("_experiment_name")  # a single run, from a resolved config
    return folder if one.axes or name in (None, one.name) else _below(folder, name)


def write_resolved(output: str | Path, one: ResolvedExperiment | Run, source: str | Path, debug: Debug = "") -> Path:
    """Write a resolved config to its folder; a file with the same content is not touched.

    Args:
        output: The output folder.
        one: An experiment, or a single run.
        source: The original config, which the first line names.
        debug: The debug mode of the experiment; a run has its own.

    Returns:
        The file.

    Raises:
        OSError: It cannot be written.
        MissingExtraError: PyYAML is not installed.
    """
    file, text = _resolved(output, one, source, debug)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not _says(file, text):
        replace_file(file, text)
    return file


def is_resolved(output: str | Path, one: ResolvedExperiment | Run, source: str | Path, debug: Debug = "") -> bool:
    """Whether the file exists with the content that `write_resolved` would write."""
    return _says(*_resolved(output, one, source, debug))


def _resolved(output: str | Path, one: ResolvedExperiment | Run, source: str | Path, debug: Debug) -> tuple[Path, str]:
    text = f"# Resolved from {Path(source).name!a}: the same repetitions, wherever this folder lies.\n"
    return resolved_config_folder(output, one, debug) / RESOLVED_CONFIG, text + write([resolved_config(one, debug)])


def _says(file: Path, text: str) -> bool:
    return file.is_file() and file.read_bytes() == text.encode()


def _nested(run: Run) -> str:
    """The folder between output and run; empty if the run's folder is the experiment's."""
    return run.experiment_name if run.name != run.experiment_name else ""


def _parents(debug: bool) -> list[str]:
    return [DEBUG_FOLDER] if debug else []


def _below(folder: Path, *names: str) -> Path:
    """Join folder names, and check that none leads elsewhere; a last check, as names were made safe before."""
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ConfigError(str(folder), f"{name!r} is not a valid name of a folder", "choose another name")
    return folder.joinpath(*names)
