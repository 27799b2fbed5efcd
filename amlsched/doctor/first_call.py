"""Whether a call comes back from an executor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from amlsched.doctor.finding import Finding, Verdict
from amlsched.errors import AmlschedError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["first_call"]


def first_call(check: str, name: str, options: Mapping[str, Any], timeout_s: float) -> Finding:
    """One call on the real thing.

    Args:
        check: What the finding is called.
        name: Of the executor, as of `Scheduler.from_name`.
        options: Its keywords.
        timeout_s: How long the call may take.
    """
    from amlsched.scheduler import Scheduler

    began = time.monotonic()
    try:
        with Scheduler.from_name(name, **options).executor as executor:
            if executor.submit(abs, -1).result(timeout_s) != 1:
                raise ValueError("a call gave a wrong result")
    except (AmlschedError, OSError, RuntimeError, ValueError, TypeError) as error:
        return Finding(check, Verdict.FAULT, f"{type(error).__name__}: {error}")
    return Finding(check, Verdict.OK, f"a first one came back after {time.monotonic() - began:.2f} s")
