"""An executor that runs calls as tasks of Ray."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import time
import uuid
import weakref
from collections import deque
from concurrent.futures import CancelledError, Executor, Future, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

from amlsched._checks import whole_number
from amlsched.errors import (
    NodeLostError,
    WorkerLostError,
    WorkerOutOfMemoryError,
)
from amlsched.executors.capabilities import Capabilities, NodeNow
from amlsched.executors.pickled_calls import load_outcome, pickled_call
from amlsched.executors.scatter import InRay, dumped, run_with_shared
from amlsched.executors.user_function import call_name
from amlsched.executors.worker_exit import end_cancelled
from amlsched.executors.worker_setup import hash_seed_set
from amlsched.resources import Pool, cpus
from amlsched.resources.request import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from amlsched.resources import Resources

__all__ = ["RayExecutor", "unchanged_process"]

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

_REMIND_S = 12.0
_LOOK_S = 1.0
"""How often to look which nodes there are."""
_SHUTDOWN_S = 5.0
"""How long to wait for killed workers to exit, before leaving them to Ray."""
_BREAKPOINT = "PYTHONBREAKPOINT"


class _Call(NamedTuple):
    """A queued call."""

    work: Future[Any]
    name: str
    payload: bytes
    shared: dict[str, Any]
    options: Mapping[str, Any]


class RayExecutor(Executor):
    """Runs calls as tasks of Ray, each in its own process, with the resources that it requests.

    Used like any `concurrent.futures.Executor`; the first call starts Ray or connects to it.

    - Ray gets as many calls at a time as fit into the cluster. The others wait here, where cancelling them is certain.
    - Once the outcome of a call has arrived, its arguments and result are no longer kept in Ray's store. Shared objects
      are kept as long as their handles are alive, and no longer than the executor.
    - If an argument cannot be pickled, `submit` raises a `NotPicklableError` with its name.
    - If a worker dies, only its own call is lost. Ray's own retries are off; the scheduler's apply.

    Args:
        address: Address of a running cluster (`"auto"`, `"ray://host:port"`); `None` for one on this machine, which is
            shut down with the executor. If the program has already called `ray.init`, that is used and left running.
        max_workers: How many calls run at a time; `None` for as many as fit into the cluster at the start.
        request: The resources of each call, by Ray's names, such as `{"num_cpus": 2, "num_gpus": 0.5}`.
        options: Other arguments of `ray.init`.
    """

    capabilities = Capabilities(kills_calls=True, survives_lost_workers=True, remote=True, pickles=True, places=True)

    def __init__(
        self,
        address: str | None,
        max_workers: int | None,
        request: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:

        self.max_workers = None if max_workers is None else whole_number("max_workers", max_workers)
        self._call_name = call_name
        self._address = address
        self._request: dict[str, Any] = {"num_cpus": 1, **request}
        self._options = dict(options)
        self._lock = threading.RLock()  # Ray may call a callback in the thread that cancels the call
        self._idle = threading.Condition(self._lock)
        self._waiting: deque[_Call] = deque()
        self._running: dict[Future[Any], Any] = {}
        self._killed: dict[Future[Any], BaseException | None] = {}
        self._shared: weakref.WeakValueDictionary[str, InRay] = weakref.WeakValueDictionary()
        self._remote: Any = None
        self._nodes: Mapping[str, NodeNow] = {}
        self._lost_nodes: set[str] = set()
        self._changed: Callable[[], object] = bool
        self._looking: threading.Thread | None = None
        self._left = threading.Event()
        self._remind_at = 0.0
        self._ours = False
        self._closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit a call, and return its future.

        Raises:
            NotPicklableError: The function or an argument cannot be sent; the message names it.
            RuntimeError: The executor was shut down.
            ValueError: The cluster does not have the resources that a call requests.
        """
        with self._lock:
            call = self._call(fn, args, kwargs, {})
            self._waiting.append(call)
            self._fill()
        return cast("Future[R]", call.work)

    def watch_nodes(self, changed: Callable[[], object]) -> None:
        """See `PlacingExecutor`. The nodes are those of Ray."""
        with self._lock:
            self._open()
            self._changed = changed
            if self._looking is None:
                self._look()
                self._looking = threading.Thread(target=self._keep_looking, name="amlsched-ray-nodes", daemon=True)
                self._looking.start()

    def nodes_now(self) -> Mapping[str, NodeNow]:
        """See `PlacingExecutor`."""
        return self._nodes

    def nodes_to_come(self) -> None:
        """See `PlacingExecutor`: unknown."""

    def submit_to(
        self,
        node: str,
        request: Resources,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        /,
    ) -> Future[Any]:
        """See `PlacingExecutor`. Ray counts what the call requests as well."""
        affinity = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        options: dict[str, Any] = {
            "scheduling_strategy": affinity(node_id=node, soft=False),
            "num_cpus": request.cpus,
            "num_gpus": request.gpus,
            "resources": dict(request.custom),
        }
        if request.memory:
            options["memory"] = request.memory
        with self._lock:
            call = self._call(function, args, kwargs, options)
            call.work.set_running_or_notify_cancel()
            self._begin(call)
        return call.work

    def _call(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> _Call:
        payload = pickled_call(fn, args, kwargs, by_value=True)
        self._open()
        # A handle may be anywhere in a call, even in a pickle inside the pickle.
        shared = {key: one.reference for key, one in self._shared.items() if key.encode() in payload}
        return _Call(Future(), self._call_name(fn), payload, shared, options)

    def share(self, value: object) -> InRay:
        """Share an object with the workers: put it into Ray's store for as long as the returned object is alive."""
        with self._lock:
            self._open()
        try:
            reference = _ray().put(value)
        except Exception:
            dumped(value)  # raises a better error if it cannot be pickled
            raise
        carrier = InRay(uuid.uuid4().hex, reference)
        self._shared[carrier.key] = carrier
        return carrier

    def kill_call(self, future: Future[Any], exception: BaseException | None = None) -> bool:
        """Kill the worker that runs a call.

        Args:
            future: From `submit` of this executor.
            exception: The exception of the future; `None` to cancel it.

        Returns:
            Whether the call is being killed; if not, it had already finished or not started.
        """
        ray = _ray()

        with self._lock:
            reference = self._running.get(future)
            if reference is None:
                return False
            self._killed.setdefault(future, exception)
        ray.cancel(reference, force=True)
        return True

    def kill_workers(self) -> None:
        """Kill all workers at once, cancel all unfinished calls, and shut down the executor."""
        self._close(cancel=True)
        for work in list(self._running):
            self.kill_call(work)
        with self._idle:
            self._idle.wait_for(lambda: not self._running, _SHUTDOWN_S)
            left = list(self._running)
            self._running.clear()
        for work in left:
            end_cancelled(work)
        self._leave()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; shut down Ray, if this executor started it, once all calls have finished.

        Args:
            wait: Whether to wait for that.
            cancel_futures: Whether to cancel calls that have not started.
        """
        self._close(cancel=cancel_futures)
        if wait or not (self._running or self._waiting):
            self._wait_and_leave()
        else:
            threading.Thread(target=self._wait_and_leave, name="amlsched-ray-shutdown").start()

    # With the lock held

    def _open(self) -> None:
        """Start Ray if necessary; raise if the executor was shut down."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._remote is None:
            self._start()

    def _start(self) -> None:
        ray = _ray()

        if not ray.is_initialized():
            self._ours = True
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics unless the user wants it
            defaults: dict[str, Any] = {"address": self._address, "logging_level": logging.ERROR}
            if self._address is None:
                defaults |= {
                    "address": "local",
                    "num_cpus": self.max_workers or len(cpus()),
                    "include_dashboard": False,
                    "_node_ip_address": "127.0.0.1",
                }
            with unchanged_process(), hash_seed_set():  # inherited by all processes that Ray starts
                ray.init(**{**defaults, **self._options})
        if self.max_workers is None:
            self.max_workers = self._fits(ray.cluster_resources())
        self._remote = ray.remote(max_retries=0, **self._request)(run_with_shared)

    def _fits(self, there_is: Mapping[str, float]) -> int:
        """How many calls fit into the cluster."""
        wanted: dict[str, float] = {
            "CPU": self._request["num_cpus"],
            "GPU": self._request.get("num_gpus", 0),
            "memory": self._request.get("memory", 0),
            **self._request.get("resources", {}),
        }
        counts = {name: there_is.get(name, 0) / amount for name, amount in wanted.items() if amount}
        scarce = min(counts, key=counts.__getitem__, default=None)
        if scarce is None:
            return len(cpus())
        if counts[scarce] < 1:
            raise ValueError(
                f"with_ray: a call requests {wanted[scarce]:g} {scarce}, but the cluster has "
                f"{there_is.get(scarce, 0):g} (request less; for a cluster that grows, set max_workers)"
            )
        return int(counts[scarce])

    def _fill(self) -> None:
        assert self.max_workers is not None
        while self._waiting and len(self._running) < self.max_workers:
            call = self._waiting.popleft()
            if call.work.set_running_or_notify_cancel():
                self._begin(call)

    def _begin(self, call: _Call) -> None:
        remote = self._remote.options(name=call.name, **call.options)
        self._running[call.work] = reference = remote.remote(call.payload, call.shared)
        reference.future().add_done_callback(partial(self._ended, call.work, call.name, call.options))

    def _look(self) -> None:
        """See which nodes there are."""
        here = {each["NodeID"]: each for each in _ray().nodes() if each["Alive"]}
        self._lost_nodes &= here.keys()  # Ray sends no more calls there, and will soon say so
        found = {key: self._nodes.get(key) or _node(each) for key, each in here.items() if key not in self._lost_nodes}
        if found.keys() != self._nodes.keys() or time.monotonic() > self._remind_at:
            self._nodes = found
            self._remind_at = time.monotonic() + _REMIND_S
            self._changed()

    # Without the lock

    def _keep_looking(self) -> None:
        while not self._left.wait(_LOOK_S):
            with self._lock:
                if self._left.is_set() or not _ray().is_initialized():
                    return
                try:
                    self._look()
                except Exception as error:  # Ray's own classes, if its head is gone for a moment
                    logger.debug("the nodes of Ray are not known: %s", error)

    def _ended(self, work: Future[Any], name: str, options: Mapping[str, Any], done: Future[Any]) -> None:
        """Complete a call. Called in a thread of Ray."""
        with self._idle:
            ours = self._running.pop(work, None) is not None
            killed = work in self._killed
            reason = self._killed.pop(work, None)
            if not self._closed or self._waiting:
                self._fill()
            if options and _lost_its_node(done.exception()):
                node = options["scheduling_strategy"].node_id
                self._lost_nodes.add(node)
                self._nodes = {key: each for key, each in self._nodes.items() if key != node}
                self._changed()
            if not self._running:
                self._idle.notify_all()
        if not ours:
            return
        error = done.exception()
        if error is None:
            result, failure = load_outcome(done.result())
            if failure is None:
                work.set_result(result)
            else:
                work.set_exception(failure)
        elif not killed:
            work.set_exception(_lost(name, error))
        elif reason is not None:
            work.set_exception(reason)
        else:
            end_cancelled(work)

    def _close(self, *, cancel: bool) -> None:
        with self._lock:
            self._closed = True
            waiting = [call.work for call in self._waiting] if cancel else []
            if cancel:
                self._waiting.clear()
        for work in waiting:
            if work.cancel():
                work.set_running_or_notify_cancel()

    def _wait_and_leave(self) -> None:
        with self._lock:
            left = [*self._running, *(call.work for call in self._waiting)]
        wait(left)
        self._leave()

    def _leave(self) -> None:
        ray = _ray()

        self._left.set()
        with self._lock:
            ours, self._ours = self._ours, False
        for carrier in self._shared.values():
            carrier.reference = None  # the program may use another Ray by the time when the handle is deleted
        if ours:
            ray.shutdown()


def _node(found: Mapping[str, Any]) -> NodeNow:
    """What a node has, as Ray counts it."""
    custom = {
        name: amount
        for name, amount in found["Resources"].items()
        if name not in ("CPU", "GPU", "memory", "object_store_memory") and ":" not in name
    }
    there: Mapping[str, float] = found["Resources"]
    pool = Pool(
        there.get("CPU", 0) or 1 / WHOLE,
        f"{int(there['memory'])} B" if "memory" in there else None,
        int(there.get("GPU", 0)),
        custom=custom,
        name=f"{found['NodeID'][:8]} on {found['NodeManagerHostname']}",
    )
    return NodeNow(pool, binding="executor")


def _lost_its_node(error: BaseException | None) -> bool:
    exceptions = _ray().exceptions
    return isinstance(error, (exceptions.NodeDiedError, exceptions.TaskUnschedulableError))


def _ray() -> Any:
    """The module of Ray, which is large and imported on first use."""
    return importlib.import_module("ray")


@contextmanager
def unchanged_process() -> Generator[None]:
    """Undo what starting Ray in this context changes in the process: the handlers of SIGTERM and of `breakpoint()`."""
    terminate, hook, variable = signal.getsignal(signal.SIGTERM), sys.breakpointhook, os.environ.get(_BREAKPOINT)
    try:
        yield
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # Ray's handler exits with the bare number
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        sys.breakpointhook = hook
        os.environ.pop(_BREAKPOINT, None)
        if variable is not None:
            os.environ[_BREAKPOINT] = variable
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)


def _lost(name: str, error: BaseException) -> BaseException:
    """The exception of a call without an outcome, from Ray's error."""
    exceptions = _ray().exceptions

    words = " ".join(str(error).split())
    if isinstance(error, exceptions.OutOfMemoryError):
        return WorkerOutOfMemoryError(name, f"Ray: {words}")
    if isinstance(error, (exceptions.NodeDiedError, exceptions.LocalRayletDiedError)):
        return NodeLostError(name, "of Ray", type(error).__name__, words)
    if isinstance(error, exceptions.TaskCancelledError):
        return CancelledError()
    return WorkerLostError(name, f"died; Ray reports: {words}")
