"""`amlsched logs`: what the repetitions of a run printed, also while they run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from amlsched.cli._output import OK, add_command, folder, print_stderr
from amlsched.cli.parser import at_least_one
from amlsched.errors import ExperimentError

if TYPE_CHECKING:
    import argparse

    from amlsched.cli._output import Commands
    from amlsched.experiments.results.survey import Found

__all__ = ["add_to"]

_POLL_S = 0.5
_CHUNK = 2**20


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, logs, "show what the repetitions of a run printed; -f follows them while they run")
    text = "the folder for the results and the name of a run, such as results/digits__lr0.1; or the folder of a run"
    parser.add_argument("run", metavar="RESULTS/RUN", type=folder, help=text)
    text = "only these repetitions (default: all of the run)"
    parser.add_argument("--rep", metavar="N", type=int, nargs="+", action="extend", default=[], help=text)
    parser.add_argument("-n", "--lines", metavar="N", type=at_least_one, help="only the last lines of each file")
    text = "print what is added, until the repetitions have ended; Ctrl-C stops it, and they keep running"
    parser.add_argument("-f", "--follow", action="store_true", help=text)


def logs(arguments: argparse.Namespace) -> int:
    """Show what the repetitions of a run printed: out.log, then err.log, with the stack trace of a failure."""
    from amlsched.experiments.storage import layout

    repetitions = _selected(arguments.run, arguments.rep)
    files = [_File(one, name) for one in repetitions for name in (layout.OUT_LOG, layout.ERR_LOG)]
    titles = len(repetitions) > 1 or arguments.follow
    shown: _File | None = None
    nothing = True
    for file in files:
        file.skip_to(arguments.lines)
        if text := file.read():
            shown, nothing = _print(file, text, shown, titles=titles or file.name == layout.ERR_LOG), False
    if arguments.follow:
        _follow(files, shown)
    elif nothing:
        states = ", ".join(sorted({one.record.state.value for one in repetitions}))
        hint = "; -f waits for output" if any(not one.record.state.done for one in repetitions) else ""
        print_stderr(f"Nothing was printed so far (state: {states}){hint}")
    return OK


class _File:
    """A file of a repetition that may still grow."""

    def __init__(self, found: Found, name: str) -> None:
        self.found, self.name = found, name
        self.path = found.folder / name
        self._at = 0

    def __str__(self) -> str:
        return f"{self.found.run} rep {self.found.rep}, {self.name}"

    def skip_to(self, lines: int | None) -> None:
        """Go to the last lines of the file."""
        if lines is None or not self.path.is_file():
            return
        with self.path.open("rb") as file:
            end = position = file.seek(0, 2)
            count = 0
            while position and count <= lines:
                step = min(position, _CHUNK)
                position -= step
                file.seek(position)
                part = file.read(step)
                for place in range(len(part) - 1, -1, -1):
                    count += part[place] == 10 and position + place + 1 < end
                    if count == lines:
                        self._at = position + place + 1
                        return

    def read(self) -> str:
        """What was added since the last time."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._at:  # put aside, because the repetition starts again
                    self._at = 0
                file.seek(self._at)
                found = file.read()
        except FileNotFoundError:
            return ""
        self._at += len(found)
        return found.decode("utf-8", "replace")


def _print(file: _File, text: str, before: _File | None, *, titles: bool) -> _File:
    if titles and file is not before:
        print(f"{'' if before is None else chr(10)}==> {file} <==")
    sys.stdout.write(text)
    if not text.endswith("\n") and titles:
        sys.stdout.write("\n")
    sys.stdout.flush()
    return file


def _follow(files: list[_File], shown: _File | None) -> None:
    """Print what is added to files until their repetitions have ended."""
    from amlsched.experiments.storage import State, read_record

    waiting = {file.found.folder: file.found for file in files}
    while True:
        states = {place: read_record(place).state for place in waiting}
        for file in files:
            if text := file.read():
                shown = _print(file, text, shown, titles=True)
        for place, state in states.items():
            if state not in (State.PENDING, State.RUNNING):
                one = waiting.pop(place)
                print_stderr(f"{one.run} rep {one.rep}: {state.value}")
        if not waiting:
            return
        time.sleep(_POLL_S)


def _selected(place: Path, reps: list[int]) -> list[Found]:
    """The repetitions of a run, by its folder, or by the folder for the results and its name."""
    from amlsched._spelling import suggestion
    from amlsched.experiments.results.survey import survey

    where = f"RESULTS/RUN {place}"
    if place.is_dir():
        own = list(survey(place.parents[1] if place.parent.name == "log" else place))
        if place.parent.name == "log":
            own = [one for one in own if one.folder.resolve() == place.resolve()]
    else:
        every = list(survey(place.parent)) if place.parent.is_dir() else []
        own = [one for one in every if one.run == place.name]
        if not own:
            names = dict.fromkeys(one.run for one in every)
            problem = f"there is no run {place.name} in {place.parent}" if every else "there is no such folder"
            raise ExperimentError(where, problem, suggestion(place.name, names))
    runs = list(dict.fromkeys(one.run for one in own))
    if len(runs) > 1:
        raise ExperimentError(where, f"holds {len(runs)} runs", f"name one of them, such as {place}/{runs[0]}")
    known = [one.rep for one in own]
    for rep in reps:
        if rep not in known:
            hint = suggestion(str(rep), map(str, known))
            raise ExperimentError(f"--rep {rep}", f"{runs[0]} has no such repetition", hint)
    return [one for one in own if not reps or one.rep in reps]
