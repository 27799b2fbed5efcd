"""A Slurm that only pretends: a folder with its state and its diary, and commands that read and write them.

It starts nothing by itself: a test starts elements and ends them, and lets time pass. A process that has imported this
module can have the answer of a command without an interpreter for it: `PretendedSlurm.answer`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.unkind import SOCKET, Answer, in_mood

__all__ = ["COMMANDS", "PretendedSlurm"]

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sacct")
LIVE = ("PENDING", "RUNNING")


class PretendedSlurm:
    """The pretended Slurm.

    Args:
        folder: Its folder, which has to be in `PATH`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = folder / "state.json"
        for name in COMMANDS:
            (folder / name).write_text(
                f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
                "from tests.pretended_slurm import main\nmain()\n"
            )
            (folder / name).chmod(0o755)
        state = {"largest": 1001, "limit": 10_000, "accounting": False, "jobs": {}, "late": [], "moods": {}}
        state["misled"] = {}
        self.place.write_text(json.dumps(state))

    @classmethod
    def at(cls, folder: Path) -> PretendedSlurm:
        """The one that was created in a folder."""
        slurm = object.__new__(cls)
        slurm.folder, slurm.place = folder, folder / "state.json"
        return slurm

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """The state, written back at the end; nobody else changes it meanwhile."""
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = json.loads(self.place.read_text())
            yield state
            new = self.place.with_suffix(".new")
            new.write_text(json.dumps(state))
            new.replace(self.place)

    @property
    def state(self) -> dict[str, Any]:
        return json.loads(self.place.read_text())

    def set(self, **values: object) -> None:
        with self.changing() as state:
            state.update(values)

    def moods(self, name: str, *moods: str) -> None:
        """What the next calls of a command do: see `tests.unkind`."""
        with self.changing() as state:
            state["moods"].setdefault(name, []).extend(moods)

    def answer(self, words: Sequence[str], caller: str = "") -> tuple[str, Answer]:
        """What a command does and answers, and the mood that it is in.

        Args:
            words: The command and its arguments.
            caller: Who calls it. One who was misled by the last call of a command is not misled by the next one.
        """
        name = words[0]
        with self.changing() as state:
            moods, misled = state["moods"].get(name, []), state["misled"]
            last = f"{name} {caller}"
            mood = "" if not moods or (caller and misled.pop(last, False)) else moods.pop(0)
            misled[last] = bool(mood)

            def act() -> Answer:
                if name == "sbatch":
                    return _submitted(self, state, words[-1])
                commands = {"squeue": _squeue, "sacct": _sacct, "scancel": _scancel, "scontrol": _scontrol}
                return commands[name](self, state, list(words[1:]))

            if mood == "late":
                state["late"].append(words[-1])
                return mood, (1, "", SOCKET.format(name=name))
            return mood, in_mood(mood, name, act)

    def mark(self, job: str, index: str, word: str) -> None:
        with self.changing() as state:
            state["jobs"][job]["elements"][index] = word

    def sizes(self) -> list[int]:
        return [len(job["elements"]) for job in self.state["jobs"].values()]

    def script(self, job: str) -> str:
        return self.state["jobs"][job]["text"]

    def after(self, job: str) -> list[str]:
        return [line for line in self.script(job).splitlines() if "--dependency" in line]

    def diary(self) -> list[list[str]]:
        """What it was asked to do, in order: `["submitted", "3"]`, `["cancelled", "3_0"]`."""
        path = self.folder / "diary"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def variables(self, job: str, index: str, restart: int = 0) -> dict[str, str]:
        return {
            "SLURM_ARRAY_TASK_ID": index,
            "SLURM_ARRAY_JOB_ID": job,
            "SLURM_JOB_ID": f"{job}0{index}",
            "SLURM_RESTART_COUNT": str(restart),
        }

    def run(self, job: str, index: str, restart: int = 0) -> int:
        """Run an element, as Slurm would."""
        self.mark(job, index, "RUNNING")
        variables = os.environ | self.variables(job, index, restart)
        done = subprocess.run(["bash"], input=self.script(job), text=True, env=variables, timeout=60, check=False)
        self.mark(job, index, "FAILED" if done.returncode else "COMPLETED")
        return done.returncode

    def in_state(self, *words: str) -> list[tuple[str, str]]:
        """The elements in one of these states: the id of the array, and the index."""
        jobs = self.state["jobs"].items()
        return [(job, index) for job, one in jobs for index, word in one["elements"].items() if word in words]

    def pending(self) -> list[tuple[str, str]]:
        return self.in_state("PENDING")

    def startable(self) -> list[tuple[str, str]]:
        """The pending elements that could start now."""
        jobs = self.state["jobs"]

        def live(job: str) -> int:
            return sum(word in LIVE for word in jobs[job]["elements"].values()) if job in jobs else 0

        def running(job: str) -> int:
            return sum(word == "RUNNING" for word in jobs[job]["elements"].values())

        return [
            (job, index)
            for job, index in self.pending()
            if not any(map(live, jobs[job]["after"])) and running(job) < (jobs[job]["at_once"] or 10_000)
        ]

    def pass_time(self) -> None:
        """What was submitted late enters the queue, and the queue forgets elements that have ended."""
        with self.changing() as state:
            late, state["late"] = state["late"], []
            for script in late:
                _submitted(self, state, script)
            for job in state["jobs"].values():
                for index, word in job["elements"].items():
                    if word not in LIVE and index not in job["forgotten"]:
                        job["forgotten"].append(index)


def _note(slurm: PretendedSlurm, *words: str) -> None:
    with (slurm.folder / "diary").open("a") as file:
        file.write(" ".join(words) + "\n")


def _submitted(slurm: PretendedSlurm, state: dict[str, Any], place: str) -> Answer:
    try:
        script = Path(place).read_text()
    except FileNotFoundError:
        return 1, "", f"sbatch: error: Unable to open file {place}\n"
    found = re.search(r"--array=0-([0-9]+)(?:%([0-9]+))?", script)
    after = re.search(r"--dependency=afterany:([0-9:]+)", script)
    assert found is not None
    last = int(found[1])
    live = sum(word in LIVE for job in state["jobs"].values() for word in job["elements"].values())
    failed = "sbatch: error: Batch job submission failed: "
    if last >= state["largest"]:
        return 1, "", f"{failed}Invalid job array specification\n"
    if live + last + 1 > state["limit"]:
        return 1, "", f"{failed}Job violates accounting/QOS policy (job submit limit)\n"
    job = str(len(state["jobs"]) + 1)
    state["jobs"][job] = {
        "script": place,
        "text": script,
        "elements": {str(index): "PENDING" for index in range(last + 1)},
        "forgotten": [],
        "at_once": int(found[2]) if found[2] else None,
        "after": after[1].split(":") if after else [],
    }
    _note(slurm, "submitted", job)
    return 0, f"{job}\n", ""


def _squeue(slurm: PretendedSlurm, state: dict[str, Any], words: list[str]) -> Answer:
    wanted = next((word[7:].split(",") for word in words if word.startswith("--jobs=")), None)
    lines: list[str] = []
    for job, one in state["jobs"].items():
        elements = {index: word for index, word in one["elements"].items() if index not in one["forgotten"]}
        if "--me" in words:
            lines += [f"{job}|{one['script']}"] * bool(elements)
        elif wanted is None or job in wanted:
            lines += [f"{job}|{index}|{word}||None" for index, word in elements.items()]
    return 0, "".join(f"{line}\n" for line in lines), ""


def _sacct(slurm: PretendedSlurm, state: dict[str, Any], words: list[str]) -> Answer:
    if not state["accounting"]:
        return 1, "", "Slurm accounting storage is disabled\n"
    jobs = state["jobs"].items()
    return 0, "".join(f"{j}_{i}|{word}|0:0|n1\n" for j, one in jobs for i, word in one["elements"].items()), ""


def _scancel(slurm: PretendedSlurm, state: dict[str, Any], words: list[str]) -> Answer:
    for word in words:
        job, _, indices = word.partition("_")
        if job not in state["jobs"]:
            return 1, "", f"scancel: error: Kill job error on job id {word}: Invalid job id specified\n"
        elements = state["jobs"][job]["elements"]
        chosen = [
            str(index)
            for low, high in re.findall(r"([0-9]+)(?:-([0-9]+))?", indices)
            for index in range(int(low), int(high or low) + 1)
        ] or list(elements)
        _note(slurm, "cancelled", word)
        for index in chosen:
            if elements.get(index) in LIVE:
                elements[index] = "CANCELLED"
    return 0, "", ""


def _scontrol(slurm: PretendedSlurm, state: dict[str, Any], words: list[str]) -> Answer:
    if words[:1] == ["requeue"]:
        job, _, index = words[1].partition("_")
        state["jobs"][job]["elements"][index] = "PENDING"
        _note(slurm, "requeued", words[1])
        return 0, "", ""
    return 0, f"MaxArraySize            = {state['largest']}\n", ""


def main() -> None:
    """One of its commands."""
    place = Path(sys.argv[0])
    _, (code, out, err) = PretendedSlurm.at(place.parent).answer([place.name, *sys.argv[1:]])
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.exit(code)
