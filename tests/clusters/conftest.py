"""What the tests of batch systems share."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.clusters.site import KINDS, Site, said
from tests.unkind import Unkind

_ROOT = Path(__file__).parents[2]


def _marked(names: tuple[str, ...]) -> list[Any]:
    return [pytest.param(KINDS[name], id=name, marks=getattr(pytest.mark, name)) for name in names]


def _site(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _batch_system: None
) -> Iterator[Site]:
    (tmp_path / "here").mkdir()  # where some leave files of output
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", str(_ROOT), prepend=os.pathsep)  # workers import from `tests`
    site = Site(request.param, tmp_path)
    yield site
    if left := site.jobs():  # of a test that failed; or they are about to end
        with contextlib.suppress(AssertionError):
            site.cancel(*left)


site = pytest.fixture(params=_marked(tuple(KINDS)))(_site)
"""Each batch system."""

slurm = pytest.fixture(params=_marked(("slurm",)))(_site)
slurm_or_sge = pytest.fixture(params=_marked(("slurm", "sge")))(_site)
queued = pytest.fixture(params=_marked(("slurm", "sge", "pbs")))(_site)
"""Those that have queues with names."""


# What real systems do that those on this host do not, for any test that asks for it.


@pytest.fixture
def unkind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _batch_system: None) -> Unkind:
    """Wrappers of all commands of batch systems, which lose, delay, garble or refuse when the test says so."""
    names = ("sbatch", "squeue", "scancel", "qsub", "qstat", "qdel", "condor_submit", "condor_q", "condor_rm")
    made = Unkind(tmp_path / "unkind", *names)
    monkeypatch.setenv("PATH", made.path, prepend=os.pathsep)
    return made


@pytest.fixture
def cancelling(_batch_system: None) -> Iterator[str]:
    """A partition of Slurm whose jobs are cancelled when those of `high` preempt them."""
    name = f"cancelling-{uuid4().hex[:6]}"
    settings = ("Nodes=ALL", "DefaultTime=60", "MaxTime=INFINITE", "PriorityTier=10", "PreemptMode=CANCEL", "State=UP")
    said("scontrol", "create", f"PartitionName={name}", *settings)
    yield name
    subprocess.run(["scancel", "--partition", name], check=False, capture_output=True)
    said("scontrol", "delete", f"PartitionName={name}")


@pytest.fixture
def without_scontrol(tmp_path: Path) -> str:
    """A line of shell after which a job finds no `scontrol`, as in a container."""
    folder = tmp_path / "no-scontrol"
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for path in Path(place).iterdir() if Path(place).is_dir() else ():
            with contextlib.suppress(FileExistsError):  # the first one counts
                if path.name != "scontrol":
                    (folder / path.name).symlink_to(path.absolute())
    return f"export PATH={folder}"


@pytest.fixture
def full(unkind: Unkind) -> Unkind:
    """Submit commands that say from the next call on that the queue is full, until the test says otherwise."""
    unkind.always("sbatch", "full")
    return unkind
