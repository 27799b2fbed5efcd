"""Who runs a repetition now: a claim in its folder, that only one can make and that its owner keeps fresh.

A claim is a file `claim.1`. It is written under a name of its own and then linked to that name, which fails where the
name is taken: NFS holds this too, and needs no lock. Its owner touches it every `BEAT_S` seconds. Whoever finds an
owner gone makes `claim.2`, and so on: the highest number counts, and of several who try, one gets it.

An owner is gone when its process is provably dead (it was one of this host), when its batch job was started again, or
when it missed `MISSED` beats. Ages are taken between files of one file system, so that hosts may disagree on the time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.experiments.record import Process, checked, now

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["BEAT_S", "MISSED", "Claim", "Owner", "claimed", "holder", "take"]

BEAT_S = 15.0
"""Seconds between two beats."""
MISSED = 8
"""So many beats missed, and the owner counts as gone."""

_NAME, _TEMPORARY = "claim.", ".claim."
_TRIES = 50
_PAUSE_S = 0.02
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def _restarts() -> int:
    text = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


@dataclass(frozen=True, slots=True)
class Owner:
    """Who made a claim.

    Attributes:
        run_id: The run that it works for; unique to a driver, or to one start of an array element.
        process: The process that runs the repetition.
        since: UTC, ISO 8601.
        job: The batch job that it is part of; empty for none.
        restart: How often that job had been started again.
        beat_s: Seconds between its beats.
        token: Tells this claim from any other.
    """

    run_id: str
    process: Process
    since: str = field(default_factory=now)
    job: str = field(default_factory=lambda: os.environ.get("SLURM_JOB_ID", ""))
    restart: int = field(default_factory=_restarts)
    beat_s: float = BEAT_S
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def gone(self, age_s: float) -> bool:
        """Whether nobody is left behind this claim.

        Args:
            age_s: Seconds since its last beat.
        """
        if self.process == Process.this():
            return self.token not in _heart.tokens()
        alive = self.process.alive()
        if alive is not None:
            return not alive
        return age_s > self.beat_s * MISSED

    def gives_way_to(self, other: Owner) -> bool:
        """Whether the other one knows that this one is gone.

        So it is where its executor gave it the same call, and where it is the same batch job, started again.
        """
        if self.job and self.job == other.job and self.restart < other.restart:
            return True
        return self.run_id == other.run_id and self.process.alive() is None


class Claim:
    """A claim of this process; it is kept fresh until it is released.

    Attributes:
        owner: This process.
    """

    def __init__(self, path: Path, owner: Owner) -> None:
        self.owner = owner
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        _heart.add(self)

    @property
    def lost(self) -> bool:
        """Whether somebody else took it, because this process seemed gone."""
        try:
            # By its name, too: NFS keeps a removed file that is open on this host under another one.
            found = os.fstat(self._file)
            return found.st_nlink == 0 or self._path.stat().st_ino != found.st_ino
        except OSError:  # it is no more
            return True

    def beat(self) -> None:
        """Show that the owner is there."""
        with contextlib.suppress(OSError):  # the disk will say so again, to somebody who can tell of it
            os.utime(self._file)

    def release(self) -> None:
        """Give it up."""
        _heart.remove(self)
        try:
            if self._path.stat().st_ino == os.fstat(self._file).st_ino:
                self._path.unlink()
        except OSError:
            pass  # taken over, or a disk that fails: an owner that has ended is gone in any case
        finally:
            os.close(self._file)


class _Heart:
    """A thread that touches the claims of this process while there are any."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._changed = threading.Condition()
        self._beating = False

    def tokens(self) -> frozenset[str]:
        with self._changed:
            return frozenset(self._claims)

    def add(self, claim: Claim) -> None:
        with self._changed:
            self._claims[claim.owner.token] = claim
            if not self._beating:
                self._beating = True
                threading.Thread(target=self._beat, name="amlsched-claims", daemon=True).start()
            self._changed.notify_all()

    def remove(self, claim: Claim) -> None:
        with self._changed:
            self._claims.pop(claim.owner.token, None)

    def _beat(self) -> None:
        due = 0.0
        while True:
            with self._changed:
                every = min((claim.owner.beat_s for claim in self._claims.values()), default=BEAT_S)
                due = time.monotonic() + every
                while time.monotonic() < due and not any(c.owner.beat_s < every for c in self._claims.values()):
                    self._changed.wait(due - time.monotonic())
                if not self._claims:
                    self._beating = False
                    return
                for claim in self._claims.values():
                    claim.beat()


_heart = _Heart()


def _new_heart() -> None:
    global _heart
    _heart = _Heart()  # the claims are the parent's, and its thread is not here


os.register_at_fork(after_in_child=_new_heart)


def holder(folder: Path) -> Owner | None:
    """Who runs the repetition now, as far as can be told from here by looking; `None` for nobody, or if in doubt.

    Only `take` is sure: it may find an owner where this one doubts.
    """
    latest = _latest(folder)
    if latest is None:
        return None
    _, owner, touched = latest
    age_s = time.time() - touched
    # Another clock than the file's: one that says something odd is not believed.
    return None if owner.gone(age_s if age_s > -owner.beat_s else float("inf")) else owner


def take(folder: Path, run_id: str, beat_s: float = BEAT_S) -> Claim | Owner:
    """Claim the repetition, unless somebody runs it.

    Args:
        folder: Its folder.
        run_id: The run that claims it.
        beat_s: Seconds between two beats.

    Returns:
        The claim; or who runs it.

    Raises:
        OSError: The folder cannot be written.
    """
    owner = Owner(run_id, Process.this(), beat_s=beat_s)
    temporary = folder / f"{_TEMPORARY}{owner.token}"
    try:
        # Written before anything is looked for: NFS then shows this folder as it is, and the file tells its time.
        temporary.write_text(json.dumps(asdict(owner)), encoding="utf-8")
        for _ in range(_TRIES):
            latest = _latest(folder)
            if latest is not None:
                _, other, touched = latest
                age_s = temporary.stat().st_mtime - touched
                if not other.gone(age_s) and not other.gives_way_to(owner):
                    return other
            number = 1 if latest is None else latest[0] + 1
            path = folder / f"{_NAME}{number}"
            if _linked(temporary, path):
                if _stands(folder, number, latest):
                    _tidy(folder, number)
                    return Claim(path, owner)
                path.unlink(missing_ok=True)
                time.sleep(random.uniform(0, _PAUSE_S))
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    raise OSError(errno.EAGAIN, "no claim could be made, as others try the same", str(folder))


@contextlib.contextmanager
def claimed(folder: Path, run_id: str) -> Generator[bool]:
    """Hold the claim of a repetition of this run that cannot speak for itself.

    Yields:
        Whether it is for this run to say: nobody else runs it.
    """
    claim = take(folder, run_id)
    try:
        yield isinstance(claim, Claim) or claim.run_id == run_id
    finally:
        if isinstance(claim, Claim):
            claim.release()


def _numbers(folder: Path) -> list[int]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(_NAME)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name[len(_NAME) :]) for name in names if name[len(_NAME) :].isdecimal())


def _latest(folder: Path) -> tuple[int, Owner, float] | None:
    """The claim that counts: its number, who made it, and its last beat in seconds since the epoch."""
    for number in reversed(_numbers(folder)):
        with contextlib.suppress(FileNotFoundError):  # released meanwhile
            return number, *_read(folder / f"{_NAME}{number}")
    return None


def _read(path: Path) -> tuple[Owner, float]:
    with path.open("rb") as file:
        touched = os.fstat(file.fileno()).st_mtime
        try:
            raw: dict[str, Any] = json.load(file)
            raw["process"] = checked(Process(**raw["process"]))
            return checked(Owner(**raw)), touched
        except (
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            RecursionError,
        ):  # torn when its host crashed: only its age says something
            return Owner("", Process("", 0), "", "", 0, BEAT_S, ""), touched


def _linked(temporary: Path, path: Path) -> bool:
    """Whether this process made the claim."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if temporary.stat().st_nlink > 1:  # NFS: it was made, and the answer was lost
            return True
        if error.errno not in _NO_LINKS:
            if isinstance(error, FileExistsError):
                return False
            raise
        try:  # a file system without links
            with path.open("xb") as file:
                file.write(temporary.read_bytes())
        except FileExistsError:
            return False
    return True


def _stands(folder: Path, number: int, former: tuple[int, Owner, float] | None) -> bool:
    """Whether the new claim is the one that counts, and followed the one that was found gone.

    Otherwise others were faster: the former one was taken over and released in the meantime.
    """
    numbers = _numbers(folder)
    if not numbers or numbers[-1] != number:
        return False
    if former is None:
        return True
    try:
        return _read(folder / f"{_NAME}{former[0]}")[0].token == former[1].token
    except FileNotFoundError:
        return False


def _tidy(folder: Path, number: int) -> None:
    """Remove what owners that are gone left behind."""
    with contextlib.suppress(OSError):
        for old in _numbers(folder):
            if old < number:
                (folder / f"{_NAME}{old}").unlink(missing_ok=True)
        ours = (folder / f"{_NAME}{number}").stat().st_mtime
        for path in folder.glob(f"{_TEMPORARY}*"):
            if ours - path.stat().st_mtime > BEAT_S * MISSED:
                path.unlink(missing_ok=True)
