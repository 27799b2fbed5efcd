"""What the tests of batch systems share."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.site import KINDS, Site

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
