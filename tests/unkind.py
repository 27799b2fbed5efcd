"""Commands of a batch system on a bad day: they do what they are asked to, and then lose the answer, or garble it.

A test puts wrappers in front of the real commands, or of those of the pretended Slurm, and says what the next calls do:

    unkind = Unkind(folder, "sbatch", "squeue")
    monkeypatch.setenv("PATH", unkind.path, prepend=":")
    unkind.next("sbatch", "lose")
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["MOODS", "SOCKET", "Answer", "Unkind", "in_mood"]

SOCKET = "{name}: error: Batch job submission failed: Socket timed out on send/recv operation\n"
MOODS = {
    "": "works",
    "lose": "does what it is asked to, and says that the connection was lost",
    "break": "does nothing, and says the same",
    "late": "says the same at once, and does what it is asked to a moment later",
    "garble": "does what it is asked to, and prints something else",
    "truncate": "does what it is asked to, and prints half of what it had to say",
    "empty": "does what it is asked to, and prints nothing",
    "refuse": "does nothing, and says why in words that nobody expects",
    "twice": "does what it is asked to two times",
    "hang": "does what it is asked to, and does not return",
    "full": "does nothing, and says that the queue is full",
}
"""What a command may do."""
LATE_S = 3.0

Answer = tuple[int, str, str]
"""Exit code, standard output and standard error."""


class Unkind:
    """Wrappers of commands.

    Args:
        folder: A folder for them, which is created.
        *names: The commands.

    Attributes:
        path: The folder that has to be the first of `PATH`.
    """

    def __init__(self, folder: Path, *names: str) -> None:
        self.path = str(folder)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        root = str(Path(__file__).resolve().parents[1])
        for name in names:
            file = folder / name
            text = "from tests.unkind import main\nmain()\n"
            file.write_text(f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {root!r})\n{text}")
            file.chmod(0o755)

    def next(self, name: str, *moods: str) -> None:
        """What the next calls of a command do."""
        assert set(moods) <= MOODS.keys()
        with (self._folder / f"{name}.moods").open("a") as file:
            file.writelines(f"{mood}\n" for mood in moods)

    def always(self, name: str, mood: str) -> None:
        """What all calls of a command do from now on, once the next ones have been made."""
        assert mood in MOODS
        (self._folder / f"{name}.always").write_text(mood)

    def pid(self, name: str) -> int:
        """The process of the last call of a command."""
        return int((self._folder / f"{name}.pid").read_text())

    def calls(self, name: str) -> list[str]:
        """The arguments of the calls of a command so far."""
        return _lines(self._folder / f"{name}.calls")


def in_mood(mood: str, name: str, act: Callable[[], Answer]) -> Answer:
    """What a command answers that is in this mood; `act` does what it is asked to."""
    lost = 1, "", SOCKET.format(name=name)
    if mood in ("break", "late"):
        return lost
    if mood == "refuse":
        return 1, "", f"{name}: error: the moon is full\n"
    if mood == "full":
        return 1, "", f"{name}: error: Slurm temporarily unable to accept job, sleeping and retrying.\n"
    if mood == "twice":
        act()
    code, out, err = act()
    if mood == "lose":
        return lost
    if mood == "garble":
        return 0, "\x1b[2Jwelcome to the cluster, today is a holiday | 12 nodes\n", ""
    if mood == "truncate":
        return code, out[: len(out) // 2], err
    return (0, "", "") if mood == "empty" else (code, out, err)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _take_mood(folder: Path, name: str) -> str:
    """What this call does, by what the test has said."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (folder / f"{name}.calls").open("a") as file:
            file.write(" ".join(sys.argv[1:]).replace("\n", " ") + "\n")
        (folder / f"{name}.pid").write_text(str(os.getpid()))
        moods = _lines(folder / f"{name}.moods")
        if moods:
            (folder / f"{name}.moods").write_text("".join(f"{mood}\n" for mood in moods[1:]))
            return moods[0]
        return next(iter(_lines(folder / f"{name}.always")), "")


def main() -> None:
    """A wrapper: calls the command of the same name that comes after it in `PATH`."""
    own = Path(sys.argv[0]).absolute()
    os.environ["PATH"] = ":".join(place for place in os.environ["PATH"].split(":") if Path(place) != own.parent)
    text = sys.stdin.buffer.read()

    def act() -> Answer:
        done = subprocess.run([own.name, *sys.argv[1:]], input=text, capture_output=True, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    mood = _take_mood(own.parent, own.name)
    if mood == "late" and os.fork() == 0:
        os.setsid()
        for number in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        time.sleep(LATE_S)
        act()
        os._exit(0)
    code, out, err = in_mood(mood, own.name, act)
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.stdout.flush()
    sys.stderr.flush()
    if mood == "hang":
        time.sleep(600)
    sys.exit(code)
