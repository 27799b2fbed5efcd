"""Arrays on a Slurm whose answers get lost, late or garbled, over random schedules of what a user and a cluster do.

Each schedule has a seed, which is printed when it fails. More of them, others each time; and one of them again:

    AMLSCHED_EXAMPLES=200 pytest tests/experiments/test_array_schedules.py --timeout=0
    AMLSCHED_SEED=1234 pytest tests/experiments/test_array_schedules.py -k 0-
"""

from __future__ import annotations

import os
import random
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.experiments.array_world import Call, World, world

ASKED = int(os.environ.get("AMLSCHED_EXAMPLES", "0"))
SEED = os.environ.get("AMLSCHED_SEED", "")

REPETITIONS, AT_ONCE, STEPS = 5, 2, 16
SUBMITS = ("lose", "break", "late", "garble", "truncate", "empty", "refuse", "twice", "full")
QUERIES = ("lose", "garble", "truncate", "empty")
CANCELS = ("lose", "break", "refuse")


class Schedule:
    """A user and a cluster, at random.

    Args:
        made: Where they act.
        chance: Decides what they do.
    """

    def __init__(self, made: World, chance: random.Random) -> None:
        self.world, self.slurm, self.chance = made, made.slurm, chance
        self.waiting: Call | None = None
        self.told: list[str] = []

    def step(self) -> None:
        actions = [self.submit] * 3 + [self.status] * 2 + [self.cancel, self.wait, self.time] + [self.start] * 5
        actions += [self.end] * 3 + [self.kill] * 2 + [self.upset] * 6
        self.chance.choice(actions)()

    def tell(self, *words: object) -> None:
        self.told.append(" ".join(map(str, words)))

    def submit(self) -> None:
        done = self.world.submit()
        self.tell("-s", done.code, done.text)
        assert done.code in (0, 2), done.text

    def status(self) -> None:
        running = self.running()
        done = self.world.status()
        self.tell("status", done.code, done.text)
        for rep in re.findall(r"^lost +sums rep (\d+)", done.text, re.MULTILINE):
            assert int(rep) not in running, done.text

    def cancel(self) -> None:
        if self.chance.random() < 0.5:
            return
        done = self.world.cancel()
        self.tell("cancel", done.code, done.text)
        assert done.code in (0, 2), done.text

    def wait(self) -> None:
        if self.waiting is None:
            self.waiting = self.world.wait()
            self.tell("--wait")
        else:
            self.stop_waiting()

    def stop_waiting(self) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            while waiting.code is None and not waiting.text:
                pass  # Python itself is still starting
            if waiting.code is None:
                os.kill(waiting.pid, signal.SIGINT)
            waiting.wait()
            self.tell("--wait ends", waiting.code, waiting.text)
            assert "Traceback" not in waiting.text, waiting.text

    def start(self) -> None:
        if places := self.slurm.startable():
            place = self.chance.choice(places)
            before = len(self.world.diary())
            call = self.world.begin(*place)
            self.tell("starts", place)
            while call.code is None and len(self.world.diary()) == before:
                pass  # until its repetition has begun, or it has seen that there is nothing for it to do
            if call.code is not None:
                self.world.finish(*place)

    def end(self) -> None:
        if self.world.elements:
            place = self.chance.choice(sorted(self.world.elements))
            call = self.world.elements[place]
            reps = [rep for rep, pid in self.running().items() if pid == call.pid]
            self.world.let_go(*reps)
            self.world.finish(*place)
            for rep in reps:
                (self.world.folder / f"go_{rep}").unlink()
            self.tell("ends", place, reps)

    def kill(self) -> None:
        if self.world.elements:
            place = self.chance.choice(sorted(self.world.elements))
            self.world.kill(*place)
            self.tell("dies", place)

    def time(self) -> None:
        self.slurm.pass_time()
        self.reap()
        self.tell("time passes")

    def upset(self) -> None:
        name, moods = self.chance.choice([("sbatch", SUBMITS)] * 2 + [("squeue", QUERIES)] * 3 + [("scancel", CANCELS)])
        mood = self.chance.choice(moods)
        self.slurm.moods(name, mood, "")  # never twice in a row
        self.tell(name, "will", mood)

    def reap(self) -> None:
        """Slurm kills what was cancelled."""
        for place in sorted(self.world.elements):
            if place not in self.slurm.in_state("RUNNING"):
                self.world.kill(*place)
                self.tell("killed", place)

    def running(self) -> dict[int, int]:
        """The repetitions that run, with their processes, by the diary."""
        found: dict[int, int] = {}
        for what, *words in self.world.diary():
            if what == "begin":
                found[int(words[0])] = int(words[1])
            else:
                found = {rep: pid for rep, pid in found.items() if pid != int(words[-1])}
        return found

    def check(self) -> None:
        """Nothing runs twice, and no more at a time than may."""
        running: dict[str, str] = {}
        ended: Counter[str] = Counter()
        for what, *words in self.world.diary():
            if what == "begin":
                rep, pid = words
                assert rep not in running, f"{rep} runs twice"
                assert not ended[rep], f"{rep} runs after its end"
                running[rep] = pid
                assert len(running) <= AT_ONCE, f"{len(running)} at a time"
            else:
                ended.update(words[:1] if what == "end" else [])
                running = {rep: pid for rep, pid in running.items() if pid != words[-1]}

    def agree(self) -> None:
        """What `status` says of the arrays is what Slurm has."""
        text = self.world.status().text
        told = {
            job: Counter({word: int(count) for count, word in re.findall(r"(\d+) (pending|running)", stages)})
            for job, stages in re.findall(r"^array (\d+) of Slurm: (.*)$", text, re.MULTILINE)
        }
        known = {part["job"] for part in self.world.parts()}
        real = {
            job: Counter(word.lower() for word in one["elements"].values() if word in ("PENDING", "RUNNING"))
            for job, one in self.slurm.state["jobs"].items()
        }
        for job, counts in real.items():
            if counts and job not in known:
                assert f"Array {job} of Slurm" in text, text  # it was given up, and is cancelled soon
        open_reps = {record["rep"] for record in self.world.records() if record["state"] == "completed"}
        if len(open_reps) < REPETITIONS:
            assert told == {job: counts for job, counts in real.items() if counts and job in known}, text


@pytest.mark.parametrize("number", range(ASKED or 4), ids=lambda number: f"{number}-")
def test_nothing_runs_twice_and_nothing_is_forgotten(tmp_path: Path, number: int) -> None:
    seed = int(SEED) if SEED else random.randrange(2**32) if ASKED else number
    print("seed", seed)
    chance = random.Random(seed)
    with world(tmp_path / "world", REPETITIONS, f"num_parallel_jobs: {AT_ONCE}") as made:
        made.slurm.set(accounting=chance.random() < 0.5, largest=chance.choice([2, 3, 1001]))
        schedule = Schedule(made, chance)
        try:
            schedule.submit()
            for _ in range(STEPS):
                schedule.step()
                schedule.reap()
                schedule.check()
            _come_to_rest(schedule)
        except BaseException:
            print("\n".join(schedule.told))
            raise


def _come_to_rest(schedule: Schedule) -> None:
    """The bad day is over: everything runs to its end, or is cancelled, and the queue is empty."""
    made, slurm = schedule.world, schedule.slurm
    schedule.stop_waiting()
    slurm.set(moods={})
    slurm.pass_time()
    schedule.agree()
    if schedule.chance.random() < 0.3:
        done = made.cancel()
        schedule.tell("cancel", done.text)
        schedule.reap()
        assert slurm.in_state("PENDING", "RUNNING") == [], done.text
        schedule.agree()
    for place in sorted(made.elements):
        made.let_go(*range(REPETITIONS))
        made.finish(*place)
    made.let_go(*range(REPETITIONS))
    for _ in range(4):
        done = made.submit()
        schedule.tell("-s", done.text)
        assert done.code == 0, done.text
        made.run_all()
        schedule.reap()
        slurm.pass_time()
    schedule.check()
    assert made.completions() == [1] * REPETITIONS
    assert slurm.in_state("PENDING", "RUNNING") == []
    assert "Nothing to cancel" in made.cancel().text
    assert f"{REPETITIONS} completed" in made.status().text
