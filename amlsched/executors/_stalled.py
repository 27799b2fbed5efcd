"""Calls that do not move in a process that was forked from this one, and may wait for what is not there."""

import logging
import os
import time

from amlsched.executors._calls import CallFuture

__all__ = ["Stall"]

logger = logging.getLogger(__name__)

_LOOK_S = 30.0  # a call is named after two looks, if nothing has happened between them


class Stall:
    """Looks at one worker from time to time, and names its call in the log, once.

    Args:
        pid: The worker.

    Attributes:
        look_at: When to look next, on the monotonic clock.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._last: tuple[CallFuture, int] | None = None
        self._named: CallFuture | None = None
        self.look_at = time.monotonic() + _LOOK_S

    def look(self, call: CallFuture | None) -> None:
        """See what the worker does.

        Args:
            call: What it runs.
        """
        self.look_at = time.monotonic() + _LOOK_S
        ticks = _ticks_if_stalled(self._pid) if call is not None else None
        last, self._last = self._last, None if call is None or ticks is None else (call, ticks)
        if self._last is None or self._last != last or call is self._named:
            return
        self._named = call
        logger.warning(
            "%s has waited for a lock or a thread for %g s in process %s, which was forked from this program: it has "
            "copies of locks that nobody opens, and none of the threads of OpenMP and others. If it never ends, leave "
            'mp_context=get_context("fork") out, or use "spawn"',
            self._last[0].name,
            _LOOK_S,
            self._pid,
        )


def _ticks_if_stalled(pid: int) -> int | None:
    """CPU time that a process has had so far, in ticks of the kernel, if each of its threads waits for a futex."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/wchan", encoding="ascii") as file:
                if "futex" not in file.read():
                    return None
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
    except OSError:  # it has ended; or a kernel without this file
        return None
    return int(user) + int(system)
