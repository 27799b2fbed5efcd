"""The way of calls to a dask cluster, and of their outcomes back."""

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
    from collections.abc import Callable, Iterable, Mapping

    from amlsched.executors._dask.clusters import Site

__all__ = ["SHARED", "Calls", "DaskCall"]

SHARED = "amlsched-shared-"
"""How the keys of scattered objects begin."""
_PER_THREAD = 2  # calls that a worker may have begun by the time it hears of something
_LARGE_BYTES = 1_000_000  # dask warns of arguments of 10 MB: of ours it need not


class DaskCall(Future[Any]):
    """The future of one call.

    Attributes:
        name: The call in messages.
        number: Which of the executor's calls it is.
        blob: What is sent, until it is.
        remote: dask's own future, from then on until the outcome is here.
        starts: How many workers have begun it.
        place: Process id and host of the last of them.
    """

    def __init__(self, calls: Calls, name: str, number: int, blob: bytes) -> None:
        super().__init__()
        self._calls: Calls = calls
        self.name, self.number = name, number
        self.blob: bytes | None = blob
        self.remote: Any = None
        self.starts = 0
        self.place: tuple[int | None, str | None] = (None, None)

    def cancel(self) -> bool:
        """Whether the call never starts: that is, no worker has begun it, as far as is known here."""
        was_cancelled = self.cancelled()
        if not super().cancel():
            return False
        if not was_cancelled:
            self.set_running_or_notify_cancel()  # wakes those that wait for it
            self._calls.drop([self])
        return True

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        """End with the result, or with the error."""
        with contextlib.suppress(InvalidStateError):  # it was cancelled
            if error is None:
                self.set_result(result)
            else:
                self.set_exception(error)

    def end_cancelled(self) -> None:
        """End as cancelled, though it may be running."""
        if not self.done():
            end_cancelled(self)


class Calls:
    """The calls of one executor that have not ended.

    Nothing that dask keeps for a call outlives its outcome's arrival here: a result that is held on the cluster would
    keep its worker.

    Calls wait here rather than in dask's scheduler, where they cost more, and where one that is cancelled may begin
    before the word of it arrives.

    Args:
        client: A `distributed.Client` that is connected, and whose loop runs in a thread of its own.
        site: Where its cluster is.
        depth: How many calls are sent at a time; `None` for all, as where the cluster grows with its queue.
    """

    def __init__(
        self,
        client: Any,
        site: Site,
        depth: int | None = None,
    ) -> None:
        self._client = client
        self._site = site
        self._depth = depth
        self._sent = 0
        self._waiting: deque[DaskCall] = deque()
        self._topic = f"amlsched-{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        self._open: dict[int, DaskCall] = {}
        self._new: deque[DaskCall] = deque()  # not followed yet
        self._arrived: list[DaskCall] = []  # ended there, not fetched yet
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        client.subscribe_topic(self._topic, self._told)

    def submit(self, name: str, blob: bytes) -> DaskCall:
        """Send a call that is pickled already, or let it wait for its turn."""
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

    def _may_begin(self, call: DaskCall) -> bool:
        """Whether a call is to be sent. From then on it counts as running where those that wait do so here."""
        if self._depth is None or call.done():
            return not call.done()
        try:
            return call.set_running_or_notify_cancel()
        except (InvalidStateError, RuntimeError):  # it was cancelled, and those that wait for it were told
            return False

    def _send(self, call: DaskCall) -> None:
        blob, call.blob = call.blob, None
        assert blob is not None
        with _without_warning() if len(blob) > _LARGE_BYTES else contextlib.nullcontext():
            key = f"{call.name}-{uuid.uuid4().hex}"
            # By priority, or else a call whose worker died would wait behind all that came after it.
            call.remote = self._client.submit(
                run_call,
                self._topic,
                call.number,
                blob,
                key=key,
                pure=False,
                priority=-call.number,
                **self._site.options,
            )
        self._new.append(call)
        self._schedule()

    def _gone(self, call: DaskCall) -> Any:
        """Take a call that ended from the books, and send the next; dask's future of it, if it was sent."""
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
        """The calls that have not ended, oldest first."""
        with self._lock:
            return list(self._open.values())

    def share(self, blob: bytes) -> InDask:
        """Put an object on the cluster, as the result of a task, so that it can be made again."""
        key = f"{SHARED}{uuid.uuid4().hex}"
        with _without_warning():
            first = 10**9  # calls wait for it
            return InDask(key, self._client.submit(pickle.loads, blob, key=key, pure=False, priority=first))

    def busy(self) -> bool:
        """Whether there are calls that have not ended."""
        return bool(self._open)

    def drop(self, calls: Iterable[DaskCall]) -> None:
        """Forget calls here and on the cluster, whether they run or not."""
        remotes = [remote for call in calls if (remote := self._gone(call)) is not None]
        if remotes and self._client.status == "running":
            self._client.loop.add_callback(self._cancel, remotes)

    def see_running(self) -> Future[Any] | None:
        """Completes when every call that a worker may have begun says that it runs.

        A worker tells of a call a while after it has begun it. Until then dask's scheduler knows where the call is.
        """
        if self._depth is not None:  # those that are sent say so already
            return None
        looking = self._see_running()
        try:
            return asyncio.run_coroutine_threadsafe(looking, self._client.loop.asyncio_loop)
        except RuntimeError:  # the loop is closed, and so the client
            looking.close()
            return None

    def fail(self, error: BaseException) -> None:
        """End all calls with this error, those too that run, and refuse others; as cancelled by a CancelledError."""
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
        """Listen no more."""
        with contextlib.suppress(Exception):  # the client may be gone
            self._client.unsubscribe_topic(self._topic)

    # In the thread of the client's loop

    async def _see_running(self) -> None:
        try:
            threads = await self._client.scheduler.ncores(workers=None)
            processing = await self._client.scheduler.processing(workers=None)
        except Exception:  # the cluster is going down, or has gone, which the calls' ends will say
            return
        calls = {call.remote.key: call for call in self.open() if call.remote is not None}
        for worker, keys in processing.items():
            # It takes them in the order of their submission; those that come next may begin before they are cancelled.
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
        """Get the outcomes of many calls at once, and let them go."""
        calls = [call for call in calls if call.remote is not None]
        good = {call.number: call.remote for call in calls if call.remote.status == "finished"}
        outcomes: Mapping[int, bytes | None] = {}
        if good:
            try:
                outcomes = await self._client._gather(good, errors="skip")
            except Exception as error:  # the cluster is going down, or has gone
                for call in calls:
                    self._conclude(call, error=self._lost(call, f"has a cluster that is gone: {error}"))
                return
        for call in calls:
            outcome = outcomes.get(call.number)
            if call.remote is None:  # it was dropped meanwhile
                continue
            if isinstance(outcome, bytes):
                result, raised = load_outcome(outcome)
                self._conclude(call, result, raised)
            elif call.remote.status in ("finished", "pending", "lost"):  # lost on the way; dask runs it again
                self._new.append(call)
                self._schedule()
            elif call.remote.status == "cancelled" and self._client.status == "running":
                self._conclude(call, cancelled=True)
            else:
                self._spawn(self._conclude_failed(call))

    async def _conclude_failed(self, call: DaskCall) -> None:
        self._conclude(call, error=await self._error_of(call))

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

    async def _error_of(self, call: DaskCall) -> BaseException:
        if call.remote.status == "cancelled":
            return self._lost(call, "has a cluster that is gone")
        error: BaseException = call.remote._state.exception
        if type(error).__name__ == "KilledWorker":
            worker, deaths = error.args[1], error.args[2] + 1
            host: str | None = getattr(worker, "host", None)
            lost = await self._site.loss(call.name, worker.address, host)
            if lost is None:
                cause = f"died, as did each of the {deaths} workers on which it was tried; it is not tried again"
                lost = WorkerLostError(call.name, cause, None, host)
            lost.attempts = deaths
            if log := self._site.log_of(worker.address):
                add_note(lost, log)
            return lost
        return NotPicklableError(call.name, "the call", f"its worker cannot load it: {type(error).__name__}: {error}")

    def _lost(self, call: DaskCall, cause: str) -> WorkerLostError:
        pid, host = call.place
        return WorkerLostError(call.name, cause, pid, host)

    def _told(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """A worker says that calls have started."""
        told = event[1]
        for number in told["calls"]:
            call = self._open.get(number)
            if call is None:
                continue
            call.starts += 1
            call.place = (told["pid"], told["host"])
            _begun(call)
            starts = self._site.starts
            if starts is not None and call.starts > starts:
                self.drop([call])
                cause = f"was the last of {starts} that ended, or reached their lifetime, while they ran it"
                call.end(error=self._lost(call, cause))


def _begun(call: DaskCall) -> None:
    if not call.running() and not call.done():
        with contextlib.suppress(InvalidStateError, RuntimeError):  # it has just ended, or was cancelled
            call.set_running_or_notify_cancel()


def _without_warning() -> Any:
    """While in here, dask does not warn of large arguments: ours are pickled, and cannot be made smaller."""
    setting: Callable[..., Any] = importlib.import_module("dask").config.set
    return setting({"distributed.admin.large-graph-warning-threshold": "100 GB"})
