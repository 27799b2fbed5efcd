"""Sends calls to a dask cluster, and fetches their outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import pickle
import threading
import uuid
from collections import deque
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from amlsched.errors import NotPicklableError, WorkerLostError
from amlsched.events import add_note
from amlsched.executors._dask.worker import run_call
from amlsched.executors.pickled_calls import load_outcome
from amlsched.executors.scatter import InDask
from amlsched.executors.worker_exit import end_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from amlsched.executors._dask.clusters import ClusterProvider

__all__ = ["SHARED", "Calls", "DaskCall"]

SHARED = "amlsched-shared-"
"""Prefix of the keys of scattered objects."""
_PER_THREAD = 2  # calls that a worker may have started before it receives a cancellation
_LARGE_BYTES = 1_000_000  # dask would warn about arguments above 10 MB


class DaskCall(Future[Any]):
    """The future of one call.

    Attributes:
        name: The call in messages.
        number: Its number among the executor's calls.
        blob: The pickled call, until it is sent.
        remote: dask's own future, after that until the outcome has arrived.
        starts: How many workers have started it.
        place: Process id and host of the last one.
        worker: Address of the only worker on which it may run; `None` for any.
    """

    def __init__(self, calls: Calls, name: str, number: int, blob: bytes, worker: str | None = None) -> None:
        super().__init__()
        self.worker = worker
        self._calls: Calls = calls
        self.name, self.number = name, number
        self.blob: bytes | None = blob
        self.remote: Any = None
        self.starts = 0
        self.place: tuple[int | None, str | None] = (None, None)

    def cancel(self) -> bool:
        """Cancel the call, and return whether that succeeded: no worker is known to have started it."""
        was_cancelled = self.cancelled()
        if not super().cancel():
            return False
        if not was_cancelled:
            self.set_running_or_notify_cancel()  # wakes up waiting threads
            self._calls.drop([self])
        return True

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        """Set the result or the error."""
        with contextlib.suppress(InvalidStateError):  # it was cancelled
            if error is None:
                self.set_result(result)
            else:
                self.set_exception(error)

    def end_cancelled(self) -> None:
        """Cancel it, even if it is running."""
        if not self.done():
            end_cancelled(self)


class Calls:
    """The unfinished calls of one executor.

    Once the outcome of a call has arrived, it is released on the cluster: a result that is kept there would keep its
    worker from leaving.

    Calls wait here rather than in dask's scheduler, where they cost more, and where a cancelled call may start before
    the cancellation arrives.

    Args:
        client: A connected `distributed.Client` whose loop runs in its own thread.
        provider: Provides its cluster.
        depth: How many calls to send at a time; `None` for all, if the cluster grows with its queue.
    """

    def __init__(
        self,
        client: Any,
        provider: ClusterProvider,
        depth: int | None = None,
    ) -> None:
        self._client = client
        self._provider = provider
        self._depth = depth
        self._sent = 0
        self._waiting: deque[DaskCall] = deque()
        self._topic = f"amlsched-{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        self._open: dict[int, DaskCall] = {}
        self._new: deque[DaskCall] = deque()  # sent, not awaited yet
        self._arrived: list[DaskCall] = []  # finished on the cluster, not fetched yet
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        client.subscribe_topic(self._topic, self._calls_started)

    def submit(self, name: str, blob: bytes) -> DaskCall:
        """Send a pickled call, or queue it."""
        call = DaskCall(self, name, next(self._numbers), blob)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._open[call.number] = call
            if self._waiting or (self._depth is not None and self._sent >= self._depth):
                self._waiting.append(call)
                return call
            self._sent += 1
            self._may_begin(call)
        self._send(call)
        return call

    def submit_to(self, worker: str, name: str, blob: bytes) -> DaskCall:
        """Send a pickled call to a worker, which runs it at once."""
        call = DaskCall(self, name, next(self._numbers), blob, worker)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._open[call.number] = call
            self._sent += 1
        call.set_running_or_notify_cancel()
        self._send(call)
        return call

    def lose_all_but(self, workers: Collection[str]) -> None:
        """Fail the calls that were sent to a worker that is gone. Called in the client's loop.

        Args:
            workers: The addresses of those that are here.
        """
        for call in self.open():
            if call.worker is not None and call.worker not in workers and call.remote is not None:
                self._spawn(self._conclude_lost(call))

    def _may_begin(self, call: DaskCall) -> bool:
        """Whether to send a call. If calls wait here, it is marked as running from then on."""
        if self._depth is None or call.done():
            return not call.done()
        try:
            return call.set_running_or_notify_cancel()
        except (InvalidStateError, RuntimeError):  # it was cancelled, and waiting threads were notified
            return False

    def _send(self, call: DaskCall) -> None:
        blob, call.blob = call.blob, None
        assert blob is not None
        with _without_warning() if len(blob) > _LARGE_BYTES else contextlib.nullcontext():
            key = f"{call.name}-{uuid.uuid4().hex}"
            options = self._provider.options
            if call.worker is not None:
                options = {**options, "workers": [call.worker], "allow_other_workers": False}
            # With a priority: otherwise a call whose worker died would wait behind all later ones.
            call.remote = self._client.submit(
                run_call,
                self._topic,
                call.number,
                blob,
                key=key,
                pure=False,
                priority=-call.number,
                **options,
            )
        self._new.append(call)
        self._schedule()

    def _gone(self, call: DaskCall) -> Any:
        """Remove a finished call, send the next one, and return dask's future of the call, if it was sent."""
        following: DaskCall | None = None
        with self._lock:
            if self._open.pop(call.number, None) is None:
                return None
            remote, call.remote = call.remote, None
            if call.blob is not None:  # it was never sent
                return None
            while self._waiting and following is None:
                waiting = self._waiting.popleft()
                following = waiting if self._may_begin(waiting) else None
            self._sent -= following is None
        if following is not None and self._failure is None:
            self._send(following)
        return remote

    def open(self) -> list[DaskCall]:
        """The unfinished calls, oldest first."""
        with self._lock:
            return list(self._open.values())

    def share(self, blob: bytes) -> InDask:
        """Put an object on the cluster, as the result of a task, so that dask can recompute it."""
        key = f"{SHARED}{uuid.uuid4().hex}"
        with _without_warning():
            first = 10**9  # calls wait for it
            return InDask(key, self._client.submit(pickle.loads, blob, key=key, pure=False, priority=first))

    def busy(self) -> bool:
        """Whether there are unfinished calls."""
        return bool(self._open)

    def drop(self, calls: Iterable[DaskCall]) -> None:
        """Drop calls here and on the cluster, whether they are running or not."""
        remotes = [remote for call in calls if (remote := self._gone(call)) is not None]
        if remotes and self._client.status == "running":
            self._client.loop.add_callback(self._cancel, remotes)

    def see_running(self) -> Future[Any] | None:
        """A future that finishes once all calls that have started are marked as running.

        A worker reports a call some time after it has started. Until then, dask's scheduler knows where the call is.
        """
        if self._depth is not None:  # calls are marked as running when they are sent
            return None
        looking = self._see_running()
        try:
            return asyncio.run_coroutine_threadsafe(looking, self._client.loop.asyncio_loop)
        except RuntimeError:  # the loop is closed, and so the client
            looking.close()
            return None

    def fail(self, error: BaseException) -> None:
        """Fail all calls, even running ones, and reject new ones; a CancelledError cancels them."""
        with self._lock:
            self._failure = error if self._failure is None else self._failure
            self._waiting.clear()
        calls = self.open()
        self.drop(calls)
        for call in calls:
            if isinstance(error, CancelledError):
                call.end_cancelled()
            else:
                call.end(error=error)

    def close(self) -> None:
        """Unsubscribe."""
        with contextlib.suppress(Exception):  # the client may be gone
            self._client.unsubscribe_topic(self._topic)

    # In the thread of the client's loop

    async def _see_running(self) -> None:
        try:
            threads = await self._client.scheduler.ncores(workers=None)
            processing = await self._client.scheduler.processing(workers=None)
        except Exception:  # the cluster is shutting down or gone, which will fail the calls
            return
        calls = {remote.key: call for call in self.open() if (remote := call.remote) is not None}
        for worker, keys in processing.items():
            # A worker runs calls in the order of submission; the next ones may start before they are cancelled.
            here = sorted((calls[key] for key in keys if key in calls), key=lambda call: call.number)
            for call in here[: _PER_THREAD * threads.get(worker, 1)]:
                _begun(call)

    async def _cancel(self, remotes: list[Any]) -> None:
        await self._client._cancel(remotes, force=True)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._client.loop.add_callback(self._work)

    def _work(self) -> None:
        self._scheduled = False
        while self._new:
            self._spawn(self._follow(self._new.popleft()))
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            self._spawn(self._fetch(arrived))

    def _spawn(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, call: DaskCall) -> None:
        remote = call.remote
        if remote is None:  # it was dropped
            return
        await remote._state.wait()
        self._arrived.append(call)
        self._schedule()

    async def _fetch(self, calls: list[DaskCall]) -> None:
        """Fetch the outcomes of many calls at once, and release them."""
        # A call may be dropped at any time, in another thread.
        remotes = [(call, remote) for call in calls if (remote := call.remote) is not None]
        good = {call.number: remote for call, remote in remotes if remote.status == "finished"}
        outcomes: Mapping[int, bytes | None] = {}
        if good:
            try:
                outcomes = await self._client._gather(good, errors="skip")
            except Exception as error:  # the cluster is shutting down or gone
                for call, _ in remotes:
                    self._conclude(call, error=self._lost(call, f"has a cluster that is gone: {error}"))
                return
        for call, remote in remotes:
            outcome = outcomes.get(call.number)
            if call.remote is None:
                continue
            if isinstance(outcome, bytes):
                result, raised = load_outcome(outcome)
                self._conclude(call, result, raised)
            elif remote.status in ("finished", "pending", "lost"):  # lost on the way; dask recomputes it
                self._new.append(call)
                self._schedule()
            elif remote.status == "cancelled" and self._client.status == "running":
                self._conclude(call, cancelled=True)
            else:
                self._spawn(self._conclude_failed(call, remote))

    async def _conclude_failed(self, call: DaskCall, remote: Any) -> None:
        self._conclude(call, error=await self._error_of(call, remote))

    async def _conclude_lost(self, call: DaskCall) -> None:
        worker = call.worker
        assert worker is not None
        pid, host = call.place
        lost = await self._provider.loss(call.name, worker, host)
        if lost is None:
            lost = WorkerLostError(call.name, "died, or left its cluster, while it ran the call", pid, host)
        if log := self._provider.log_of(worker):
            add_note(lost, log)
        remote = call.remote
        if remote is None:  # its outcome has arrived
            return
        with contextlib.suppress(Exception):  # the cluster is shutting down
            await self._cancel([remote])
        self._conclude(call, error=lost)

    def _conclude(
        self, call: DaskCall, result: Any = None, error: BaseException | None = None, *, cancelled: bool = False
    ) -> None:
        remote = self._gone(call)
        if remote is None:
            return
        remote.release()
        if cancelled:
            call.end_cancelled()
        else:
            call.end(result, error)

    async def _error_of(self, call: DaskCall, remote: Any) -> BaseException:
        if remote.status == "cancelled":
            return self._lost(call, "has a cluster that is gone")
        error: BaseException = remote._state.exception
        if type(error).__name__ == "KilledWorker":
            worker, deaths = error.args[1], error.args[2] + 1
            host: str | None = getattr(worker, "host", None)
            lost = await self._provider.loss(call.name, worker.address, host)
            if lost is None:
                cause = f"died, as did each of the {deaths} workers on which it was tried; it is not retried"
                lost = WorkerLostError(call.name, cause, None, host)
            lost.attempts = deaths
            if log := self._provider.log_of(worker.address):
                add_note(lost, log)
            return lost
        return NotPicklableError(call.name, "the call", f"its worker cannot load it: {type(error).__name__}: {error}")

    def _lost(self, call: DaskCall, cause: str) -> WorkerLostError:
        pid, host = call.place
        return WorkerLostError(call.name, cause, pid, host)

    def _calls_started(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Process a worker's report that calls have started."""
        report = event[1]
        for number in report["calls"]:
            call = self._open.get(number)
            if call is None:
                continue
            call.starts += 1
            call.place = (report["pid"], report["host"])
            _begun(call)
            starts = self._provider.starts
            if starts is not None and call.starts > starts:
                self.drop([call])
                cause = f"was the last of {starts} that exited, or reached their lifetime, while running it"
                call.end(error=self._lost(call, cause))


def _begun(call: DaskCall) -> None:
    if not call.running() and not call.done():
        with contextlib.suppress(InvalidStateError, RuntimeError):  # it has just finished, or was cancelled
            call.set_running_or_notify_cancel()


def _without_warning() -> Any:
    """In this context, dask does not warn about large arguments: ours are pickled, so its advice does not apply."""
    setting: Callable[..., Any] = importlib.import_module("dask").config.set
    return setting({"distributed.admin.large-graph-warning-threshold": "100 GB"})
