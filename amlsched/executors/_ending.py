"""How a future of an executor ends where `concurrent.futures` has no word for it."""

from concurrent.futures import Future
from typing import Any

__all__ = ["end_cancelled"]


def end_cancelled(work: Future[Any]) -> None:
    """End it as cancelled, though it may be running: its worker is gone, or has never seen it."""
    with work._condition:  # pyright: ignore[reportPrivateUsage]
        work._state = "PENDING"  # `Future` itself cancels nothing else
    # Not `work.cancel`, which may do more.
    Future.cancel(work)  # pyright: ignore[reportUnknownMemberType]
    work.set_running_or_notify_cancel()
