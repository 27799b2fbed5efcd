"""A program that has computed with OpenMP, and calls that do: threads of a library do not survive a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.backends import THOROUGH

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(240)

LIMIT_S = 200
FIT = """
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

def fit(seed):
    x = np.random.RandomState(seed).rand(500, 4)
    y = x[:, 0] > 0.5
    return float(HistGradientBoostingClassifier(max_iter=2).fit(x, y).score(x, y))

first = fit(0)  # here, so also in this process
"""
PROGRAM = f"""
import sys
from threadpoolctl import threadpool_info
from amlsched import Scheduler
from amlsched.plugins import Limits
{FIT}
if __name__ == "__main__":
    assert any(each["user_api"] == "openmp" and each["num_threads"] > 1 for each in threadpool_info())
    name = sys.argv[1]
    with Scheduler.from_name(name, **{{"n_workers" if name == "dask" else "max_workers": 1}}) as scheduler:
        for options in ({{}}, {{"plugins": Limits(walltime="10 min")}}, {{"batch_size": 2}}):
            assert list(scheduler.task(fit, **options).map([0, 0])) == [first, first], options
            print(*options, "done")
"""


def run(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def scikit_learn() -> None:
    pytest.importorskip("sklearn")


@pytest.mark.parametrize("executor", ["processes", *(("loky", "dask") if THOROUGH else ())])  # which never fork
def test_calls_of_a_program_that_has_used_openmp_end(executor: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    assert run("program.py", executor, folder=tmp_path) == "done\nplugins done\nbatch_size done\n"


def test_repetitions_end_where_the_module_of_the_experiment_has_used_openmp(tmp_path: Path) -> None:
    (tmp_path / "trains.py").write_text(f"{FIT}\ndef train(params, rep, log):\n    log(score=fit(0), first=first)\n")
    (tmp_path / "config.yml").write_text("name: openmp\npath: results\nrepetitions: 2\niterations: 1\n")
    out = run("-m", "amlsched", "run", "trains.py:train", "config.yml", "--executor", "processes", folder=tmp_path)
    assert "2 completed" in out
