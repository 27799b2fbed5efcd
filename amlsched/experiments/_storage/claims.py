"""Claims: files by which one process at a time owns a repetition, kept alive by heartbeats.

A claim is a file `claim.1` in the repetition's folder. It is written under a temporary name and then linked to that
name, which fails if the name exists; this is atomic on NFS too, and needs no lock. Its owner touches it every `BEAT_S`
seconds. A process that finds the owner gone makes `claim.2`, and so on: the highest number counts, and of several
processes that try, one succeeds.

An owner is gone when its process is known to be dead (it ran on this host), when its batch job was started again, or
when it missed `MISSED` heartbeats. Ages are differences between files of one file system: clocks of hosts may differ.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._files import link_file
from amlsched.experiments._storage.record import Process, attributes_by_key, checked, now

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["BEAT_S", "MISSED", "Claim", "Owner", "claimed", "holder", "take"]

BEAT_S = 15.0
"""Seconds between two heartbeats."""
MISSED = 8
"""After this many missed heartbeats, the owner counts as gone."""

_NAME, _TEMPORARY = "claim.", ".claim."
_TRIES = 50
_PAUSE_S = 0.02
_pauses = random.SystemRandom()  # not from the global generator, which the program may have seeded


def _restarts() -> int:
    text = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a claim.

    Attributes:
        run_id: The run that it belongs to; unique to a driver, or to one start of an array element.
        process: The process that runs the repetition.
        since: When it made the claim: UTC, ISO 8601.
        job: The batch job that it is part of; empty for none.
        restart: How often that job had been restarted.
        beat_s: Seconds between its heartbeats.
        token: Unique id of the claim.
    """

    run_id: str
    process: Process
    since: str = field(default_factory=now)
    job: str = field(default_factory=lambda: os.environ.get("SLURM_JOB_ID", ""))
    restart: int = field(default_factory=_restarts)
    beat_s: float = BEAT_S
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def is_gone(self, age_s: float) -> bool:
        """Whether the owner no longer runs the repetition.

        Args:
            age_s: Seconds since its last heartbeat.
        """
        if self.process == Process.this():
            return self.token not in _heartbeat.tokens()
        alive = self.process.alive()
        if alive is not None:
            return not alive
        return age_s > self.beat_s * MISSED

    def can_be_taken_over_by(self, other: Owner) -> bool:
        """Whether `other` can safely take over this claim.

        It can if its executor retries the same call, or if it is the same batch job after a restart.
        """
        if self.job and self.job == other.job and self.restart < other.restart:
            return True
        return self.run_id == other.run_id and self.process.alive() is None


class Claim:
    """A claim of this process, kept alive until it is released.

    Attributes:
        owner: This process.
    """

    def __init__(self, path: Path, owner: Owner) -> None:
        self.owner = owner
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        _heartbeat.add(self)

    @property
    def lost(self) -> bool:
        """Whether another process took it over because this one seemed to be gone."""
        try:
            # Check the name too: NFS keeps a file that is removed while open on this host, under another name.
            found = os.fstat(self._file)
            return found.st_nlink == 0 or self._path.stat().st_ino != found.st_ino
        except OSError:  # it no longer exists
            return True

    def beat(self) -> None:
        """Send a heartbeat."""
        with contextlib.suppress(OSError):  # the repetition's own writes will report a failing disk
            os.utime(self._file)

    def release(self) -> None:
        """Remove the claim."""
        _heartbeat.remove(self)
        try:
            if self._path.stat().st_ino == os.fstat(self._file).st_ino:
                self._path.unlink()
        except OSError:
            pass  # taken over, or the disk fails: an owner that has exited is gone in any case
        finally:
            os.close(self._file)


class _Heartbeat:
    """A thread that touches the claims of this process as long as there are any."""

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


_heartbeat = _Heartbeat()


def _reset_heartbeat() -> None:
    global _heartbeat
    _heartbeat = _Heartbeat()  # the claims belong to the parent, and its thread does not exist here


os.register_at_fork(after_in_child=_reset_heartbeat)


def holder(folder: Path) -> Owner | None:
    """The owner that runs the repetition, without writing anything; `None` for no owner, or if in doubt.

    Only `take` is certain: it may find an owner where this function is in doubt.
    """
    latest = _latest(folder)
    if latest is None:
        return None
    _, owner, touched = latest
    age_s = time.time() - touched
    # This clock is not the file server's: if the age is implausible, ignore it.
    return None if owner.is_gone(age_s if age_s > -owner.beat_s else float("inf")) else owner


def take(folder: Path, run_id: str, beat_s: float = BEAT_S) -> Claim | Owner:
    """Claim a repetition, unless another process runs it.

    Args:
        folder: Its folder.
        run_id: The run that claims it.
        beat_s: Seconds between two heartbeats.

    Returns:
        The claim, or the owner that runs the repetition.

    Raises:
        OSError: The folder cannot be written.
    """
    owner = Owner(run_id, Process.this(), beat_s=beat_s)
    temporary = folder / f"{_TEMPORARY}{owner.token}"
    try:
        # Write before reading: NFS then refreshes the folder, and the file has the server's time.
        temporary.write_text(json.dumps(attributes_by_key(owner)), encoding="utf-8")
        for _ in range(_TRIES):
            latest = _latest(folder)
            if latest is not None:
                _, other, touched = latest
                age_s = temporary.stat().st_mtime - touched
                if not other.is_gone(age_s) and not other.can_be_taken_over_by(owner):
                    return other
            number = 1 if latest is None else latest[0] + 1
            path = folder / f"{_NAME}{number}"
            if link_file(temporary, path):
                if _is_latest(folder, number, latest):
                    _tidy(folder, number)
                    return Claim(path, owner)
                path.unlink(missing_ok=True)
                time.sleep(_pauses.uniform(0, _PAUSE_S))
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    raise OSError(errno.EAGAIN, "no claim could be made, because other processes keep trying too", str(folder))


@contextlib.contextmanager
def claimed(folder: Path, run_id: str) -> Generator[bool]:
    """Hold the claim of a repetition of this run whose own process is gone.

    Yields:
        Whether this run may write its record, since no other run has it.
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
    """The latest claim: its number, its owner, and its last heartbeat in seconds since the epoch."""
    for number in reversed(_numbers(folder)):
        with contextlib.suppress(FileNotFoundError):  # it has just been released
            return number, *_read(folder / f"{_NAME}{number}")
    return None


def _read(path: Path) -> tuple[Owner, float]:
    with path.open("rb") as file:
        touched = os.fstat(file.fileno()).st_mtime
        try:
            raw: dict[str, Any] = json.load(file)
            raw["process"] = checked(Process.from_json(raw["process"]))
            return checked(Owner(**raw)), touched
        except (
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            RecursionError,
        ):  # torn when its host crashed: only its age is known
            return Owner("", Process("", 0), "", "", 0, BEAT_S, ""), touched


def _is_latest(folder: Path, number: int, former: tuple[int, Owner, float] | None) -> bool:
    """Whether the new claim is the latest, and directly follows the one whose owner is gone.

    If not, other processes were faster: the former claim was taken over and released in the meantime.
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
    """Remove the files of owners that are gone."""
    with contextlib.suppress(OSError):
        for old in _numbers(folder):
            if old < number:
                (folder / f"{_NAME}{old}").unlink(missing_ok=True)
        ours = (folder / f"{_NAME}{number}").stat().st_mtime
        for path in folder.glob(f"{_TEMPORARY}*"):
            if ours - path.stat().st_mtime > BEAT_S * MISSED:
                path.unlink(missing_ok=True)
