"""What is left when a driver ends, in whatever way."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clusters.site import Site
from tests.processes import until


@pytest.mark.parametrize(
    ("ending", "limit_s"), [(signal.SIGKILL, 90.0), (signal.SIGINT, 60.0)], ids=["killed", "interrupted"]
)
def test_the_queue_is_empty_soon_after_the_driver_has_ended(
    ending: signal.Signals, limit_s: float, site: Site, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.clusters.driver", site.name, json.dumps(site.options(n_workers=2))]
    with (tmp_path / "driver.err").open("w") as errors:
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "running\n", (tmp_path / "driver.err").read_text()
        until(lambda: len(site.jobs()) == 2, 60)
        driver.send_signal(ending)
        begun = time.monotonic()
        driver.wait(limit_s)
        until(lambda: not site.jobs(), limit_s - (time.monotonic() - begun))
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()
    assert not list((tmp_path / "jobs").glob(".keys-*/*"))
