"""loky's pool, with workers that cannot outlive their driver."""

import multiprocessing.util
import os
import signal
import threading
import time
from typing import Any

from loky import ProcessPoolExecutor  # pyright: ignore[reportMissingTypeStubs]

from amlsched import _proc
from amlsched.executors._orphans import require_reaper
from amlsched.executors._processes.supervisor import QUIT_S

__all__ = ["LokyPool", "bound_exit"]

_FIRST = 1_000_000  # before all other finalizers of multiprocessing at the exit of a process


class LokyPool(ProcessPoolExecutor):  # type: ignore[misc]  # pyright: ignore[reportUntypedBaseClass]
    """A pool of loky; while it is open, the orphan reaper runs.

    Args:
        *args: As of loky's.
        **options: As of loky's.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._release_reaper = require_reaper(self)  # first, so that workers start with the mark
        # Workers of multiprocessing.Pool may not have children, as they may be killed before they can terminate them.
        # Those of this pool are handled by the orphan reaper.
        multiprocessing.current_process().daemon = False
        super().__init__(*args, **options)  # pyright: ignore[reportUnknownMemberType]

    def shutdown(self, wait: bool = True, kill_workers: bool = False, **options: Any) -> None:
        """As of loky's."""
        super().shutdown(wait=wait, kill_workers=kill_workers, **options)
        if wait or kill_workers:  # otherwise when the pool is garbage-collected, as its workers still run calls
            self._release_reaper()


def bound_exit() -> None:
    """Limit the time that this worker of loky takes to exit, as for our own workers.

    Python waits for threads and children that calls left behind, and loky waits for its workers: forever if one never
    finishes, even in the middle of a run, after a worker was idle for a while.
    """
    multiprocessing.util.Finalize(None, _begin_exit, exitpriority=_FIRST)


def _begin_exit() -> None:
    threading.Thread(target=_end_late, name="amlsched-exit", daemon=True).start()


def _end_late() -> None:
    time.sleep(QUIT_S)
    _proc.signal_below(os.getpid(), signal.SIGKILL)
    os._exit(0)
