"""Which copy of the code the section for a batch system and the command line ask for."""

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
    """What is to be copied, and where to.

    Attributes:
        mode: No copy; one that all jobs run from; one for each job; or only a zip file to keep, with the jobs running
            from the source.
        source: The folder with the code.
        destination: The folder of the copy, with a folder for each job in mode `multi`; or the zip file.
        max_bytes: A larger copy is refused; `None` for no limit.
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
        """What a section and the flags ask for, as in cw2.

        A copy is made if `experiment_copy_src` and one of `experiment_copy_dst` (that folder) and
        `experiment_copy_auto_dst` (a new folder in that one, named after the time) are given.

        Args:
            section: The section; relative folders start at the working folder.
            output: The folder of the results; a zip file lies there if no folder for it is given.
            nocodecopy: No copy, whatever the section says.
            zip: A zip file instead of a copy.
            multicopy: A copy for each job.
            skipsizecheck: A copy may be of any size.
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
        """Make it.

        Args:
            n_jobs: How many jobs there are.
            replace: Whether a copy of other code that is there is put aside; see `copy_code`.
            exclude: Files and folders that are not copied, such as the results.

        Returns:
            No copy, one for all jobs, or one for each.

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
