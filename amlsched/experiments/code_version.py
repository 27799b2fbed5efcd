"""The version of the code that produced results."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Code", "code_version"]

_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Code:
    """A version of the code of an experiment.

    Attributes:
        commit: The git commit, in full.
        dirty: Whether tracked files were changed since that commit.
    """

    commit: str
    dirty: bool

    def __str__(self) -> str:
        return self.commit[:12] + (" with changes" if self.dirty else "")


def code_version(folder: Path) -> Code | None:
    """The version of the code in a folder; `None` if git is missing or the folder is not in a repository."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return None if not commit or changes is None else Code(commit, bool(changes))


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", str(folder), "--no-optional-locks", *words]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # git is not installed, or the file system is very slow
        return None
    return done.stdout.strip() if done.returncode == 0 else None
