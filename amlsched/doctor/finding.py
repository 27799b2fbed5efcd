"""What an examination says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Verdict"]


class Verdict(StrEnum):
    """What became of a check."""

    OK = "ok"
    WARNING = "warning"
    """It works, but somebody should look at it."""
    FAULT = "FAULT"
    """It does not work before this is put right."""
    SKIPPED = "skipped"
    """It could not be checked, and is no fault by itself."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: What was looked at, such as `queue`.
        verdict: What became of it.
        told: What was seen.
        remedy: What to do about it; empty where there is nothing to do.
    """

    check: str
    verdict: Verdict
    told: str
    remedy: str = ""

    def __str__(self) -> str:
        more = "".join(f"\n{'':18}-> {line}" for line in self.remedy.splitlines())
        told = self.told.replace("\n", f"\n{'':18}")
        return f"{self.verdict:<8}{self.check:<10}{told}{more}"
