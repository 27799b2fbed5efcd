"""Calls on the workers of a dask cluster."""

from __future__ import annotations

import concurrent.futures
import threading
from concurrent.futures import CancelledError, Executor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from amlsched.executors._dask.clusters import Given
from amlsched.executors._dask.worker import Tries
from amlsched.executors.capabilities import Capabilities
from amlsched.executors.pickled_calls import pickled_call
from amlsched.executors.pickling import call_name
from amlsched.executors.scatter import InDask, dumped

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from amlsched.executors._dask.calls import Calls
    from amlsched.executors._dask.clusters import Site

__all__ = ["DaskExecutor", "InPlaceOf"]

P = ParamSpec("P")
R = TypeVar("R")

_PER_WORKER = 2  # calls sent at a time: a worker has its next one while the outcome of the last is on its way


class DaskExecutor(Executor):
    """Calls run on the workers of a dask cluster, each in the thread of a worker.

    Used like any `concurrent.futures.Executor`; the cluster is started, or connected to, with the first call.

    - Equal calls are separate calls: dask's `pure` does not apply.
    - Nothing is kept on the cluster for a call once its outcome is here.
    - What cannot be pickled raises `NotPicklableError` from `submit`, with the name of the argument.
    - A call whose worker dies runs again on another. One that was on four workers when they died (dask's setting
      `distributed.scheduler.allowed-failures`, and one more) ends with `WorkerLostError`.
    - A running call cannot be ended alone. Cancelled while it waits, it never runs.

    Args:
        site: Where the cluster is.
    """

    capabilities = Capabilities(remote=True, pickles=True, survives_lost_workers=True, reruns_lost_calls=True)

    def __init__(self, site: Site) -> None:
        self.site = site
        self.on_failure: Callable[[BaseException], None] | None = None
        """Told once when the cluster cannot run calls any more, before they end with that error."""
        self._calls: Calls | None = None
        self._closed = False
        self._ended = False
        self._lock = threading.RLock()

    @property
    def max_workers(self) -> int | None:
        """How many workers there are at most, where that is known."""
        return self.site.max_workers

    @property
    def driver_host(self) -> str | None:
        """The address of this machine that workers can reach; `None` where that is not known."""
        return self.site.driver_host

    @property
    def client(self) -> Any:
        """The `distributed.Client`; the cluster is started for it where that was not done."""
        return self._start()._client  # pyright: ignore[reportPrivateUsage]

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have a function called on a worker.

        Raises:
            NotPicklableError: The function or an argument cannot be sent; it names which.
            RuntimeError: The executor was shut down.
        """
        blob = pickled_call(fn, args, kwargs, by_value=True)
        calls = self._calls if self._calls is not None and not self._closed else self._start()
        return cast("Future[R]", calls.submit(call_name(fn), blob))

    def see_running(self) -> Future[Any] | None:
        """Completes when every call that a worker may have begun says that it runs; `None` where it does anyway."""
        return self._calls.see_running() if self._calls is not None else None

    def share(self, value: object) -> InDask:
        """What brings an object to the workers, each of which gets it once."""
        calls = self._start()
        return calls.share(dumped(value))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; a cluster of this executor's own is ended once those there are have ended.

        Args:
            wait: Whether to return only then.
            cancel_futures: Whether calls that no worker has begun are cancelled.
        """
        with self._lock:
            self._closed = True
        if self._calls is None:
            return
        left = self._calls.open()
        if cancel_futures:
            for call in left:
                call.cancel()
        if wait or not left:
            self._wait_and_end()
        else:
            threading.Thread(target=self._wait_and_end, name="amlsched-dask-shutdown", daemon=False).start()

    def kill_workers(self) -> None:
        """End the workers at once where the cluster is this executor's own, and every call as cancelled."""
        with self._lock:
            self._closed = True
        if self._calls is not None:
            self._calls.fail(CancelledError())
            self._end(at_once=True)

    def _start(self) -> Calls:
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._calls is None:
                from amlsched.executors._dask.calls import Calls

                client = self.site.open(self._fail)
                workers = self.site.max_workers
                depth = None if self.site.scales or workers is None else _PER_WORKER * workers
                self._calls = Calls(client, self.site, depth)
                self.site.busy = self._calls.busy
            return self._calls

    def _fail(self, error: BaseException) -> None:
        told, self.on_failure = self.on_failure, None
        if told is not None:
            told(error)
        if self._calls is not None:
            self._calls.fail(error)

    def _wait_and_end(self) -> None:
        assert self._calls is not None
        concurrent.futures.wait(self._calls.open())
        self._end(at_once=False)

    def _end(self, *, at_once: bool) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        if self._calls is not None:
            self._calls.close()
        self.site.close(at_once)


class InPlaceOf(DaskExecutor):
    """Runs the calls that are given to the executor of a `distributed.Client`, with what `get_executor` was given.

    That one itself has no future that says that its call runs, takes keywords of the user's functions for its own, and
    takes equal calls for one.

    Args:
        executor: A `distributed.cfexecutor.ClientExecutor`.
    """

    def __init__(self, executor: Any) -> None:
        options = {name: value for name, value in executor._kwargs.items() if name not in ("pure", "retries")}
        super().__init__(Given(executor._client, options))
        self._executor = executor
        self._retries: int = executor._kwargs.get("retries") or 0

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """See `DaskExecutor`."""
        if self._executor._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not self._retries:
            return super().submit(fn, *args, **kwargs)
        return super().submit(Tries(fn, self._retries), *args, **kwargs)
