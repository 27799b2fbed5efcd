"""Real batch systems on this host: which tests need which.

A test says by its mark what it needs, such as `@pytest.mark.slurm`. It runs where the scripts in
`tests/clusters/systems` find that system up (`make clusters-up`), and is skipped with the reason elsewhere. A test
without such a mark finds no command of a batch system, whatever is installed here.
"""

import functools
import os
import re
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

__all__ = ["SYSTEMS", "BatchSystems", "environment", "path_without_systems", "wanted", "why_not"]

SYSTEMS = ("slurm", "sge", "htcondor", "pbs")
"""Their marks, which are the names of their scripts as well."""

_COMMANDS = (
    *("sacct", "salloc", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun"),
    *("pbsnodes", "qacct", "qalter", "qconf", "qdel", "qhold", "qhost", "qmod", "qrls", "qrsh", "qstat", "qsub"),
    *("bjobs", "bkill", "bsub", "condor_*"),
)

_SCRIPTS = Path(__file__).with_name("clusters") / "systems"


def _script(name: str, command: str, limit_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_SCRIPTS / f"{name}.sh", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )


@functools.cache
def why_not(name: str) -> str:
    """Why the tests of this system cannot run; empty if it is up."""
    try:
        up = _script(name, "status", 60).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the state of {name} is unknown: {error}"
    return "" if up else f"{name} is not up: make clusters-up SYSTEMS={name}"


@functools.cache
def environment(name: str) -> dict[str, str]:
    """The variables that make its commands the ones that are found."""
    told = _script(name, "env", 30).stdout
    return {key: os.path.expandvars(value) for key, value in re.findall(r"^export (\w+)=(.*)$", told, re.MULTILINE)}


def path_without_systems(path: str, spare: Path) -> str:
    """A search path in which no command of a batch system is found.

    Args:
        path: The search path.
        spare: An empty folder. For each folder of `path` that has such a command, one is made here that links to all
            the other commands of it.
    """
    folders: list[str] = []
    for number, folder in enumerate(path.split(os.pathsep)):
        names = os.listdir(folder) if Path(folder).is_dir() else []
        others = [name for name in names if not any(fnmatchcase(name, command) for command in _COMMANDS)]
        if len(others) < len(names):
            links = spare / str(number)
            links.mkdir()
            for name in others:
                (links / name).symlink_to(Path(folder, name).absolute())
            folders.append(str(links))
        else:
            folders.append(folder)
    return os.pathsep.join(folders)


def wanted(item: pytest.Item) -> list[str]:
    """The systems that a test needs, by its marks."""
    found = {mark.name for mark in item.iter_markers()}
    return [name for name in SYSTEMS if name in found]


class BatchSystems:
    """A pytest plugin: skips the tests of batch systems that are not up, with the command that brings them up."""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        for name in wanted(item):
            if reason := why_not(name):
                pytest.skip(reason)
