"""An executor that runs calls on the workers of a dask cluster."""

from __future__ import annotations

import concurrent.futures
import threading
from concurrent.futures import CancelledError, Executor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from amlsched.executors._dask.clusters import GivenClient
from amlsched.executors._dask.worker import Tries, forget_tls_errors
from amlsched.executors.capabilities import Capabilities
from amlsched.executors.pickled_calls import pickled_call
from amlsched.executors.scatter import InDask, dumped
from amlsched.executors.user_function import call_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from amlsched.executors._dask.calls import Calls
    from amlsched.executors._dask.clusters import ClusterProvider
    from amlsched.executors._dask.nodes import DaskNodes
    from amlsched.executors.capabilities import NodeNow
    from amlsched.resources.request import Resources

__all__ = ["DaskExecutor", "InPlaceOf"]

P = ParamSpec("P")
R = TypeVar("R")

_PER_WORKER = 2  # calls submitted at a time, so that a worker has its next one while it returns the last outcome


class DaskExecutor(Executor):
    """Runs calls on the workers of a dask cluster, each in a thread of a worker.

    Used like any `concurrent.futures.Executor`; the first call starts the cluster or connects to it.

    - Equal calls are separate calls: dask's `pure` does not apply.
    - Once the outcome of a call has arrived, nothing of it is kept on the cluster.
    - If an argument cannot be pickled, `submit` raises a `NotPicklableError` with its name.
    - If a worker dies, its call is retried on another. A call that has lost four workers (one more than dask's setting
      `distributed.scheduler.allowed-failures`) fails with `WorkerLostError`.
    - A single running call cannot be killed. A waiting call that is cancelled never runs.

    Args:
        provider: Provides the cluster.
    """

    capabilities = Capabilities(
        remote=True, pickles=True, survives_lost_workers=True, reruns_lost_calls=True, places=True
    )

    def __init__(self, provider: ClusterProvider) -> None:
        self.provider = provider
        self.on_failure: Callable[[BaseException], None] | None = None
        """Called once when the cluster can run no more calls, before they fail with that error."""
        self._calls: Calls | None = None
        self._nodes: DaskNodes | None = None
        self._closed = False
        self._ended = False
        self._lock = threading.RLock()

    @property
    def max_workers(self) -> int | None:
        """The maximum number of workers, if known."""
        return self.provider.max_workers

    @property
    def driver_host(self) -> str | None:
        """The address of this machine that workers can reach; `None` if unknown."""
        return self.provider.driver_host

    @property
    def client(self) -> Any:
        """The `distributed.Client`; starts the cluster if necessary."""
        return self._start()._client  # pyright: ignore[reportPrivateUsage]

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit a call, and return its future.

        Raises:
            NotPicklableError: The function or an argument cannot be sent; the message names it.
            RuntimeError: The executor was shut down.
        """
        blob = pickled_call(fn, args, kwargs, by_value=True)
        calls = self._calls if self._calls is not None and not self._closed else self._start()
        return cast("Future[R]", calls.submit(call_name(fn), blob))

    def watch_nodes(self, changed: Callable[[], object]) -> None:
        """See `PlacingExecutor`. A node is a worker, with what it registered."""
        from amlsched.executors._dask.nodes import DaskNodes

        calls = self._start()
        if self._nodes is None:
            self._nodes = DaskNodes(self.client, self.provider, calls)
        self._nodes.watch(changed)

    def nodes_now(self) -> Mapping[str, NodeNow]:
        """See `PlacingExecutor`."""
        return {} if self._nodes is None else self._nodes.now

    def nodes_to_come(self) -> Sequence[NodeNow] | None:
        """See `PlacingExecutor`."""
        return self.provider.nodes_to_come()

    def submit_to(
        self,
        node: str,
        request: Resources,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        /,
    ) -> Future[Any]:
        """See `PlacingExecutor`."""
        blob = pickled_call(function, args, kwargs, by_value=True)
        return self._start().submit_to(node, call_name(function), blob)

    def see_running(self) -> Future[Any] | None:
        """A future that finishes once all calls that have started are marked as running; `None` if they are."""
        return self._calls.see_running() if self._calls is not None else None

    def share(self, value: object) -> InDask:
        """Share an object with the workers, each of which loads it once."""
        calls = self._start()
        return calls.share(dumped(value))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; the executor's own cluster is closed once all calls have finished.

        Args:
            wait: Whether to wait for that.
            cancel_futures: Whether to cancel calls that no worker has started.
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
        """Cancel all calls, and kill the workers at once if the cluster is the executor's own."""
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

                forget_tls_errors()
                client = self.provider.open(self._fail)
                workers = self.provider.max_workers
                depth = None if self.provider.scales or workers is None else _PER_WORKER * workers
                self._calls = Calls(client, self.provider, depth)
                self.provider.busy = self._calls.busy
            return self._calls

    def _fail(self, error: BaseException) -> None:
        on_failure, self.on_failure = self.on_failure, None
        if on_failure is not None:
            on_failure(error)
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
        if self._nodes is not None:
            self._nodes.close()
        if self._calls is not None:
            self._calls.close()
        self.provider.close(at_once)


class InPlaceOf(DaskExecutor):
    """Runs calls on behalf of the executor of a `distributed.Client`, with the options of its `get_executor`.

    That executor's own futures do not report running calls, its `submit` interprets keywords of the user's functions,
    and it treats equal calls as one.

    Args:
        executor: A `distributed.cfexecutor.ClientExecutor`.
    """

    def __init__(self, executor: Any) -> None:
        options = {name: value for name, value in executor._kwargs.items() if name not in ("pure", "retries")}
        super().__init__(GivenClient(executor._client, options))
        self._executor = executor
        self._retries: int = executor._kwargs.get("retries") or 0

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """See `DaskExecutor`."""
        if self._executor._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not self._retries:
            return super().submit(fn, *args, **kwargs)
        return super().submit(Tries(fn, self._retries), *args, **kwargs)
