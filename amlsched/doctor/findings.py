"""What a check found, and the check of a first call."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from amlsched.errors import AmlschedError
from amlsched.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Finding", "Verdict", "first_call"]


class Verdict(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    """It works, but may cause problems."""
    FAULT = "FAULT"
    """The executor will not work until this is fixed."""
    SKIPPED = "skipped"
    """It could not be checked, which is not a fault."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: What was checked, such as `queue`.
        verdict: The outcome.
        told: A description of what was found.
        remedy: What to do about it; empty if there is nothing to do.
    """

    check: str
    verdict: Verdict
    told: str
    remedy: str = ""

    def __str__(self) -> str:
        more = "".join(f"\n{'':18}-> {line}" for line in self.remedy.splitlines())
        text = self.told.replace("\n", f"\n{'':18}")
        return f"{self.verdict:<8}{self.check:<10}{text}{more}"


def first_call(check: str, name: str, options: Mapping[str, Any], timeout_s: float) -> Finding:
    """Run one call on the executor.

    Args:
        check: Name of the check.
        name: Name of the executor, as in `Scheduler.from_name`.
        options: Arguments of its constructor.
        timeout_s: How long the call may take.
    """
    began = time.monotonic()
    try:
        with Scheduler.from_name(name, **options).executor as executor:
            if executor.submit(abs, -1).result(timeout_s) != 1:
                raise ValueError("a call returned a wrong result")
    except (AmlschedError, OSError, RuntimeError, ValueError, TypeError) as error:
        return Finding(check, Verdict.FAULT, f"{type(error).__name__}: {error}")
    return Finding(check, Verdict.OK, f"the first call returned after {time.monotonic() - began:.2f} s")
