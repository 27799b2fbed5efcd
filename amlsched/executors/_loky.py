"""loky's pool, with workers that cannot outlive their driver."""

import contextlib
import importlib
import logging
import multiprocessing.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from loky import ProcessPoolExecutor  # pyright: ignore[reportMissingTypeStubs]

from amlsched import _proc
from amlsched.executors._orphans import require_reaper
from amlsched.executors._processes.supervisor import QUIT_S
from amlsched.executors.user_function import call_name
from amlsched.executors.worker_exit import start_error

__all__ = ["LokyPool", "bound_exit"]

logger = logging.getLogger(__name__)
_NO_LOCKS = "loky needs semaphores in /dev/shm: mount a tmpfs there, or use with_processes, which needs none"
_tracker: Any = importlib.import_module("loky.backend.resource_tracker")
_FIRST = 1_000_000  # before all other finalizers of multiprocessing at the exit of a process


class LokyPool(ProcessPoolExecutor):  # type: ignore[misc]  # pyright: ignore[reportUntypedBaseClass]
    """A pool of loky; while it is open, the orphan reaper runs.

    Args:
        *args: As of loky's.
        **options: As of loky's.

    Raises:
        WorkerStartError: The system creates no more processes for this user or container, or no semaphores.
    """

    _processes: dict[int, Any]
    _max_workers: int

    def __init__(self, *args: Any, **options: Any) -> None:
        self._release_reaper = require_reaper(self)  # first, so that workers start with the mark
        # Workers of multiprocessing.Pool may not have children, as they may be killed before they can terminate them.
        # Those of this pool are handled by the orphan reaper.
        multiprocessing.current_process().daemon = False
        try:
            _tracker.getfd()  # first: without this process, locks would remain in /dev/shm
            super().__init__(*args, **options)  # pyright: ignore[reportUnknownMemberType]
        except OSError as error:  # of its locks, or of the process that cleans these up
            self._release_reaper()
            raise start_error("the pool", error, _NO_LOCKS) from error

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """As of loky's; the future fails with a `WorkerStartError` if no worker can be started."""
        own: Any = self
        try:
            return super().submit(fn, *args, **kwargs)  # pyright: ignore[reportUnknownMemberType]
        except (BlockingIOError, RuntimeError) as error:
            if own._flags.shutdown or own._flags.broken is not None:
                raise
            queued = own._pending_work_items.get(own._queue_count - 1)  # loky has queued the call before
            if queued is not None:
                queued.future.cancel()
            self._end_started()
            failed: Future[Any] = Future()
            failed.set_exception(start_error(call_name(fn), error))
            return failed

    def _adjust_process_count(self) -> None:
        """Start workers; if not all can be started, calls run in those that were."""
        try:
            with _standard_streams():
                super()._adjust_process_count()  # pyright: ignore[reportUnknownMemberType]
        except BlockingIOError as error:
            started = len(self._processes)
            if not started:
                raise
            logger.warning(
                "only %d of %d workers could be started, in which all calls run: %s", started, self._max_workers, error
            )
            self._max_workers = started

    def _end_started(self) -> None:
        """If there is no thread to serve them, kill the workers that were started."""
        own: Any = self
        thread: threading.Thread | None = own._executor_manager_thread
        if thread is not None and thread.ident is None:
            own._executor_manager_thread = thread = None
        if thread is None:
            for process in self._processes.values():
                os.kill(process.pid, signal.SIGKILL)  # loky's processes have no kill(); it is not reaped yet
                process.join()
            self._processes.clear()

    def shutdown(self, wait: bool = True, kill_workers: bool = False, **options: Any) -> None:
        """As of loky's."""
        super().shutdown(wait=wait, kill_workers=kill_workers, **options)
        if wait or kill_workers:  # otherwise when the pool is garbage-collected, as its workers still run calls
            self._release_reaper()


@contextlib.contextmanager
def _standard_streams() -> Generator[None]:
    """In this context, there are `sys.stdout` and `sys.stderr`: loky flushes them, but they are `None` if closed."""
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        missing = [name for name in ("stdout", "stderr") if getattr(sys, name) is None]
        for name in missing:
            setattr(sys, name, nothing)
        try:
            yield
        finally:
            for name in missing:
                setattr(sys, name, None)


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
