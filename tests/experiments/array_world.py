"""A project, a pretended Slurm and a user who calls commands, in processes that are forked from one that has everything
imported, and in which the commands of Slurm are functions: so that a test can make thousands of calls.

A command may be stopped or killed on its way, at any of its points: each change of a file in the results folder, and
before and after each command of Slurm. A caller in virtual time does not wait: its clock goes on by what it sleeps.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from amlsched.errors import BatchSystemError
from tests.commands import import_all
from tests.pretended_slurm import PretendedSlurm
from tests.processes import alive, state_of

__all__ = ["Call", "World"]

EXPERIMENT = """
import os, time
from pathlib import Path


def note(*words):
    with open("diary", "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")


def experiment(params, rep, log):
    note("begin", rep, os.getpid())
    log(value=rep)
    while not Path(f"go_{rep}").exists():
        if log.should_stop():
            return
        time.sleep(0.002)
    note("end", rep, os.getpid())
"""

CONFIG = """
name: SLURM
partition: main
{section}
---
name: sums
path: results
repetitions: {repetitions}
params: {{a: 1}}
"""


@dataclass
class Call:
    """A command that was started.

    Attributes:
        pid: Its process.
        place: Prefix of the files with its output and its exit code.
    """

    pid: int
    place: Path

    @property
    def code(self) -> int | None:
        """Its exit code; `None` while it runs; -1 if it was killed."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(self.place.with_suffix(".code").read_text())
        return None if alive(self.pid) else -1

    @property
    def stopped(self) -> bool:
        """Whether it was stopped on its way."""
        return state_of(self.pid) == "T"

    def wait(self, limit_s: float = 60.0, *, until_stopped: bool = False) -> Call:
        end = time.monotonic() + limit_s
        while self.code is None and not (until_stopped and self.stopped):
            assert time.monotonic() < end, f"hangs: {self.text}"
            time.sleep(0.001)
        return self

    def go_on(self) -> Call:
        """Let it go on until it ends, or is stopped again."""
        before = _switches(self.pid)
        self.signal(signal.SIGCONT)
        while self.code is None and self.stopped and _switches(self.pid) == before:
            time.sleep(0.0005)
        return self.wait(until_stopped=True)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, and wait for that."""
        self.signal(signal.SIGKILL)
        while alive(self.pid):
            time.sleep(0.001)

    @property
    def text(self) -> str:
        """What it has printed so far."""
        found = ""
        for suffix in (".out", ".err"):
            with contextlib.suppress(FileNotFoundError):
                found += self.place.with_suffix(suffix).read_text()
        return found


def _switches(pid: int) -> str:
    """How often it has given up the CPU: more often once it has gone on."""
    with contextlib.suppress(OSError):
        return next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "voluntary" in line)
    return ""


class World:
    """The folder of a project, with a Slurm of its own.

    Args:
        folder: An empty folder.
        repetitions: Of the experiment.
        section: More keys of the SLURM section.
    """

    def __init__(self, folder: Path, repetitions: int = 4, section: str = "") -> None:
        self.ways: dict[str, Any] = {}
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "calls").mkdir()
        self.slurm = PretendedSlurm(folder / "bin")
        (folder / "experiment.py").write_text(EXPERIMENT)
        self.config(repetitions, section)
        self.elements: dict[tuple[str, str], Call] = {}
        self._count = 0

    def config(self, repetitions: int, section: str = "", a: int = 1) -> None:
        text = CONFIG.format(repetitions=repetitions, section=section).replace("a: 1", f"a: {a}")
        (self.folder / "config.yml").write_text(text)

    def start(self, *words: str, way: Mapping[str, Any] | None = None, **variables: str) -> Call:
        """Start a command.

        Args:
            *words: Its arguments.
            way: How it runs: the arguments of `Way`.
            **variables: Environment variables.
        """
        self._count += 1
        place = self.folder / "calls" / str(self._count)
        variables.setdefault("PATH", f"{self.folder / 'bin'}:{os.environ['PATH']}")
        way = {**self.ways, **(way or {})}
        pid = _Parent.get().fork(words=words, folder=str(self.folder), variables=variables, place=str(place), way=way)
        return Call(pid, place)

    def call(self, *words: str) -> Call:
        return self.start(*words).wait()

    def submit(self, *words: str, **way: Any) -> Call:
        """Submit; until the command ends, or is stopped on its way."""
        call = self.start("run", "experiment.py:experiment", "config.yml", "-s", *words, way=way)
        return call.wait(until_stopped=bool(way))

    def wait(self, *words: str, **way: Any) -> Call:
        return self.start("run", "experiment.py:experiment", "config.yml", "--wait", *words, way=way)

    def status(self) -> Call:
        return self.call("status", "results")

    def cancel(self) -> Call:
        return self.call("cancel", "results")

    def begin(self, job: str, index: str) -> Call:
        """Start an element, as Slurm would."""
        self.slurm.mark(job, index, "RUNNING")
        line = next(line for line in self.slurm.script(job).splitlines() if line.startswith("exec "))
        [words] = re.findall(r"-m amlsched (.*) \"\$SLURM", line)
        call = self.start(*words.split(), index, way=None, **self.slurm.variables(job, index))
        self.elements[job, index] = call
        return call

    def finish(self, job: str, index: str) -> int:
        """Wait until an element has ended, and tell Slurm how."""
        code = self.elements.pop((job, index)).wait().code
        if (job, index) in self.slurm.in_state("RUNNING"):
            self.slurm.mark(job, index, "FAILED" if code else "COMPLETED")
        return code or 0

    def kill(self, job: str, index: str) -> None:
        """End an element, as a node that fails."""
        call = self.elements.pop((job, index))
        call.kill()
        self.note("killed", call.pid)
        if (job, index) in self.slurm.in_state("RUNNING"):
            self.slurm.mark(job, index, "NODE_FAIL")

    def let_go(self, *repetitions: int) -> None:
        """Let repetitions end."""
        for rep in repetitions:
            (self.folder / f"go_{rep}").touch()

    def run_all(self) -> None:
        """Run all elements that can run, until none is left."""
        while places := self.slurm.startable():
            for place in places:
                self.begin(*place)
                self.finish(*place)

    def note(self, *words: object) -> None:
        with (self.folder / "diary").open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def diary(self) -> list[list[str]]:
        path = self.folder / "diary"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.rglob("log/rep_*/record.json"))]

    def completions(self) -> list[int]:
        """How often each repetition was completed."""
        return [[attempt["outcome"] for attempt in record["attempts"]].count("completed") for record in self.records()]

    def parts(self) -> list[dict[str, Any]]:
        """What became of the arrays that were submitted."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("results/_arrays/*/part_*.json"))]

    def close(self) -> None:
        for place in list(self.elements):
            self.kill(*place)


class _Parent:
    """The process that has everything imported."""

    _only: _Parent | None = None

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        words = [sys.executable, "-c", "from tests.experiments.array_world import serve; serve()"]
        self._process = subprocess.Popen(words, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @classmethod
    def get(cls) -> _Parent:
        if cls._only is None:
            cls._only = cls()
        return cls._only

    def fork(self, **request: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def serve() -> None:
    """Fork a process for each line of standard input, until that ends."""
    from amlsched import cli
    from amlsched.batch_systems import commands
    from amlsched.experiments._arrays import attach, queue, run_element

    import_all()

    class Inline(run_element.ElementRun):
        """Runs in its own process: a pool for each element would take most of the time."""

        def __init__(self, target: Any, plan: Any, *, executor: str, max_workers: int, **more: Any) -> None:
            super().__init__(target, plan, executor="sequential", **more)

    run_element.ElementRun = Inline  # type: ignore[misc]
    commands._LOOK_AFTER_S = (0.0, 0.01)
    queue._SECOND_S = 0.05
    attach._LOOK_S, attach._ASK_S, attach._ASK_AT_MOST_S = 0.02, 0.05, 0.2
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _be(cli.main, **json.loads(line))
        print(pid, flush=True)


class Way:
    """How a command runs, in its own process.

    Args:
        folder: The world.
        virtual: Whether it runs in virtual time.
        stop_at: The point at which it is stopped; 0 for none.
        die_at: The point at which it is killed; 0 for none.
        step: Whether it is stopped each time that it looks again, as `--wait` does.
        bug: The name of a bug that it has; see `tests.experiments.array_bugs`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        virtual: bool = False,
        stop_at: int = 0,
        die_at: int = 0,
        step: bool = False,
        bug: str = "",
    ) -> None:
        self._slurm = PretendedSlurm.at(folder / "bin")
        self._results = f"{folder}/results"
        self._stop_at, self._die_at = stop_at, die_at
        self._count = 0
        self._ahead_s = 0.0
        self._replace_commands(virtual)
        if bug:
            from tests.experiments.array_bugs import BUGS

            BUGS[bug]()
        if virtual:
            self._replace_time(step)
        if stop_at or die_at:
            sys.addaudithook(self._see)

    def _replace_commands(self, virtual: bool) -> None:
        from amlsched.batch_systems import commands

        real = commands.completed

        def completed(title: str, words: Sequence[str], *args: Any, **more: Any) -> Any:
            if Path(shutil.which(words[0]) or "").parent != self._slurm.folder:
                return real(title, words, *args, **more)
            self._reach()
            mood, (code, out, err) = self._slurm.answer(words, str(os.getpid()) if virtual else "")
            self._reach()
            if mood == "hang":
                raise BatchSystemError(title, words[0], "did not answer within 300 s", "try again later")
            return subprocess.CompletedProcess(list(words), code, out, err)

        commands.completed = completed

    def _replace_time(self, step: bool) -> None:
        from amlsched.batch_systems import commands
        from amlsched.experiments._arrays import attach, queue, submission, submit

        def sleep(seconds: float) -> None:
            self._ahead_s += seconds

        def sleep_and_stop(seconds: float) -> None:
            sleep(seconds)
            os.kill(os.getpid(), signal.SIGSTOP)

        def monotonic() -> float:
            return time.monotonic() + self._ahead_s

        queue._SECOND_S = 2.0
        attach._LOOK_S, attach._ASK_S, attach._ASK_AT_MOST_S = 1.0, 2.0, 4.0
        clock: Any = SimpleNamespace(sleep=sleep, monotonic=monotonic, time=time.time)
        for module in (commands, queue, submission, submit, attach):
            setattr(module, "time", clock)  # noqa: B010  (for the type checkers)
        if step:
            attach.time = SimpleNamespace(sleep=sleep_and_stop, monotonic=monotonic)  # type: ignore[assignment]

    def _see(self, event: str, args: tuple[Any, ...]) -> None:
        """A point is reached with each change of a file."""
        if event == "open":
            path, _, flags = args
            changes = flags & (os.O_WRONLY | os.O_RDWR)
        else:
            path, changes = args[0] if args else "", event in ("os.rename", "os.link", "os.mkdir", "os.remove")
        if changes and str(path).startswith(self._results):
            self._reach()

    def _reach(self) -> None:
        self._count += 1
        if self._count == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._count == self._stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)


def _be(main: Any, words: list[str], folder: str, variables: dict[str, str], place: str, way: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, path in enumerate((os.devnull, f"{place}.out", f"{place}.err")):
        os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    os.environ.update(variables)
    sys.path.insert(0, folder)
    code = 1
    try:
        Way(Path(folder), **way)
        code = main(words)
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        if not isinstance(error, SystemExit):
            import traceback

            traceback.print_exc()
    finally:
        with contextlib.suppress(ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        Path(f"{place}.code.new").write_text(str(code))
        Path(f"{place}.code.new").rename(f"{place}.code")
        os._exit(code if isinstance(code, int) else 1)


@contextlib.contextmanager
def world(folder: Path, repetitions: int = 4, section: str = "", **ways: Any) -> Iterator[World]:
    """A world, whose processes end with it; all its commands run in this way."""
    made = World(folder, repetitions, section)
    made.ways = ways
    try:
        yield made
    finally:
        made.close()
