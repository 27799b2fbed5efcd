"""Which copy of the code the section for a batch system and the command line request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from amlsched._surroundings import expanded
from amlsched.errors import ConfigError
from amlsched.experiments.codecopy import MAX_BYTES, CodeCopy, copy_code, zip_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["CopyPlan"]

Mode = Literal["none", "copy", "multi", "zip"]
_SRC, _DST, _AUTO_DST = "experiment_copy_src", "experiment_copy_dst", "experiment_copy_auto_dst"


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
        return expanded(fixed, "experiment_copy_dst").resolve()
    if (parent := section.get(_AUTO_DST)) is None:
        return None
    return expanded(parent, "experiment_copy_auto_dst").resolve() / datetime.now().astimezone().strftime(
        "%Y%m%d-%H%M%S"
    )
