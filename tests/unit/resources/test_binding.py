"""How many threads the libraries of a worker start: what is set for them, and what the user has set before."""

from __future__ import annotations

import os
import subprocess

import pytest

from amlsched.resources import thread_environment
from amlsched.resources.binding import (
    WorkerThreads,
    cpu_share,
    exports,
    shared_threads,
    worker_environment,
    worker_threads,
)

NAMES = tuple(thread_environment(1))


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "6")


def test_a_worker_has_its_share_of_the_cpus() -> None:
    assert [cpu_share(n) for n in (1, 2, 4, 100)] == [6, 3, 1, 1]
    assert worker_environment("auto", 3) == dict.fromkeys(NAMES, "3")


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    assert worker_environment("auto", 3) == {name: "3" for name in NAMES if name != "MKL_NUM_THREADS"}
    assert worker_environment(2, 3) == dict.fromkeys(NAMES, "2")
    assert shared_threads(2) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert worker_environment("auto", 3) == {}  # the others fall back to it
    assert worker_environment(2, 3) == dict.fromkeys(NAMES, "2")
    assert shared_threads(2) is None


def test_nothing_is_set_for_none() -> None:
    assert worker_environment(None, 3) == {}
    assert exports(None, 3) == []


@pytest.mark.parametrize(
    ("threads", "given", "found"),
    [
        ("auto", {}, "3 3"),
        ("auto", {"OMP_NUM_THREADS": "5"}, "5 5"),
        ("auto", {"MKL_NUM_THREADS": "5"}, "3 5"),
        (2, {"OMP_NUM_THREADS": "5"}, "2 2"),
    ],
)
def test_a_batch_job_exports_the_same(threads: WorkerThreads, given: dict[str, str], found: str) -> None:
    script = "\n".join([*exports(threads, 3), "echo $OMP_NUM_THREADS $MKL_NUM_THREADS"])
    done = subprocess.run(["sh", "-c", script], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found


@pytest.mark.parametrize("value", [True, 2.0, "2", "all", [1]])
def test_a_value_of_another_type_is_named(value: object) -> None:
    with pytest.raises(
        (TypeError, ValueError), match=r"threads_per_worker=.*: must be a whole number of at least 1, 'auto' or None"
    ):
        worker_threads(value)


def test_a_number_below_one_is_named() -> None:
    with pytest.raises(ValueError, match="native_threads=0: must be at least 1, 'auto' or None"):
        worker_threads(0, "native_threads")
