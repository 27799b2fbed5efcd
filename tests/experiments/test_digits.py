"""The example that `make demo` runs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from tests.experiments.conftest import Project

EXAMPLE = Path(__file__).parents[2] / "examples/digits"


def rows(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("_debug/mlp/*/log/rep_00/rep_0.csv")
    found = list(csv.DictReader(io.StringIO(path.read_text())))
    for row in found:
        del row["ts"]
    return found


def test_a_real_model_learns_the_same_on_every_executor(project: Project) -> None:
    found = []
    for executor in ("sequential", "threads", "processes", "loky"):
        done = project.call(
            "run",
            f"{EXAMPLE}/digits.py:Digits",
            f"{EXAMPLE}/digits.yml",
            "--debug",
            *("--executor", executor, "--max-workers", "2", "--results", executor),
        )
        assert done.returncode == 0, done.stderr
        found.append(rows(project.folder / executor))
    assert list(found[0][0]) == ["accuracy", "loss", "rep", "iter"]
    assert found == [found[0]] * 4
    assert 0 < float(found[0][0]["accuracy"]) < 1
