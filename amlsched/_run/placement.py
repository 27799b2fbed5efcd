"""Lets calls wait until a node has what they request, and gives back what they held when they end."""

from __future__ import annotations

import math
import time
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import WeakKeyDictionary

from amlsched._context import contextmanager
from amlsched._run.admission import Admission, MeasuringAdmission
from amlsched._run.learning import LearnedRequests, grown
from amlsched.errors import MemoryLimitError, ResourcesError, WorkerOutOfMemoryError
from amlsched.executors.allocated_call import AllocatedCall
from amlsched.executors.capabilities import worker_count
from amlsched.policies import WaitingCall
from amlsched.resources.allocation import allocation_of
from amlsched.resources.pool import HERE, Node, refuse_impossible, replace_name
from amlsched.resources.request import Resources, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from concurrent.futures import BrokenExecutor, Executor

    from amlsched.estimates.estimator import Estimator
    from amlsched.executors.allocated_call import Binding
    from amlsched.executors.capabilities import PlacingExecutor
    from amlsched.future import Future
    from amlsched.policies import Policy
    from amlsched.resources.pool import Lease, Pool

__all__ = ["MeasuringPlacement", "PlacedCalls", "Placement"]


_SETTLED_S = 10.0
"""If no node has come for so long, none is expected that can hold what those that are here cannot."""
_UNSPECIFIED = Wanted((Resources(),))
_GROWTH = 2.0
"""How many times the memory a call gets whose learned memory was too little."""


class PlacedCalls(NamedTuple):
    """The calls of a run that request resources, for estimates.

    Attributes:
        now: The present, in the seconds of the leases and of the policy.
        leases: What calls hold that have been sent.
        waiting: What the policy knows of those that wait.
        nodes: The nodes.
        policy: Creates such a policy.
    """

    now: float
    leases: Mapping[Future[Any], Lease]
    waiting: Mapping[Future[Any], WaitingCall]
    nodes: Sequence[Node]
    policy: Callable[[], Policy]


class Placement(Admission):
    """The queue of calls of a run whose calls request resources.

    A call waits in the policy. Once the policy has chosen it, it holds a lease and goes the way of all calls. The lease
    ends when the executor has reported the end of the call, which it does when the process has exited or is ready for
    the next call; a call that runs again waits for another lease. A separate class, so that calls without requests cost
    nothing.

    Args:
        executor: As of `Admission`.
        finished: Likewise.
        broken: Likewise.
        calls: Likewise.
        pools: What each node has; several nodes only if the executor runs nothing, such as a simulation. For an
            executor that has nodes itself, what nodes of these names have, if they do not say it.
        policy: Creates the policy.
        clock: Returns the time in seconds.
        estimator: What learns from calls how long they take and what they need, if something does.
        then: Calls a function in the loop's thread, soon; can be called in any thread.

    Raises:
        ResourcesError: The workers are on other hosts, and the executor does not place calls.
    """

    def __init__(
        self,
        executor: Executor,
        finished: Callable[[Future[Any]], None],
        broken: Callable[[Future[Any], BrokenExecutor], None],
        calls: Iterable[Future[Any]],
        *,
        pools: Sequence[Pool],
        policy: Callable[[], Policy],
        clock: Callable[[], float],
        estimator: Estimator | None = None,
        then: Callable[[Callable[[], object]], object],
    ) -> None:
        self._leases: dict[Future[Any], Lease] = {}
        self._queued: dict[Future[Any], WaitingCall] = {}
        self._possible: set[tuple[Resources, ...]] = set()
        self._last: Wanted | None = None  # most often the same object for all calls of a task
        self._freed: dict[Node, None] = {}  # since the last choice
        self._changed = False  # since the last choice
        self._new_policy, self._estimator = policy, estimator
        self._policy, self._clock = policy(), clock
        self._given, self._then = pools, then
        self._nodes: list[Node] = []
        self._allocated_last: tuple[Any, Node, Resources, tuple[int, ...], AllocatedCall] | None = None
        self._last_came = 0.0
        self._here: dict[str, Node] = {}  # the nodes of an executor that has some itself, by its keys
        self._keys: dict[Node, tuple[str, Binding]] = {}
        self._learned: LearnedRequests | None = None  # created for the first call that learns what it needs
        self._asked: WeakKeyDictionary[Future[Any], int] = WeakKeyDictionary()  # memory that calls that learn have had
        self._settling = False  # the receipt of a call that has ended is not known yet
        super().__init__(executor, finished, broken, calls)
        if self.capabilities.places:
            self._gpu_variable = "CUDA_VISIBLE_DEVICES"
            return
        if self.capabilities.remote:
            problem = f"a task requests resources, but the workers of {self.executor_name} are on other hosts"
            raise ResourcesError("the scheduler", problem, "request resources from the cluster's own scheduler")
        self._nodes = [Node(pool, self._max_calls(len(pools))) for pool in pools]
        self._gpu_variable = _gpu_variable(pools)

    def _max_calls(self, n_nodes: int) -> int | None:
        """How many calls a node runs at a time, so that no call waits in the executor while it holds a lease."""
        if n_nodes > 1:
            return None
        return 1 if self.inline else worker_count(self._executor)

    def placed(self) -> PlacedCalls:
        """The calls as they are now."""
        return PlacedCalls(self._clock(), self._leases, self._queued, self._nodes, self._new_forward)

    def _new_forward(self) -> Policy:
        return self._policy.without_calls() or self._new_policy()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, with what calls hold of them."""
        return tuple(self._nodes)

    @property
    def _binding(self) -> Binding:
        if self.capabilities.virtual:
            return "nothing"
        return "worker" if self.capabilities.pickles else "call" if self.inline else "nothing"

    # Waiting

    def take(self, future: Future[Any]) -> None:
        """Let a call wait for a lease.

        Raises:
            ResourcesError: No node can ever hold what it requests.
        """
        wanted = _wanted(future)
        if wanted is not self._last and wanted.requests not in self._possible:
            if self.capabilities.places:
                self._refuse_on_nodes(wanted.requests, repr(future))
            else:
                refuse_impossible(wanted.requests, self._nodes, repr(future))
                self._possible.add(wanted.requests)
        self._last = wanted
        self._enqueue(future)

    def _enqueue(self, future: Future[Any]) -> None:
        wanted = _wanted(future)
        requests, priority = wanted.requests, wanted.priority
        if wanted.learns:
            if self._learned is None:
                assert self._estimator is not None
                self._learned = LearnedRequests(self._estimator, lambda: self._nodes)
            found = self._learned.request(future, requests[0].memory)
            if found is None:
                return  # it waits until something is learned
            requests, priority = (found[0],), math.inf if found[1] else priority
        seconds = None if self._estimator is None else self._estimator.expected(future)
        call = WaitingCall(future.number, requests, seconds, priority, self._clock(), key=future)
        self._queued[future] = call
        self._policy.add(call)
        self._changed = True

    def admit(self) -> None:
        """See `Admission`."""
        self._place()
        super().admit()

    def next_inline(self) -> Future[Any] | None:
        """See `Admission`."""
        if self.inline and not self._waiting:
            self._place()
        return super().next_inline()

    def _place(self) -> None:
        """Lease resources to the calls that the policy chooses, and submit these."""
        while self._changed and not (self._paused or self._settling):
            freed, self._freed, self._changed = list(self._freed), {}, False
            for call, lease in self._policy.choose(self._nodes, self._clock(), freed):
                future: Future[Any] = call.key
                del self._queued[future]
                self._leases[future] = lease
                lease.since = self._clock()
                if self._learned is not None and _wanted(future).learns:
                    self._learned.drop(future)
                    self._asked[future] = lease.request.memory
                if future.done():  # it was cancelled, and the run has not processed that yet
                    self._give_back(future)
                    continue
                try:
                    if self.capabilities.places:  # one by one, as each goes to its node
                        self.send(future)
                    else:
                        Admission.take(self, future)
                except Exception as error:
                    self._rejected([future], error)
            if self._queued and not self._leases and not self._changed and not self.capabilities.places:
                self._refuse_queued()

    def _refuse_queued(self) -> None:
        """Fail the calls that would wait for ever: nothing runs, and the policy starts nothing."""
        queued, self._queued = list(self._queued.items()), {}
        for future, call in queued:
            self._policy.discard(call)
            problem = f"{type(self._policy).__name__} starts no call although no call holds anything"
            self.reject([future], ResourcesError(repr(future), problem, "correct the policy"))

    # Leases

    def send(self, future: Future[Any]) -> None:
        """See `Admission`."""
        if future not in self._leases:
            self._lease_at_once(future)
        lease, task = self._leases.get(future), future.task
        if lease is not None and task is not None:
            for plugin in task.plugins:
                plugin.allocated(future, lease.request)
        with self._allocated(future):
            if self.capabilities.places:
                lease = self._leases[future]
                key, _ = self._keys[lease.node]
                submit_to = cast("PlacingExecutor", self._executor).submit_to
                work = submit_to(key, lease.request, future.function, future.args, future.kwargs)
                future.work = work
                work.add_done_callback(future.work_done)
            else:
                super().send(future)

    def _lease_at_once(self, future: Future[Any]) -> None:
        """Take a lease for a call that runs out of turn, alone in a pool that was recreated after it broke."""
        for request in _wanted(future).requests:
            for node in self._nodes:
                if node.fits(request):
                    self._leases[future] = node.take(request, self._clock())
                    return

    @contextmanager
    def _allocated(self, future: Future[Any]) -> Generator[None]:
        """Inside, the call has a function that knows what it got, which is sent; elsewhere its own."""
        function: Any = future.function
        lease = self._leases.get(future)
        if lease is None or self.capabilities.virtual or isinstance(function, AllocatedCall):
            yield
            return
        in_child = getattr(function, "in_child", None)  # bind the child that runs the call, not its parent
        if in_child is not None:
            bound = AllocatedCall(in_child, allocation_of(lease), "worker", self._gpu_variable)
            future.function = function.with_function(bound)
        elif (known := self._allocated_last) is not None and _is_same(known, function, lease):
            future.function = known[-1]
        else:
            binding, variable = self._binding, self._gpu_variable
            if self.capabilities.places:
                _, binding = self._keys[lease.node]
                variable = "" if binding == "executor" or not lease.node.pool.gpus else variable
            future.function = AllocatedCall(function, allocation_of(lease), binding, variable)
            self._allocated_last = function, lease.node, lease.request, lease.devices, future.function
        try:
            yield
        finally:
            future.function = function

    def execute(self, future: Future[Any]) -> Any:
        """See `Admission`."""
        try:
            with self._allocated(future):
                return super().execute(future)
        finally:
            self._give_back(future)

    def _collect(self, task: Any, future: Future[Any]) -> None:
        with self._allocated(future):
            super()._collect(task, future)

    def _release(self, future: Future[Any]) -> None:
        self._give_back(future)
        super()._release(future)

    def _give_back(self, future: Future[Any]) -> None:
        lease = self._leases.pop(future, None)
        if lease is not None:
            lease.give_back()
            self._freed[lease.node] = None
            self._changed = True

    def forget(self, future: Future[Any]) -> None:
        """See `Admission`."""
        super().forget(future)
        if future.work is None:
            self._unqueue(future)
            self._give_back(future)
            if _wanted(future).learns:
                self._learn_from(future)

    def _unqueue(self, future: Future[Any]) -> None:
        call = self._queued.pop(future, None)
        if call is not None:
            self._policy.discard(call)
            self._changed = True  # it may have had a reservation

    # Calls that learn what they need

    def _learn_from(self, future: Future[Any]) -> None:
        """Let calls request again whose kind is known better, now that an attempt of one has ended."""
        if self._learned is not None:
            self._request_again(self._learned.ended(future))

    def _request_again(self, futures: Iterable[Future[Any]]) -> None:
        assert self._learned is not None
        for future in futures:
            if not future.done():
                self._unqueue(future)
                self._learned.drop(future)
                self._enqueue(future)

    def grows(self, future: Future[Any], error: BaseException) -> bool:
        """Whether a call that failed runs again with more memory, as what was learned was too little."""
        if not isinstance(error, MemoryLimitError) or error.limit_bytes != self._asked.get(future):
            return False
        return self.more_memory(future, error, None, math.inf) is not None

    def more_memory(self, future: Future[Any], error: BaseException, factor: float | None, most: float) -> int | None:
        """Have the next attempt of a call request more memory.

        Args:
            future: The call.
            error: The exception of the last one, which ran out of memory.
            factor: By which to multiply its memory; `None` for 2 if it was learned, else for no more.
            most: Bytes beyond which it does not grow.

        Returns:
            Bytes; `None` if there is no more.
        """
        wanted = _wanted(future)
        asked = self._asked.get(future, max(request.memory for request in wanted.requests))
        if factor is None and wanted.learns:
            factor = _GROWTH
        amounts = [node.pool.memory for node in self._nodes if not node.lost]
        largest = max((math.inf if amount is None else amount for amount in amounts), default=math.inf)
        memory = None if factor is None or not asked else grown(error, asked, factor, min(most, largest))
        if memory is None:
            return None
        future.wanted = wanted.with_memory(memory)
        if wanted.learns and self._learned is not None:
            self._request_again(self._learned.grows(future, memory))
        return memory

    # Calls that run again

    def runs_again(self, future: Future[Any], error: BaseException) -> None:
        """See `Admission`."""
        if isinstance(error, WorkerOutOfMemoryError):
            plugins = () if future.task is None else future.task.plugins
            factors = [plugin.memory_growth for plugin in plugins if plugin.memory_growth is not None]
            self.more_memory(future, error, factors[0] if factors else None, math.inf)

    def resend(self, future: Future[Any]) -> None:
        """Let a call wait for another lease."""
        self._enqueue(future)

    def put_back(self, futures: Sequence[Future[Any]]) -> None:
        """See `Admission`."""
        for future in futures:
            self._enqueue(future)

    def take_lost_calls(self, calls: Iterable[Future[Any]]) -> list[Future[Any]]:
        """See `Admission`."""
        lost = super().take_lost_calls(calls)
        for future in lost:
            self._give_back(future)
        return lost

    def use(self, executor: Executor) -> None:
        """See `Admission`."""
        for future in self.abandoned:
            self._give_back(future)
        super().use(executor)
        if self.capabilities.places:
            # Each attempt needs a lease of its own, so the scheduler retries lost calls, and not the executor.
            self.capabilities = self.capabilities._replace(reruns_lost_calls=False, queue_depth=None)
            self._depth = None
            cast("PlacingExecutor", executor).watch_nodes(lambda: self._then(self._look_at_nodes))
            self._look_at_nodes()

    # Nodes that come and go

    def _look_at_nodes(self) -> None:
        """Use the nodes that the executor has now, and no longer those that it has lost."""
        now = cast("PlacingExecutor", self._executor).nodes_now()
        for key in [key for key in self._here if key not in now]:
            node = self._here.pop(key)
            node.lost = True
            self._freed[node] = None  # what was reserved there is reserved elsewhere
            self._changed = True
        for key, each in now.items():
            if key not in self._here:
                ends = math.inf if each.ends is None else each.ends - time.monotonic() + self._clock()
                lasts = math.inf if each.lasts_s is None else each.lasts_s
                node = self._here[key] = Node(self._pool_of(each.pool), each.max_calls, ends, lasts)
                self._keys[node] = key, each.binding
                self._freed[node] = None
                self._changed = True
                self._last_came = time.monotonic()
        self._nodes = list(self._here.values())
        if self._learned is not None:
            self._request_again(self._learned.changed())
        if self._queued and time.monotonic() - self._last_came >= _SETTLED_S:
            self._refuse_impossible_now()

    def _pool_of(self, found: Pool) -> Pool:
        """What a node has: by a pool of its name, else by the one for all, else what it says."""
        names = (found.name, *found.name.split(" on "))
        own = [pool for pool in self._given if pool.name in names]
        fitting = own or [pool for pool in self._given if pool.name == HERE]
        return replace_name(fitting[0], found.name) if fitting else found

    def _refuse_on_nodes(self, requests: tuple[Resources, ...], where: str) -> None:
        """Raise ResourcesError if neither a node that is here nor one that is to come can hold a request."""
        coming = cast("PlacingExecutor", self._executor).nodes_to_come()
        if coming is None and not self._nodes:
            return  # what there will be is not known yet
        too_long = ""
        for request, each in product(requests, coming or ()):
            # A node that is to come does not say which GPUs and resources of other names it will have.
            short = Node(self._pool_of(each.pool)).shortage(request)
            if short is not None and short.dimension in ("CPUs", "memory"):
                continue
            if request.time is None or each.lasts_s is None or request.time <= each.lasts_s:
                self._possible.add(requests)
                return
            too_long = f"is expected to take {request.time:g} s, but {each.pool.name} lasts {each.lasts_s:g} s"
        if too_long:
            raise ResourcesError(where, too_long, "use a longer walltime, or expect less time")
        refuse_impossible(requests, [*self._nodes, *(Node(self._pool_of(each.pool)) for each in coming or ())], where)
        self._possible.add(requests)

    def _refuse_impossible_now(self) -> None:
        """Fail the calls that wait and turn out to fit on no node, now that nodes are known."""
        for future, call in list(self._queued.items()):
            if call.requests in self._possible:
                continue
            try:
                self._refuse_on_nodes(call.requests, repr(future))
            except ResourcesError as error:
                del self._queued[future]
                self._policy.discard(call)
                self.reject([future], error)


class MeasuringPlacement(MeasuringAdmission, Placement):
    """Has each call measured as well, so that something is learned."""

    def outcome(self, future: Future[Any]) -> tuple[Any, BaseException | None]:
        """See `Admission`."""
        lease, succeeded = self._leases.get(future), False
        self._settling = True  # no other call is placed before this one's receipt is there
        try:
            result, error = super().outcome(future)
            succeeded = error is None
        finally:
            self._settling = False
            self._ended(future, lease, succeeded)
        return result, error

    def execute(self, future: Future[Any]) -> Any:
        """See `Admission`."""
        lease, succeeded = self._leases.get(future), False
        try:
            result = super().execute(future)
            succeeded = True
        finally:
            self._ended(future, lease, succeeded)
        return result

    def _ended(self, future: Future[Any], lease: Lease | None, succeeded: bool) -> None:
        if self._estimator is not None and lease is not None:
            held_s = 0.0 if lease.since is None else self._clock() - lease.since
            self._estimator.used(future, lease.request, succeeded, held_s)
            if _wanted(future).learns:
                self._learn_from(future)


def _is_same(known: tuple[Any, Node, Resources, tuple[int, ...], AllocatedCall], function: Any, lease: Lease) -> bool:
    """Whether a function was bound to what another call got of the same; not by `==` of the user's objects."""
    return known[0] is function and known[1] is lease.node and known[2] is lease.request and known[3] == lease.devices


def _wanted(future: Future[Any]) -> Wanted:
    found: Wanted = getattr(future, "wanted", _UNSPECIFIED)
    return found


def _gpu_variable(pools: Sequence[Pool]) -> str:
    """The environment variable that selects GPUs; empty if no pool has any."""
    if not any(pool.gpus for pool in pools):
        return ""
    from amlsched.resources.detect import gpus

    return gpus().variable
