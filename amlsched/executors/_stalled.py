"""Detects stalled calls in processes forked from this one, which may wait for locks or threads lost by the fork."""

import logging
import os
import time

from amlsched.executors._calls import CallFuture

__all__ = ["Stall"]

logger = logging.getLogger(__name__)

_LOOK_S = 30.0  # a call is reported if nothing has happened between two checks


class Stall:
    """Checks one worker from time to time, and logs a warning about a stalled call, once.

    Args:
        pid: Process id of the worker.

    Attributes:
        look_at: When to check next, on the monotonic clock.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._last: tuple[CallFuture, int] | None = None
        self._named: CallFuture | None = None
        self.look_at = time.monotonic() + _LOOK_S

    def look(self, call: CallFuture | None) -> None:
        """Check the worker.

        Args:
            call: Its running call.
        """
        self.look_at = time.monotonic() + _LOOK_S
        ticks = _ticks_if_stalled(self._pid) if call is not None else None
        last, self._last = self._last, None if call is None or ticks is None else (call, ticks)
        if self._last is None or self._last != last or call is self._named:
            return
        self._named = call
        logger.warning(
            "%s has waited for a lock or a thread for %g s in process %s, which was forked from this program: after a "
            "fork, locks may stay locked, and the threads of OpenMP and other libraries are missing. If it never "
            'finishes, remove mp_context=get_context("fork"), or use "spawn"',
            self._last[0].name,
            _LOOK_S,
            self._pid,
        )


def _ticks_if_stalled(pid: int) -> int | None:
    """CPU time of a process so far, in clock ticks, if all of its threads wait for a futex; otherwise `None`."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/wchan", encoding="ascii") as file:
                if "futex" not in file.read():
                    return None
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
    except OSError:  # it has exited, or the kernel has no such file
        return None
    return int(user) + int(system)
