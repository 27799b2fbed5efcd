"""loky's pool, with workers that do not outlive their driver."""

import multiprocessing.util
import os
import signal
import threading
import time
from typing import Any

from loky import ProcessPoolExecutor  # pyright: ignore[reportMissingTypeStubs]

from amlsched.executors._keeper import QUIT_S, signal_below
from amlsched.executors._watch import watched

__all__ = ["LokyPool", "bound_exit"]

_FIRST = 1_000_000  # before all else that multiprocessing does when a process ends


class LokyPool(ProcessPoolExecutor):  # type: ignore[misc]  # pyright: ignore[reportUntypedBaseClass]
    """A pool of loky whose driver is watched while it is open.

    Args:
        *args: As of loky's.
        **options: As of loky's.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._unwatch = watched(self)  # before: a worker that starts shall have the mark
        # A worker of multiprocessing.Pool may have no children, as it may be ended without a chance to end them. Those
        # of this pool are watched.
        multiprocessing.current_process().daemon = False
        super().__init__(*args, **options)  # pyright: ignore[reportUnknownMemberType]

    def shutdown(self, wait: bool = True, kill_workers: bool = False, **options: Any) -> None:
        """As of loky's."""
        super().shutdown(wait=wait, kill_workers=kill_workers, **options)
        if wait or kill_workers:  # else once the pool is collected: its workers have calls left
            self._unwatch()


def bound_exit() -> None:
    """Let this worker of loky's take no longer for its exit than one of ours may.

    Python waits for threads and children that calls left behind, and loky for its workers: for ever, should one never
    end, and in the midst of a run where a worker had nothing to do for a while.
    """
    multiprocessing.util.Finalize(None, _begin_exit, exitpriority=_FIRST)


def _begin_exit() -> None:
    threading.Thread(target=_end_late, name="amlsched-exit", daemon=True).start()


def _end_late() -> None:
    time.sleep(QUIT_S)
    signal_below(os.getpid(), signal.SIGKILL)
    os._exit(0)
