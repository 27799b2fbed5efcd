"""Copy the code for jobs that wait in a queue, so that later edits do not change what they run.

A copy is made next to its destination, synced, and renamed, with a marker file that holds the hash of all files. So a
copy is complete or does not exist, and a job can verify that it runs from that copy and from nothing else.

Which copy is made, the section for a batch system and the command line request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from amlsched._files import sync
from amlsched._surroundings import expanded
from amlsched.errors import CodeCopyError, ConfigError
from amlsched.experiments._code.files import MARKER, code_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import ModuleType

__all__ = ["CodeCopy", "CopyPlan", "MARKER", "MAX_BYTES", "check_runs_from", "copy_code", "zip_code"]

MAX_BYTES = 200_000_000
"""The default limit of a copy, as in cw2: a larger one mostly means that data or results are among the code."""
_FORMAT = 1
_VARIABLE = "AMLSCHED_CODE_COPY"
_ATTEMPTS = 3
Mode = Literal["none", "copy", "multi", "zip"]
_SRC, _DST, _AUTO_DST = "experiment_copy_src", "experiment_copy_dst", "experiment_copy_auto_dst"


@dataclass(frozen=True, slots=True)
class CodeCopy:
    """A complete copy of the code.

    Attributes:
        source: The folder that was copied, absolute.
        folder: The folder of the copy, absolute.
        digest: Hash of the names and contents of all its files.
        files: The names of its files, relative to the folder.
        n_bytes: The total size of the files.
        made: When it was made: local time, ISO 8601.
    """

    source: Path
    folder: Path
    digest: str
    files: tuple[str, ...]
    n_bytes: int
    made: str

    @classmethod
    def read(cls, folder: str | Path) -> CodeCopy:
        """Read the marker of a copy.

        Raises:
            CodeCopyError: There is no complete copy.
        """
        place = Path(folder).resolve()
        try:
            raw = json.loads((place / MARKER).read_bytes())
            if raw.pop("format") != _FORMAT:
                raise ValueError("another format")
            return cls(folder=place, source=Path(raw.pop("source")), files=tuple(raw.pop("files")), **raw)
        except OSError as error:
            raise CodeCopyError(str(place), f"is not a complete code copy: {error.strerror}: {MARKER}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CodeCopyError(str(place / MARKER), f"is not the marker of a code copy ({error})") from error

    def place(self, path: str | Path) -> Path:
        """The path in the copy of a file of the source; another path is only made absolute."""
        absolute = Path(path).resolve()
        return self.folder / absolute.relative_to(self.source) if absolute.is_relative_to(self.source) else absolute

    def environment(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment variables for a job that runs from the copy and verifies that.

        Args:
            environ: The variables of the process that submits the job; `None` for those of this process.

        Returns:
            `PYTHONPATH`, with the source's folders replaced by the copy's, and the folder and the hash of the copy,
            which `check_runs_from` reads.
        """
        environ = os.environ if environ is None else environ
        paths = [str(self.place(path)) for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        paths = list(dict.fromkeys([str(self.folder), *paths]))
        return {"PYTHONPATH": os.pathsep.join(paths), _VARIABLE: f"{self.digest}:{self.folder}"}

    def check(self, digest: str | None = None) -> None:
        """Verify that the copied files are unchanged; new files next to them do not matter.

        Args:
            digest: The hash when the job was submitted; `None` for the marker's.

        Raises:
            CodeCopyError: They were changed.
        """
        remedy = "submit again to make a new copy, and do not edit copies that jobs run from"
        try:
            found = _digest(self.folder, self.files)[0]
        except OSError as error:
            raise CodeCopyError(str(self.folder), f"is no longer complete: {error}", remedy) from error
        if digest not in (None, self.digest):
            raise CodeCopyError(str(self.folder), "holds different code than when the job was submitted", remedy)
        if found != self.digest:
            raise CodeCopyError(str(self.folder), "its files were changed after it was made", remedy)


def copy_code(
    source: str | Path,
    destination: str | Path,
    *,
    max_bytes: int | None = MAX_BYTES,
    replace: bool = False,
    exclude: Iterable[str | Path] = (),
) -> CodeCopy:
    """Copy the code of a project; an existing copy of the same code is reused.

    The copy excludes `.git`, files that `.gitignore` names, compiled files, and `exclude`.

    Args:
        source: The folder with the code.
        destination: The folder of the copy; missing parent folders are created.
        max_bytes: The most bytes that are copied; `None` for no limit.
        replace: Whether an existing copy of other code is renamed to `NAME.HASH`; if not, it is an error.
        exclude: More files and folders to leave out, such as the results.

    Raises:
        CodeCopyError: The source is missing, too large, or keeps changing; the destination is inside it, cannot be
            written, or holds something else.
    """
    src, dst = expanded(source, "the source of the copy").resolve(), expanded(destination, "the copy").resolve()
    for _ in range(_ATTEMPTS):
        files = code_files(src, [*map(Path, exclude), dst])
        try:
            _check_size(src, files, max_bytes)
            digest, n_bytes = _digest(src, files)
        except FileNotFoundError:  # a file was just removed
            continue
        if (there := _same_copy(dst, digest, replace)) is not None:
            return there
        made = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            if _staged(CodeCopy(src, dst, digest, tuple(files), n_bytes, made)):
                return CodeCopy.read(dst)
        except FileNotFoundError as error:
            if Path(error.filename or "").is_relative_to(src):
                continue  # a file was just removed
            raise CodeCopyError(str(dst), f"the code cannot be copied there: {error}") from error
        except OSError as error:
            raise CodeCopyError(str(dst), f"the code cannot be copied there: {error}") from error
    raise CodeCopyError(str(src), "its files kept changing while they were copied", "try again later")


def zip_code(
    source: str | Path, file: str | Path, *, max_bytes: int | None = MAX_BYTES, exclude: Iterable[str | Path] = ()
) -> Path:
    """Save the code of a project to a zip file, replacing an existing one.

    Args:
        source: The folder with the code.
        file: The zip file; `.zip` is added if it is missing.
        max_bytes: The most bytes that are saved; `None` for no limit.
        exclude: Files and folders to leave out.

    Raises:
        CodeCopyError: The source is missing or too large, or the file cannot be written.
    """
    import zipfile

    src, target = expanded(source, "the source of the copy").resolve(), expanded(file, "the copy").resolve()
    if target.suffix != ".zip":
        target = target.with_name(target.name + ".zip")
    files = code_files(src, [*map(Path, exclude), target])
    _check_size(src, files, max_bytes)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for name in files:
                if (src / name).is_file():
                    archive.write(src / name, name)
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CodeCopyError(str(target), f"the code cannot be saved there: {error}") from error
    return target


def check_runs_from(module: ModuleType, environ: Mapping[str, str] | None = None) -> CodeCopy | None:
    """Verify that a job runs from the copy that was made for it, if there is one.

    Args:
        module: The module of the experiment.
        environ: The environment variables of the job; `None` for those of this process.

    Returns:
        The copy; `None` if the job has none.

    Raises:
        CodeCopyError: The copy is incomplete or was changed, or the module was imported from elsewhere.
    """
    digest, _, folder = (os.environ if environ is None else environ).get(_VARIABLE, "").partition(":")
    if not folder:
        return None
    copy = CodeCopy.read(folder)
    copy.check(digest)
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).resolve().is_relative_to(copy.folder):
        problem = f"{module.__name__} was imported from {file}, not from the copy"
        remedy = "is the project installed in the environment? Remove other folders from PYTHONPATH and sys.path"
        raise CodeCopyError(str(copy.folder), problem, remedy)
    return copy


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What to copy, and where to.

    Attributes:
        mode: No copy; one copy for all jobs; one for each job; or only a zip file, while jobs run from the source.
        source: The folder with the code.
        destination: The folder of the copy, with a folder for each job in mode `multi`; or the zip file.
        max_bytes: The most bytes that are copied; `None` for no limit.
    """

    mode: Mode
    source: Path
    destination: Path
    max_bytes: int | None = MAX_BYTES

    @classmethod
    def of(
        cls,
        section: Mapping[str, Any],
        output: str | Path,
        *,
        nocodecopy: bool = False,
        zip: bool = False,  # noqa: A002  (the name of the flag)
        multicopy: bool = False,
        skipsizecheck: bool = False,
        where: str = "SLURM",
    ) -> CopyPlan:
        """The copy that a section and the flags request, as in cw2.

        A copy is made if `experiment_copy_src` is given with `experiment_copy_dst` (the folder of the copy) or
        `experiment_copy_auto_dst` (its parent; the folder is named after the time).

        Args:
            section: The section; relative folders are relative to the working folder.
            output: The folder of the results; the default folder for a zip file.
            nocodecopy: Make no copy, even if the section requests one.
            zip: Make a zip file instead of a copy.
            multicopy: Make a copy for each job.
            skipsizecheck: Allow a copy of any size.
            where: Place of the section, for messages.

        Raises:
            ConfigError: Only one of source and destination is given, or `multicopy` without them.
        """
        source = expanded(section.get(_SRC) or ".", _SRC).resolve()
        destination = _destination(section)
        max_bytes = None if skipsizecheck else MAX_BYTES
        if nocodecopy:
            return cls("none", source, Path(output).resolve(), max_bytes)
        if zip:
            return cls("zip", source, destination or Path(output).resolve() / "code.zip", max_bytes)
        given = section.get(_SRC) is not None, destination is not None
        if given == (True, True) and destination is not None:
            return cls("multi" if multicopy else "copy", source, destination, max_bytes)
        if any(given) or multicopy:
            missing = _SRC if destination is not None else f"{_DST} or {_AUTO_DST}"
            missing = missing if any(given) else f"{_SRC}, and {_DST} or {_AUTO_DST}"
            what = "--multicopy" if multicopy and not any(given) else "a copy of the code"
            raise ConfigError(where, f"{what} needs {missing}", "add it, or run without a copy: --nocodecopy")
        return cls("none", source, Path(output).resolve(), max_bytes)

    def make(self, n_jobs: int = 1, *, replace: bool = False, exclude: Iterable[str | Path] = ()) -> list[CodeCopy]:
        """Make the copy.

        Args:
            n_jobs: How many jobs there are.
            replace: Whether an existing copy of other code is renamed; see `copy_code`.
            exclude: Files and folders to leave out, such as the results.

        Returns:
            The copies: none, one for all jobs, or one for each job.

        Raises:
            CodeCopyError: See `copy_code`.
        """
        exclude = [*exclude]
        if self.mode == "zip":
            zip_code(self.source, self.destination, max_bytes=self.max_bytes, exclude=exclude)
        if self.mode in ("none", "zip"):
            return []
        folders = [self.destination] if self.mode == "copy" else [self.destination / str(k) for k in range(n_jobs)]
        exclude.append(self.destination)
        return [
            copy_code(self.source, folder, max_bytes=self.max_bytes, replace=replace, exclude=exclude)
            for folder in folders
        ]


def _destination(section: Mapping[str, Any]) -> Path | None:
    if (fixed := section.get(_DST)) is not None:
        return expanded(fixed, _DST).resolve()
    if (parent := section.get(_AUTO_DST)) is None:
        return None
    return expanded(parent, _AUTO_DST).resolve() / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")


# ------------------------------------------------------------------------------------------------------------ on disk
def _same_copy(dst: Path, digest: str, replace: bool) -> CodeCopy | None:
    """The existing copy if it has the same code. One of other code is renamed or an error, anything else an error."""
    if not dst.exists() or (dst.is_dir() and not any(dst.iterdir())):
        return None
    try:
        there = CodeCopy.read(dst)
    except CodeCopyError as error:
        remedy = "choose another experiment_copy_dst, or remove that folder"
        raise CodeCopyError(str(dst), "exists, and is not a code copy", remedy) from error
    if there.digest == digest:
        with contextlib.suppress(CodeCopyError):
            there.check()
            return there
    elif not replace:
        remedy = "use -o to replace it, experiment_copy_auto_dst for a new folder each time, --nocodecopy for no copy"
        raise CodeCopyError(str(dst), "holds a copy of other code, which jobs may still run from", remedy)
    _put_aside(dst, there.digest)
    return None


def _put_aside(dst: Path, digest: str) -> None:
    aside = dst.with_name(f"{dst.name}.{digest[:12]}")
    number = 1
    while aside.exists():
        number += 1
        aside = dst.with_name(f"{dst.name}.{digest[:12]}-{number}")
    dst.rename(aside)


def _staged(copy: CodeCopy) -> bool:
    """Make the copy next to its destination and rename it; whether its files have the expected hash."""
    copy.folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{copy.folder.name}.", dir=copy.folder.parent))
    try:
        for name in copy.files:
            _copy_file(copy.source, stage, name)
        if _digest(stage, copy.files)[0] != copy.digest:
            return False
        marker = {"format": _FORMAT, "source": str(copy.source), "digest": copy.digest, "made": copy.made}
        marker |= {"n_bytes": copy.n_bytes, "files": copy.files}
        (stage / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
        stage.chmod(stat.S_IMODE(copy.source.stat().st_mode))
        _sync(stage)
        try:
            stage.rename(copy.folder)
        except OSError:
            if CodeCopy.read(copy.folder).digest != copy.digest:  # otherwise another process was faster
                raise
        sync(copy.folder.parent)
        return True
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _copy_file(source: Path, stage: Path, name: str) -> None:
    origin, copied = source / name, stage / name
    copied.parent.mkdir(parents=True, exist_ok=True)
    if not origin.is_symlink():
        shutil.copy2(origin, copied)
        return
    link = os.readlink(origin)  # noqa: PTH115  (as it is written)
    inside = not os.path.isabs(link) and origin.resolve().is_relative_to(source)  # noqa: PTH117
    copied.symlink_to(link if inside else os.path.normpath(origin.parent / link))


def _sync(folder: Path) -> None:
    """Flush everything in a folder to disk."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink():
                sync(path)
        sync(Path(place))


def _digest(folder: Path, files: Iterable[str]) -> tuple[str, int]:
    """The hash of the names and contents of files, and their total size."""
    whole, n_bytes = hashlib.sha256(), 0
    for name in sorted(files):
        path = folder / name
        if path.is_symlink():
            kind, content = b"link", hashlib.sha256(b"").digest()  # its target differs in a copy
        else:
            kind = b"program" if path.stat().st_mode & stat.S_IXUSR else b"file"
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
            n_bytes += path.stat().st_size
        whole.update(b"%s %s %s\0" % (kind, name.encode(errors="surrogateescape"), content))
    return whole.hexdigest(), n_bytes


def _check_size(source: Path, files: Sequence[str], max_bytes: int | None) -> None:
    if max_bytes is None:
        return
    sizes = sorted(((source / name).lstat().st_size, name) for name in files)
    n_bytes = sum(size for size, _ in sizes)
    if n_bytes <= max_bytes:
        return
    largest = ", ".join(f"{name} ({size / 1e6:.0f} MB)" for size, name in reversed(sizes[-3:]))
    problem = f"{n_bytes / 1e6:.0f} MB of code exceed {max_bytes / 1e6:.0f} MB; the largest files: {largest}"
    raise CodeCopyError(str(source), problem, "add data and results to .gitignore, or allow it with --skipsizecheck")
