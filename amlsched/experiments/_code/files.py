"""Which files of a folder are code, namely what git would add to a commit; and the version of the code in it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amlsched._surroundings import expanded, import_extra
from amlsched.errors import CodeCopyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pathspec import GitIgnoreSpec

__all__ = ["Code", "MARKER", "code_files", "code_version"]

MARKER = ".amlsched-copy.json"
"""The marker file in each copy of the code."""
_NEVER = frozenset({".git", "__pycache__"})
_PATIENCE_S = 20.0
_Ignored = tuple[str, "GitIgnoreSpec"]


def code_files(source: Path, exclude: Iterable[Path] = ()) -> list[str]:
    """The files of a project, as sorted paths relative to its folder.

    Without `.git`, compiled files, other copies, and ignored files. If git is installed and the folder is in a
    repository, git lists the files (tracked ones and new ones); otherwise, pathspec reads the `.gitignore` files.

    Args:
        source: The folder, absolute.
        exclude: Files and folders to leave out.

    Raises:
        CodeCopyError: There is no such folder, it is one to leave out, or there is no code in it.
        MissingExtraError: There is a `.gitignore`, but neither git nor pathspec is installed to read it.
    """
    if not source.is_dir():
        raise CodeCopyError(str(source), "there is no such folder", "check experiment_copy_src")
    without = [expanded(path, f"the path {path}").resolve() for path in exclude]
    for path in without:
        if path == source:
            raise CodeCopyError(
                str(path), "the code cannot be copied onto itself", "choose another folder for the copy"
            )
    names = _of_git(source) or list(_of_folder(source, "", []))  # a folder above may ignore everything here
    without += [(source / name).parent for name in names if name.endswith(f"/{MARKER}")]
    code = sorted(name for name in names if name != MARKER and _is_code(source, name, without))
    if not code:
        raise CodeCopyError(str(source), "there is no code in this folder", "check experiment_copy_src and .gitignore")
    return code


def _is_code(source: Path, name: str, without: Sequence[Path]) -> bool:
    if not _NEVER.isdisjoint(Path(name).parts) or name.endswith((".pyc", ".pyo")):
        return False
    return not any((source / name).is_relative_to(path) for path in without)


def _of_git(source: Path) -> list[str] | None:
    """The files that git lists; `None` if git is not installed or the folder is not in a repository."""
    command = ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    found: list[str] = []
    for name in dict.fromkeys(os.fsdecode(done.stdout).split("\0")):
        path = source / name
        if name and path.is_dir() and not path.is_symlink():  # a nested repository
            found += [str(Path(name, below)) for below in _of_git(path) or _of_folder(path, "", [])]
        elif name and os.path.lexists(path):  # otherwise it is deleted, but the deletion is not committed
            found.append(name)
    return found


def _of_folder(source: Path, below: str, ignored: Sequence[_Ignored]) -> Iterator[str]:
    """The files below a folder that no `.gitignore` matches."""
    ignored = [*ignored, *_gitignore(source, below)]
    with os.scandir(source / below) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{below}{entry.name}"
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name in _NEVER or _is_ignored(f"{name}/" if is_folder else name, ignored):
                continue
            if is_folder:
                yield from _of_folder(source, f"{name}/", ignored)
            elif entry.is_symlink() or entry.is_file():
                yield name


def _gitignore(source: Path, below: str) -> list[_Ignored]:
    file = source / below / ".gitignore"
    if not file.is_file():
        return []
    import_extra("pathspec", f"reading {file} without git", "pathspec", "experiments")
    from pathspec import GitIgnoreSpec

    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [(below, GitIgnoreSpec.from_lines(lines))]


def _is_ignored(name: str, ignored: Sequence[_Ignored]) -> bool:
    """Whether a file is ignored; the deepest `.gitignore` with a matching rule decides."""
    for below, spec in reversed(ignored):
        included = spec.check_file(name.removeprefix(below)).include
        if included is not None:
            return included
    return False


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
