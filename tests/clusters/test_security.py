"""Who may talk to a cluster, and who may read its keys."""

import asyncio
import stat
from pathlib import Path

import pytest

from tests import calls
from tests.clusters.site import Site


def test_a_client_without_the_keys_can_neither_submit_nor_see_anything(slurm: Site) -> None:
    distributed = pytest.importorskip("distributed")
    with slurm.scheduler(1).executor as executor:
        assert executor.submit(calls.double, 2).result(90) == 4
        address = executor.cluster.scheduler_address
        assert address.startswith("tls://127.0.0.1:")
        for stranger, security in (
            (address.replace("tls://", "tcp://"), None),
            (address, distributed.Security.temporary()),
        ):
            with pytest.raises(OSError, match=r"Timed out|timed out|certificate|closed"):
                asyncio.run(_connect(stranger, security))
        keys = [path for path in (slurm.folder / "jobs").glob(".keys-*/*") if path.is_file()]
        assert keys
        assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
        assert {stat.S_IMODE(path.parent.stat().st_mode) for path in keys} == {0o700}
        dashboard = executor.cluster.scheduler.http_server
        assert _hosts(dashboard) == {"127.0.0.1"}
    assert not list((slurm.folder / "jobs").glob(".keys-*"))


async def _connect(address: str, security: object) -> None:
    from distributed import Client

    async with Client(address, security=security, timeout=4, asynchronous=True, set_as_default=False) as client:
        await client.submit(calls.double, 1)


def _hosts(server: object) -> set[str]:
    return {one.getsockname()[0] for one in server._sockets.values()}  # type: ignore[attr-defined]


def test_keys_are_no_part_of_the_job_script(slurm: Site) -> None:
    with slurm.scheduler(1).executor as executor:
        executor.submit(calls.double, 2).result(90)
        script: Path
        (script,) = (slurm.folder / "jobs").glob("slurm-job-*.sh")
        assert "PRIVATE KEY" not in script.read_text()
        assert str(slurm.folder / "jobs" / ".keys-") in script.read_text()
