"""Jobs of workers on a Slurm that loses, delays and garbles its answers, over random schedules.

The Slurm is a few lines of this process that keep a diary. No job is forgotten in its queue, and once it answers again,
there are as many jobs as workers. The seed of a schedule that fails is shown; more of them:

    AMLSCHED_EXAMPLES=2000 pytest tests/unit/executors/_jobqueue/test_executor_schedules.py
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amlsched import BatchSystemError
from amlsched.batch_systems import System, commands
from amlsched.executors._jobqueue import executor, job_monitor, worker_history
from amlsched.executors._jobqueue.job_monitor import JobMonitor
from amlsched.executors._jobqueue.settings import of_job
from tests.backends import needs

pytestmark = needs("dask_jobqueue")

SCHEDULES = int(os.environ.get("AMLSCHED_EXAMPLES", "0")) or 200
N_WORKERS = 3
MOODS = {
    "sbatch": ("lose", "break", "late", "garble", "empty", "refuse", "twice", "hang"),
    "squeue": ("break", "garble", "empty", "hang"),
    "scancel": ("lose", "break"),
}

FOUND = {"sbatch": ("lose", "garble", "empty", "hang")}
"""What is accepted, though the answer does not say so; the queue does."""


class Slurm:
    """The pretended Slurm.

    Attributes:
        live: The states of the jobs in its queue, by their ids.
        diary: What happened.
    """

    def __init__(self) -> None:
        self.live: dict[str, str] = {}
        self.scripts: dict[str, str] = {}
        self.diary: list[str] = []
        self._moods: dict[str, deque[str]] = {name: deque() for name in MOODS}
        self._late: list[str] = []

    def upset(self, name: str, mood: str) -> None:
        self.diary.append(f"the next {name}: {mood}")
        self._moods[name].append(mood)

    def calm(self) -> None:
        """From now on, it answers; what was late has come."""
        for moods in self._moods.values():
            moods.clear()
        self._come()

    def run(self, system: System, words: Sequence[str], *args: object, **more: object) -> str:
        """In place of `commands.run`."""
        name = words[0]
        mood = self._moods[name].popleft() if self._moods[name] else ""
        text = {"sbatch": self._sbatch, "squeue": self._squeue, "scancel": self._scancel}[name](words, mood)
        self.diary.append(f"{name} {mood or 'works'}: {text.split()}")
        if mood in ("lose", "break", "late"):
            raise BatchSystemError("Slurm", name, "Socket timed out on send/recv operation")
        if mood == "hang":
            raise BatchSystemError("Slurm", name, "did not answer within 60 s")
        if mood == "refuse":
            raise BatchSystemError("Slurm", name, "the moon is full")
        return {"garble": "welcome to the cluster", "empty": ""}.get(mood, text)

    def _sbatch(self, words: Sequence[str], mood: str) -> str:
        script = words[-1]
        if mood == "late":
            self._late.append(script)
        elif mood not in ("break", "refuse"):
            job = self._accept(script)
            return f"Submitted batch job {self._accept(script) if mood == 'twice' else job}\n"
        return ""

    def _accept(self, script: str) -> str:
        job = str(len(self.scripts) + 1)
        self.live[job], self.scripts[job] = "PENDING", script
        return job

    def _come(self) -> None:
        while self._late:
            self._accept(self._late.pop())

    def _squeue(self, words: Sequence[str], mood: str) -> str:
        if "--format=%F|%o" in words:
            found = "".join(f"{job}|{self.scripts[job]}\n" for job in self.live)
            self._come()  # after the first look
            return found
        wanted = next(word for word in words if word.startswith("--jobs=")).removeprefix("--jobs=").split(",")
        return "".join(f"{job}|{self.live[job]}|n1|None\n" for job in wanted if job in self.live)

    def _scancel(self, words: Sequence[str], mood: str) -> str:
        if mood != "break":
            for job in words[1:]:
                self.live.pop(job, None)
        return ""


class Cluster:
    """What dask's cluster does of it: jobs by the names of their workers."""

    def __init__(self, provider: Any) -> None:
        self.scheduler = SimpleNamespace(add_plugin=lambda plugin: None)
        self.worker_spec: dict[int, Any] = {number: {} for number in range(N_WORKERS)}
        self.workers: dict[int, Any] = {}
        self._created: set[Any] = set()
        self._lock = asyncio.Lock()
        self._provider = provider

    async def _correct_state(self) -> None:
        async with self._lock:
            names = sorted(set(self.worker_spec) - set(self.workers))
            options = of_job(self._provider._settings)
            jobs = {name: self._provider._job("tcp://127.0.0.1:1", name=name, **options) for name in names}
            self._created.update(jobs.values())
            await asyncio.gather(*(job.start() for job in jobs.values()))
            self.workers.update(jobs)


class Schedule:
    """One run of a scheduler, at random."""

    def __init__(self, folder: Path, seed: int, moods: Mapping[str, Sequence[str]] = MOODS) -> None:
        self.slurm, self.chance, self.moods = Slurm(), random.Random(seed), moods
        options = {"cores": 1, "memory": "1 GB", "log_directory": str(folder), "walltime": "1:00:00"}
        options["scheduler_options"] = {"host": "127.0.0.1"}  # type: ignore[assignment]
        self.provider = executor.JobProvider("slurm", N_WORKERS, False, None, None, None, True, None, options)
        self.known: list[str] = []

    async def run(self) -> None:
        self.provider.cluster = self.cluster = Cluster(self.provider)
        self.monitor = JobMonitor(
            self.provider.system,
            self.cluster,
            logs=Path("nowhere"),
            script=Path("job.sh"),
            start_timeout=None,
            canceller=SimpleNamespace(add=self.known.append),  # type: ignore[arg-type]
            busy=lambda: True,
            fail=lambda error: None,
        )
        rejected = ""
        try:
            for _ in range(self.chance.randrange(10, 40)):
                await self.step()
            if self.chance.random() < 0.7:
                self.slurm.calm()
                await self.settle()
        except BatchSystemError as error:  # as all first submissions were rejected
            rejected = str(error)
        self.slurm.calm()
        await self.provider._end_jobs()
        assert self.slurm.live == {}, "forgotten in the queue"
        assert not rejected or "the moon is full" in rejected

    async def step(self) -> None:
        actions = [self.monitor._tick] * 5 + [self.start] * 3 + [self.end, self.lose_worker, self.upset, self.upset]
        await self.chance.choice(actions)()
        tracked = [job.job_id for job in self.cluster.workers.values() if job.job_id]
        assert len(tracked) == len(set(tracked)) <= N_WORKERS
        if self.moods is FOUND and not (self.monitor._submitting or self.monitor._closing):
            assert set(self.slurm.live) <= set(tracked), "a job runs that nobody knows"

    async def settle(self) -> None:
        """Now that Slurm answers, there is a job for each worker before long."""
        for _ in range(30):
            await self.monitor._tick()
            await self.start()
        jobs = {job.job_id for job in self.cluster.workers.values()}
        assert len(jobs) == N_WORKERS, jobs
        assert jobs <= set(self.slurm.live), jobs

    async def start(self) -> None:
        """A job starts, and its worker connects."""
        waiting = [job for job, state in self.slurm.live.items() if state == "PENDING"]
        if waiting:
            job = self.chance.choice(waiting)
            self.slurm.live[job] = "RUNNING"
            for name, mine in self.cluster.workers.items():
                if mine.job_id == job:
                    self.monitor._history.came(f"tcp://{job}", str(name))
                    self.monitor._history.done(f"tcp://{job}")
                    self.slurm.diary.append(f"worker {name} of job {job} connects")

    async def end(self) -> None:
        """A job ends, with its worker."""
        if self.slurm.live:
            job = self.chance.choice(list(self.slurm.live))
            self.slurm.diary.append(f"job {job} ends")
            del self.slurm.live[job]
            self.monitor._history.left(f"tcp://{job}", busy=True, retired=False)

    async def lose_worker(self) -> None:
        """A worker leaves a job that goes on."""
        if here := self.monitor._history.here():
            record = self.chance.choice(here)
            self.slurm.diary.append(f"the worker {record.address} leaves")
            self.monitor._history.left(record.address, busy=True, retired=False)

    async def upset(self) -> None:
        name = self.chance.choice(sorted(self.moods))
        self.slurm.upset(name, self.chance.choice(self.moods[name]))


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, values in {
        job_monitor: {"_TICK_S": 0.02, "_SETTLED_S": 0.0, "_QUERIED_S": (0.0, 0.0), "_AGAIN_S": 0.0},
        worker_history: {"_PAUSES_S": (0.0, 0.0), "EARLY_ENDS": 1000},
        commands: {"_LOOK_AFTER_S": (0.0, 0.0, 0.0), "check_command": lambda *_: None},
    }.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    for name in ("_GRACE_S", "_RESTARTED_S"):
        monkeypatch.setattr(job_monitor, name, 0.0)


def check(folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch, moods: Mapping[str, Sequence[str]]) -> None:
    schedule = Schedule(folder, seed, moods)
    monkeypatch.setattr(commands, "run", schedule.slurm.run)
    try:
        asyncio.run(schedule.run())
    except BaseException as error:
        error.add_note(f"seed {seed}:\n" + "\n".join(schedule.slurm.diary))
        raise


@pytest.mark.parametrize("part", range(4))
def test_no_job_is_forgotten_and_in_the_end_there_is_one_for_each_worker(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(part, SCHEDULES, 4):
        check(tmp_path, seed, monkeypatch, MOODS)


def test_a_job_whose_answer_is_lost_is_used_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SCHEDULES // 4):
        check(tmp_path, seed, monkeypatch, FOUND)
