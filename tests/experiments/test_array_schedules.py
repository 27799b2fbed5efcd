"""Arrays on a Slurm whose answers get lost, late or garbled, over random schedules of what users and a cluster do.

After each step, the books of the pretended Slurm and the files of the submissions are compared: see `Books`. Each
schedule has a seed, which is printed when it fails. More of them, others each time; one of them again; and whether
they notice the bugs of `array_bugs.py`:

    AMLSCHED_EXAMPLES=200 pytest tests/experiments/test_array_schedules.py --timeout=0
    AMLSCHED_SEED=1234 pytest tests/experiments/test_array_schedules.py -k 0-
    AMLSCHED_EXAMPLES=200 pytest tests/experiments/test_array_schedules.py --timeout=0 -k noticed
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.array_bugs import BUGS
from tests.experiments.array_world import Call, World, world

ASKED = int(os.environ.get("AMLSCHED_EXAMPLES", "0"))
SEED = os.environ.get("AMLSCHED_SEED", "")

REPETITIONS, AT_ONCE, STEPS = 5, 2, 24
SUBMITS = ("lose", "break", "late", "late", "late", "garble", "truncate", "empty", "refuse", "twice", "full", "hang")
QUERIES = ("lose", "garble", "truncate", "empty", "hang")
CANCELS = ("lose", "break", "refuse")
POINTS = 60
"""A command has about so many points at which it can be stopped or killed."""


class Books:
    """What Slurm has in its queue, and what the files of submissions make of it.

    An element is effective if its repetitions would run once it starts: neither it nor its array was given up.
    """

    def __init__(self, made: World) -> None:
        self.made = made
        jobs = made.slurm.state["jobs"]
        self.live: dict[tuple[str, str], str] = {
            (job, index): word
            for job, one in jobs.items()
            for index, word in one["elements"].items()
            if word in ("PENDING", "RUNNING")
        }
        self.after = {job: one["after"] for job, one in jobs.items()}
        self.parts: dict[str, dict[str, Any]] = {}
        """The part of each array with live elements; `job` is missing if it is open."""
        self.repetition: dict[tuple[str, str], int] = {}
        """The repetitions of effective elements."""
        for job in dict.fromkeys(job for job, _ in self.live):
            self._read(job, Path(jobs[job]["script"]))

    def _read(self, job: str, script: Path) -> None:
        folder, (part, mark, _) = script.parent, script.name.split(".")
        assert (folder / "submission.json").exists(), f"array {job} is in the queue, and its submission was removed"
        part = self.part(folder / part)
        assert part.get("mark") == mark, f"array {job} is in the queue, and nobody knows it"
        self.parts[job] = part
        if part.get("job", job) != job:
            return
        work = json.loads((folder / "submission.json").read_text())["work"]
        dropped = folder / "dropped.json"
        cancelled = json.loads(dropped.read_text()) if dropped.exists() else []
        numbers = part["chosen"] or range(part["first"], part["first"] + part["count"])
        for place in self.live:
            if place[0] == job and numbers[int(place[1])] not in cancelled:
                [[repetition]] = work[numbers[int(place[1])]]["repetitions"].values()
                self.repetition[place] = repetition

    @staticmethod
    def part(path: Path) -> dict[str, Any]:
        if path.with_suffix(".json").exists():
            return json.loads(path.with_suffix(".json").read_text())
        if not path.with_suffix(".asked").exists():
            return {}
        part = json.loads(path.with_suffix(".asked").read_text())
        del part["job"]
        return part

    @property
    def unseen(self) -> set[str]:
        """Second arrays with a mark: of a wrapper that tries twice, where the queue could not be asked then."""
        surplus = {path.name for path in self.made.folder.glob("results/_arrays/*/surplus/*")}
        return {job for job, part in self.parts.items() if part.get("job", job) not in ("", job)} - surplus

    def check(self) -> None:
        """No repetition is in two arrays, and no more elements can run at a time than may."""
        marks: dict[int, set[str]] = defaultdict(set)
        for place, repetition in self.repetition.items():
            marks[repetition].add(self.parts[place[0]]["mark"])
        twice = {repetition for repetition, found in marks.items() if len(found) > 1}
        assert not twice, f"in two arrays: {twice}"
        can_run: Counter[str] = Counter()
        live = {job for job, _ in self.live}
        for place in self.repetition:
            if not live.intersection(self.after[place[0]]):
                can_run[self.parts[place[0]]["mark"]] += 1
        at_once = sum(min(AT_ONCE, count) for count in can_run.values())
        assert at_once <= AT_ONCE, f"{at_once} can run at a time"


class Schedule:
    """Users and a cluster, at random.

    Args:
        made: Where they act.
        chance: Decides what they do.
    """

    def __init__(self, made: World, chance: random.Random) -> None:
        self.world, self.slurm, self.chance = made, made.slurm, chance
        self.waiting: Call | None = None
        self.halted: Call | None = None
        self.told: list[str] = []
        self.created: dict[str, str] = {}
        self.cancelled: set[int] = set()
        """The repetitions that were cancelled, until the next submission."""
        self.quiet = False
        """Whether nothing may be submitted, as all was cancelled."""

    def step(self) -> None:
        actions = [self.submit] * 3 + [self.status] * 3 + [self.cancel, self.wait, self.time] + [self.start] * 5
        actions += [self.end] * 3 + [self.kill] * 2 + [self.upset] * 6 + [self.look, self.warn] + [self.preempt] * 2
        actions += [self.halt] * 2
        self.chance.choice(actions)()
        self.reap()
        self.check()

    def tell(self, *words: object) -> None:
        self.told.append(" ".join(map(str, words)))

    # ----------------------------------------------------------------------------------------------------------- users

    def submit(self) -> None:
        self.quiet, self.cancelled = False, set()
        calm = self.calm and self.halted is None
        done = self.world.submit()
        self.tell("-s", done.code, done.text)
        assert done.code in (0, 2), done.text
        if calm:
            assert done.code == 0, done.text
            missing = self.incomplete() - set(Books(self.world).repetition.values())
            assert not missing or "to be submitted" in done.text, f"not submitted: {missing}"

    def status(self) -> None:
        running = self.running()
        calm = self.calm
        done = self.world.status()
        self.tell("status", done.code, done.text)
        assert done.code == 0, done.text
        lost = {int(rep) for rep in re.findall(r"^lost +sums rep (\d+)", done.text, re.MULTILINE)}
        assert not lost & running.keys(), f"lost, though they run: {done.text}"
        assert not lost & self.cancelled, f"lost, though they were cancelled: {done.text}"
        if calm and self.halted is None:
            self.agree(done.text)

    def cancel(self) -> None:
        if self.chance.random() < 0.5:
            return
        calm, before = self.calm, Books(self.world)
        done = self.world.cancel()
        self.tell("cancel", done.code, done.text)
        assert done.code in (0, 2), done.text
        if self.halted is None:
            after = Books(self.world)
            assert not after.repetition, f"not cancelled: {after.repetition}"
            left = {job for job, _ in after.live} - after.unseen
            assert not (calm and left), f"cancelled, and in the queue: {left}"
            self.cancelled = set(before.repetition.values()) & self.incomplete()
            self.quiet = True

    def wait(self) -> None:
        if self.waiting is None:
            self.waiting = self.world.wait(step=True).wait(until_stopped=True)
            self.tell("--wait")
        elif self.chance.random() < 0.3:
            self.stop_waiting()
        else:
            self.look()

    def look(self) -> None:
        """Some seconds pass for the one who waits."""
        for _ in range(self.chance.randrange(1, 8)):
            if self.waiting is None or self.waiting.go_on().code is not None:
                break
        if self.waiting is not None and self.waiting.code is not None:
            self.stop_waiting()

    def stop_waiting(self) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            if waiting.code is None:
                waiting.signal(signal.SIGINT)
                waiting.signal(signal.SIGCONT)
            waiting.wait()
            self.tell("--wait ends", waiting.code, waiting.text)
            assert "Traceback" not in waiting.text, waiting.text
            assert waiting.code in (0, 1, 2, 130), waiting.code
            if waiting.code == 0:
                assert not self.incomplete(), waiting.text

    def halt(self) -> None:
        """Another command is halted on its way, and goes on, or is killed, some time later."""
        if self.halted is not None:
            halted, self.halted = self.halted, None
            if self.chance.random() < 0.5:
                halted.kill()
                self.tell("killed on its way", halted.text)
            else:
                halted.signal(signal.SIGCONT)
                halted.wait()
                self.tell("goes on", halted.code, halted.text)
                assert halted.code in (0, 2), halted.text
            return
        point = self.chance.randrange(1, POINTS)
        self.quiet, self.cancelled = False, set()
        if self.chance.random() < 0.8:
            call = self.world.submit(stop_at=point)
        else:
            call = self.world.start("cancel", "results", way={"stop_at": point}).wait(until_stopped=True)
        self.tell("another command", call.code, f"is halted at {point}" if call.code is None else call.text)
        if call.code is None:
            self.halted = call

    # --------------------------------------------------------------------------------------------------------- cluster

    def start(self) -> None:
        if places := self.slurm.startable():
            known = Books(self.world).repetition
            others = [place for place in places if place not in known]
            place = self.chance.choice(others if others and self.chance.random() < 0.5 else places)
            before = len(self.world.diary())
            effective = place in known
            call = self.world.begin(*place)
            self.tell("starts", place)
            while call.code is None and len(self.world.diary()) == before:
                pass  # until its repetition has begun, or it has seen that there is nothing for it to do
            assert effective or len(self.world.diary()) == before, f"{place} runs, though it was given up"
            if call.code is not None:
                self.world.finish(*place)

    def end(self) -> None:
        if self.world.elements:
            place = self.chance.choice(sorted(self.world.elements))
            reps = self.reps_of(place)
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

    def preempt(self) -> None:
        """The site cancels what it preempts."""
        if self.world.elements:
            place = self.chance.choice(sorted(self.world.elements))
            self.world.kill(*place)
            if place in self.slurm.in_state("NODE_FAIL"):
                self.slurm.mark(*place, "PREEMPTED")
            self.tell("is preempted", place)

    def warn(self) -> None:
        """The time of an element is nearly over."""
        if self.world.elements:
            place = self.chance.choice(sorted(self.world.elements))
            if self.chance.random() < 0.5:
                self.slurm.moods("scontrol", "refuse")
            call = self.world.elements[place]
            call.signal(signal.SIGUSR1)
            code = self.world.finish(*place)
            self.world.note("killed", call.pid)
            self.slurm.set(moods={**self.slurm.state["moods"], "scontrol": []})
            self.tell("is warned", place, code)

    def time(self) -> None:
        self.slurm.pass_time()
        self.tell("time passes")

    def upset(self) -> None:
        kinds = [("sbatch", SUBMITS)] * 2 + [("squeue", QUERIES)] * 3 + [("scancel", CANCELS), ("sacct", QUERIES)]
        name, moods = self.chance.choice(kinds)
        mood = self.chance.choice(moods)
        self.slurm.moods(name, mood)  # never twice in a row for the same process
        self.tell(name, "will", mood)

    def reap(self) -> None:
        """Slurm kills what was cancelled."""
        for place in sorted(self.world.elements):
            if place not in self.slurm.in_state("RUNNING"):
                self.world.kill(*place)
                self.tell("killed", place)

    # ------------------------------------------------------------------------------------------------------- the books

    @property
    def calm(self) -> bool:
        """Whether each command of Slurm answers as it should."""
        return not any(self.slurm.state["moods"].values()) and not self.slurm.state["late"]

    def incomplete(self) -> set[int]:
        records = self.world.records()
        return set(range(REPETITIONS)) - {record["rep"] for record in records if record["state"] == "completed"}

    def reps_of(self, place: tuple[str, str]) -> list[int]:
        call = self.world.elements[place]
        return [rep for rep, pid in self.running().items() if pid == call.pid]

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
        """Nothing runs twice or is submitted twice, and no more at a time than may."""
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
        books = Books(self.world)
        books.check()
        assert not (self.quiet and books.repetition), f"was cancelled: {books.repetition}"
        for path in self.world.folder.glob("results/_arrays/*/submission.json"):
            created = json.loads(path.read_text())["created"]
            assert self.created.setdefault(path.parent.name, created) == created, "a number was used twice"

    def agree(self, text: str) -> None:
        """What `status` says of the arrays is what Slurm has."""
        told = {
            job: Counter({word: int(count) for count, word in re.findall(r"(\d+) (pending|running)(?! \(to)", stages)})
            for job, stages in re.findall(r"^array (\d+) of Slurm: (.*)$", text, re.MULTILINE)
        }
        told = {job: counts for job, counts in told.items() if counts}
        books = Books(self.world)
        real: dict[str, Counter[str]] = defaultdict(Counter)
        for (job, _), word in books.live.items():
            if books.parts[job].get("job") == job:
                real[job][word.lower()] += 1
            elif job not in books.unseen:
                assert f"Array {job} of Slurm" in text, text  # it was given up, or is found just now
        open_ones = self.incomplete()
        for job, counts in real.items():
            reps = {rep for (other, _), rep in books.repetition.items() if other == job}
            assert told.get(job, counts if not reps & open_ones else None) == counts, text
        assert told.keys() <= real.keys(), text


def run(folder: Path, seed: int, bug: str = "") -> None:
    """One schedule."""
    chance = random.Random(seed)
    with world(folder, REPETITIONS, f"num_parallel_jobs: {AT_ONCE}", virtual=True, bug=bug) as made:
        made.slurm.set(accounting=chance.random() < 0.5, largest=chance.choice([2, 3, 1001]))
        schedule = Schedule(made, chance)
        try:
            schedule.submit()
            for _ in range(STEPS):
                schedule.step()
            _come_to_rest(schedule)
        except BaseException as error:
            error.add_note(f"seed {seed}:\n" + "\n".join(schedule.told))
            raise
        finally:
            for call in filter(None, (schedule.waiting, schedule.halted)):
                call.kill()


def _come_to_rest(schedule: Schedule) -> None:
    """The bad day is over: everything runs to its end, or is cancelled, and the queue is empty."""
    made, slurm = schedule.world, schedule.slurm
    schedule.stop_waiting()
    if schedule.halted is not None:
        schedule.halt()
    slurm.set(moods={})
    slurm.pass_time()
    schedule.check()
    schedule.status()
    if schedule.chance.random() < 0.3:
        done = made.cancel()
        schedule.tell("cancel", done.text)
        schedule.reap()
        left = Books(made)
        assert {job for job, _ in left.live} <= left.unseen, done.text
        schedule.quiet, schedule.cancelled = True, set()
        schedule.status()
    for place in sorted(made.elements):
        made.let_go(*range(REPETITIONS))
        made.finish(*place)
    made.let_go(*range(REPETITIONS))
    schedule.submit()
    schedule.check()
    made.run_all()
    schedule.check()
    assert made.completions() == [1] * REPETITIONS
    assert slurm.in_state("PENDING", "RUNNING") == []
    slurm.pass_time()
    assert "Nothing to cancel" in made.cancel().text
    assert f"{REPETITIONS} completed" in made.status().text


@pytest.mark.parametrize("number", range(ASKED or 8), ids=lambda number: f"{number}-")
def test_nothing_runs_twice_and_nothing_is_forgotten(tmp_path: Path, number: int) -> None:
    seed = int(SEED) if SEED else random.randrange(2**32) if ASKED else number
    print("seed", seed)
    run(tmp_path / "world", seed)


@pytest.mark.parametrize("largest", [1001, 2])
@pytest.mark.parametrize("mood", ["", "lose", "late", "full"])
def test_a_submission_may_be_killed_at_any_point(tmp_path: Path, largest: int, mood: str) -> None:
    """The next one adopts what is in the queue, and submits the rest, once."""
    for point in range(1, 200) if ASKED else random.Random(f"{largest}{mood}").sample(range(1, POINTS // 2), 3):
        folder = tmp_path / str(point)
        with world(folder, REPETITIONS, f"num_parallel_jobs: {AT_ONCE}", virtual=True) as made:
            made.slurm.set(largest=largest)
            if mood:
                made.slurm.moods("sbatch", *["", mood] if largest == 2 else [mood])
            killed = made.submit(die_at=point)
            assert killed.code in (-1, 0, 2), killed.text
            made.slurm.set(moods={})
            Books(made).check()
            done = made.submit()
            assert done.code == 0, f"{point}: {done.text}"
            books = Books(made)
            books.check()
            assert sorted(books.repetition.values()) == list(range(REPETITIONS)), f"{point}: {done.text}"
            made.slurm.pass_time()  # what was submitted late enters the queue, and does nothing if it was given up
            made.let_go(*range(REPETITIONS))
            made.run_all()
            assert made.completions() == [1] * REPETITIONS, point
            assert made.slurm.in_state("PENDING", "RUNNING") == []
            print(f"killed at point {point}: {killed.code}, then {done.text.splitlines()[0]}")
        if killed.code != -1 and ASKED:
            return


if ASKED:

    @pytest.mark.parametrize("bug", BUGS)
    def test_a_bug_is_noticed(tmp_path: Path, bug: str) -> None:
        for seed in range(ASKED):
            try:
                run(tmp_path / "world", seed, bug)
            except AssertionError as error:
                print(f"{bug}: noticed by schedule {seed}: {str(error).splitlines()[0]}")
                return
            shutil.rmtree(tmp_path / "world")
        pytest.fail(f"{bug}: not noticed by {ASKED} schedules")
