"""A disk that is full or read-only: nothing is half-written, and the run goes on from there when it is fixed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXPERIMENT = """
def experiment(params, rep, log):
    for n in range(20):
        log(text="x" * 500, n=n)
        if params["saves"]:
            log.save(n)
"""


def mount(folder: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A project whose results lie on a file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can be mounted by root alone")
    (tmp_path / "results").mkdir()
    mount(tmp_path / "results", "size=256k")
    try:
        (tmp_path / "experiment.py").write_text(EXPERIMENT)
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "results")], check=True)


def run(project: Path, executor: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "amlsched", "run", "experiment.py:experiment", "config.yml"]
    return subprocess.run(
        [*words, "--quiet", "--executor", executor],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def states(project: Path) -> list[str]:
    return [json.loads(path.read_text())["state"] for path in sorted(project.glob("results/disk/log/*/record.json"))]


@pytest.mark.parametrize("saves", [False, True], ids=["", "with checkpoints"])
@pytest.mark.parametrize("executor", ["sequential", "threads", "processes"])
def test_a_full_disk_stops_the_run_and_once_there_is_room_it_goes_on(project: Path, executor: str, saves: bool) -> None:
    count = 40
    (project / "config.yml").write_text(
        f"{{name: disk, path: results, repetitions: {count}, params: {{saves: {str(saves).lower()}}}}}"
    )
    done = run(project, executor)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert str(project / "results/disk") in done.stderr
    assert "the same command then resumes" in done.stderr
    assert "Traceback" not in done.stderr
    completed = states(project).count("completed")
    assert 0 < completed < count
    assert set(states(project)) <= {"completed", "cancelled", "running"}
    for path in project.glob("results/disk/log/*/*.csv"):
        assert path.read_bytes()[-1:] in (b"", b"\n"), "a row is there as a whole, or not at all"

    subprocess.run(["mount", "-o", "remount,size=32m", str(project / "results")], check=True)
    done = run(project, executor)
    assert done.returncode == 0, done.stderr
    assert f"Ran {count - completed} in" in done.stdout
    for index in range(count):
        folder = project / f"results/disk/log/rep_{index:02d}"
        attempts = json.loads((folder / "record.json").read_text())["attempts"]
        assert [attempt["outcome"] for attempt in attempts].count("completed") == 1
        rows = csv.DictReader((folder / f"rep_{index}.csv").read_text().splitlines())
        assert [int(row["n"]) for row in rows] == list(range(20))
        leftovers = [path.name for path in folder.iterdir() if path.name.startswith((".record", ".claim", "claim"))]
        assert leftovers == []


def test_a_disk_that_is_read_only_is_told_before_anything_starts(project: Path) -> None:
    (project / "config.yml").write_text("{name: disk, path: results, repetitions: 2, params: {saves: false}}")
    subprocess.run(["mount", "-o", "remount,ro", str(project / "results")], check=True)
    done = run(project, "processes")
    assert done.returncode == 2
    assert f"results folder {'results'}: cannot be written: Read-only file system" in done.stderr
    subprocess.run(["mount", "-o", "remount,rw", str(project / "results")], check=True)
    assert run(project, "processes").returncode == 0
