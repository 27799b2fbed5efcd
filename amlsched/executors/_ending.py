"""Cancels futures of an executor that are running, which `concurrent.futures` does not support."""

from concurrent.futures import Future
from typing import Any

__all__ = ["end_cancelled"]


def end_cancelled(work: Future[Any]) -> None:
    """Cancel a future, even if it is running: its worker is gone, or never received the call."""
    with work._condition:  # pyright: ignore[reportPrivateUsage]
        work._state = "PENDING"  # `Future` cancels no other state
    # Not `work.cancel`, which subclasses override.
    Future.cancel(work)  # pyright: ignore[reportUnknownMemberType]
    work.set_running_or_notify_cancel()
