"""Which tests run one after the other when pytest-xdist runs them in several processes (`pytest -n 4`).

Tests that share a service are one group, and a group runs in one process. The controller of pytest-xdist, which hands
the groups out, knows nothing of a test but its id; so the words of the id say to which group a test belongs.
"""

import re
from typing import Any

__all__ = ["group", "scheduling"]

_SERVICES = {
    "slurm": "slurm",
    "pbs": "pbs",
    "sge": "sge",
    "htcondor": "htcondor",
    # One process that starts them for all of their tests, as that takes seconds.
    "ray": "ray",
    "dask": "dask",
    "loky": "loky",
}

_FILES = ("tests/unit/testing/test_checks.py",)
"""One test in these sees what the others have done."""


def group(nodeid: str) -> str:
    """The group of a test; its own id where it may run beside any other."""
    path, _, name = nodeid.partition("::")
    file = path.rpartition("/")[2]
    if path in _FILES:
        return path
    words = re.findall("[a-z0-9]+", f"{file} {name}")
    found = [_SERVICES[word] for word in words if word in _SERVICES]
    service = found[-1] if found else "slurm" if path.startswith("tests/clusters/") else nodeid  # parameters stand last
    # Most tests are over Slurm, which has nodes for two at a time: see `takes_nodes` in tests/conftest.py.
    return "arrays of slurm" if service == "slurm" and path.startswith("tests/clusters/test_arra") else service


def scheduling(config: Any, log: Any) -> object:
    """What pytest-xdist asks which process runs which test."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)
