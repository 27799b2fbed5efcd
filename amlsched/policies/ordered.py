"""Policies that start calls by a rank, pack them on the nodes, and reserve for the first that does not fit.

What a small call may overtake is bounded as in batch systems (backfilling): the first call in the order that fits
nowhere gets a reservation on the node where it will fit first, by the expected ends of what runs there. Another call
may take that node's resources only if it is expected to end before the reservation begins, or if the reserved call
still fits beside it. Once the time of the reservation has passed, only the latter.
"""

from __future__ import annotations

import heapq
import math
from abc import abstractmethod
from bisect import bisect_left, insort
from operator import itemgetter
from typing import TYPE_CHECKING, ClassVar

from amlsched.policies.policy import Placement, Policy
from amlsched.resources.pool import Amounts, Node

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from amlsched.policies.policy import WaitingCall
    from amlsched.resources.request import Resources

__all__ = ["ArrivalOrder", "LongestFirst", "OrderedPolicy"]

Rank = tuple[float, ...]
_Entry = tuple[Rank, "WaitingCall"]

_first_of_pair = itemgetter(0)
_LOOK_AHEAD = 8
"""How many calls of a group to try, as they differ in memory."""
_SHARES = 1000
"""Of how many requests to keep their share."""
_FEW = 64
"""More new calls than this are placed node by node."""
_CANDIDATES = 16
"""On how many nodes to look for the earliest reservation at most."""
_PATIENCE = 10.0
"""Calls that were submitted earlier by this many times the longest expected call go first."""


class _Group:
    """Waiting calls of which each needs the same, except for memory within a class of sizes."""

    __slots__ = ("cpus", "entries", "gpus", "kind", "memory")

    def __init__(self, kind: object, requests: Sequence[Resources]) -> None:
        self.kind = kind
        self.entries: list[_Entry] = []  # the first in the order is the last in the list
        # No call of the group needs less than this.
        self.cpus = min(request.cpu_parts for request in requests)
        self.gpus = min(request.gpu_parts for request in requests)
        self.memory = min(_size_class(request.memory) for request in requests)


def _size_class(amount: int) -> int:
    """The smallest amount of the class of this one; there are two classes between powers of two."""
    shift = max(0, amount.bit_length() - 2)
    return amount >> shift << shift


def _kind(request: Resources) -> tuple[object, ...]:
    classes = _size_class(request.memory), _size_class(request.gpu_memory)
    return (request.cpu_parts, request.gpu_parts, *classes, request.custom_parts)


class _Reservation:
    __slots__ = ("_spare", "_spare_at", "call", "node", "request", "since")

    def __init__(self, call: WaitingCall, node: Node, request: Resources, since: float) -> None:
        self.call, self.node, self.request, self.since = call, node, request, since
        self._spare: Amounts | None = None
        self._spare_at = -1

    def spare(self) -> Amounts:
        """What other calls may hold on the node beyond the beginning of the reservation."""
        node = self.node
        if self._spare is None or self._spare_at != node.n_changes:
            spare = node.free.copy()
            for lease in node.leases:
                if lease.until <= self.since:
                    spare.give_back(lease.request, lease.devices)
            devices = spare.fitting(self.request)
            if devices is not None:
                spare.take(self.request, devices)
            self._spare, self._spare_at = spare, node.n_changes
        return self._spare


class _Capacity:
    """What all nodes have, lost ones included: it only weighs requests against each other."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.n_nodes = len(nodes)
        self.total = Amounts.together(node.pool for node in nodes)
        pools = [node.pool for node in nodes]
        kinds = {(p.cpus, p.memory, p.gpus, p.gpu_memory, tuple(p.custom.items())): p for p in pools}
        self.kinds = [Node(pool) for pool in kinds.values()]


class OrderedPolicy(Policy):
    """Starts calls in the order of a rank, as many as fit; derive from it and override `rank`."""

    overtaking: ClassVar[bool] = True
    """Whether calls that fit may start before one that does not fit, if they do not delay it."""
    reserving: bool = True
    """Whether the first call that does not fit gets a reservation; without, others that fit may delay it for long."""

    def __init__(self) -> None:
        self._entries: dict[WaitingCall, tuple[_Entry, _Group] | None] = {}  # `None` until the next choice
        self._order: list[_Entry] = []  # the first is the last in the list; calls that no longer wait remain until then
        self._groups: dict[object, _Group] = {}  # by kind
        self._arrived: dict[WaitingCall, None] = {}  # since the last choice
        self._reservation: _Reservation | None = None
        self._released: dict[Node, None] = {}  # nodes of former reservations
        self._tried: WaitingCall | None = None  # the first in the order, if it was found to fit nowhere
        self._unreserved: WaitingCall | None = None  # the same, if it has no reservation as nothing can overtake it yet
        self._turn = 0
        self._capacity: _Capacity | None = None
        self._nodes: Sequence[Node] = ()
        self._n_ranks = 0
        self._last_requests: tuple[Resources, ...] = ()
        self._last_kind: tuple[object, ...] = ()
        self._shares_of: dict[int, tuple[Resources, float]] = {}  # by the id of the request, which is kept for that
        self._seconds, self._n_known = 0.0, 0

    @abstractmethod
    def rank(self, call: WaitingCall) -> Rank:
        """The place of a call in the order: smaller goes first. Called once, before the first choice."""

    def guess(self, call: WaitingCall, request: Resources | None = None) -> float:
        """How long a call is expected to take; if that is unknown, as long as the mean of those that are known.

        Args:
            call: The call.
            request: The alternative that is meant; `None` for the preferred one.
        """
        expected = call.expected(request or call.requests[0])
        if expected is not None:
            return expected
        return self._seconds / self._n_known if self._n_known else 1.0

    def share(self, call: WaitingCall) -> float:
        """The largest share of a resource of all nodes that a call asks for; for `rank`."""
        request = call.requests[0]
        known = self._shares_of.get(id(request))
        if known is not None:
            return known[1]
        if len(self._shares_of) >= _SHARES:
            self._shares_of.clear()
        share = self._share(request)
        self._shares_of[id(request)] = request, share
        return share

    def _share(self, request: Resources) -> float:
        assert self._capacity is not None
        capacity = self._capacity.total
        amounts = [(request.cpu_parts, capacity.cpus), (request.memory, capacity.memory)]
        if request.gpu_parts:
            amounts.append((request.gpu_parts, sum(capacity.shares)))
            amounts.append((request.gpu_memory * request.n_devices, sum(capacity.gpu_memory)))
        amounts += [(parts, capacity.custom.get(name, 0)) for name, parts in request.custom_parts]
        return max((asked / there for asked, there in amounts if there), default=0.0)

    def is_large(self, call: WaitingCall) -> bool:
        """Whether no node can hold the call twice at a time."""
        assert self._capacity is not None
        return not any(node.can_hold_twice(call.requests[0]) for node in self._capacity.kinds)

    def urgent(self, now: float) -> WaitingCall | None:
        """A call that goes before the first in the order now; `None` for none."""
        return None

    def add(self, call: WaitingCall) -> None:
        """See `Policy`."""
        self._entries[call] = None
        self._arrived[call] = None

    def _rank_arrived(self, nodes: Sequence[Node]) -> dict[WaitingCall, None]:
        """Give the calls that were added since the last choice their places in the order, and return them."""
        arrived, self._arrived = self._arrived, {}
        if arrived and (self._capacity is None or self._capacity.n_nodes != len(nodes)):
            self._capacity = _Capacity(nodes)
            self._shares_of.clear()
        entries = [self._rank(call) for call in arrived]
        if len(entries) > _FEW:
            groups: dict[_Group, None] = {}
            for entry, group in entries:
                self._order.append(entry)
                group.entries.append(entry)
                groups[group] = None
            self._order.sort()
            for group in groups:
                group.entries.sort()
        else:
            for entry, group in entries:
                insort(self._order, entry)
                insort(group.entries, entry)
        return arrived

    def _rank(self, call: WaitingCall) -> tuple[_Entry, _Group]:
        expected = call.expected(call.requests[0])
        if expected is not None:
            self._seconds, self._n_known = self._seconds + expected, self._n_known + 1
        self._n_ranks += 1  # another attempt of a call has the same number, and the former one may still be in the heap
        rank = (*self.rank(call), call.number, self._n_ranks)
        if call.requests is not self._last_requests:  # most often the same object for all calls of a task
            self._last_requests, self._last_kind = call.requests, tuple(map(_kind, call.requests))
        kind = self._last_kind
        group = self._groups.get(kind)
        if group is None:
            group = self._groups[kind] = _Group(kind, call.requests)
        found = self._entries[call] = (tuple(-each for each in rank), call), group
        return found

    def discard(self, call: WaitingCall) -> None:
        """See `Policy`."""
        found = self._entries.pop(call, None)
        self._arrived.pop(call, None)
        if found is None:
            return
        entry, group = found
        entries = group.entries
        if entries[-1] is entry:
            entries.pop()
        else:
            del entries[bisect_left(entries, entry)]
        if not entries:
            del self._groups[group.kind]
        if self._reservation is not None and self._reservation.call is call:
            self._release()

    def is_waiting(self, call: WaitingCall) -> bool:
        """Whether a call waits."""
        return call in self._entries

    def waiting(self) -> list[WaitingCall]:
        """See `Policy`."""
        return list(self._entries)

    def __len__(self) -> int:
        """See `Policy`."""
        return len(self._entries)

    # Choosing

    def choose(self, nodes: Sequence[Node], now: float, freed: Collection[Node] | None = None) -> list[Placement]:
        """See `Policy`."""
        chosen: list[Placement] = []
        if not nodes:
            return chosen
        self._unreserved, self._nodes = None, nodes
        if self._reservation is not None and self._reservation.node.lost:
            self._release()
        arrived = self._rank_arrived(nodes)
        everywhere = freed is None or len(arrived) > _FEW
        looked: list[Node] = list(nodes if everywhere or freed is None else dict.fromkeys((*freed, *self._released)))
        self._released = {}
        if self.reserving:
            self._first_in_order(nodes, looked, now, chosen)
        if not self.overtaking or not self._entries:
            return chosen
        looked += [node for node in self._released if node not in looked]
        self._released = {}
        for node in looked:
            if node.free.calls > 0:
                self._fill(node, now, chosen)
        if not everywhere and arrived:
            entries = [found[0] for call in arrived if (found := self._entries.get(call)) is not None]
            for _, call in sorted(entries, reverse=True):
                self._place(call, nodes, now, chosen)
        return chosen

    def _first_in_order(
        self,
        nodes: Sequence[Node],
        looked: Sequence[Node],
        now: float,
        chosen: list[Placement],
    ) -> None:
        """Place calls from the first in the order on, up to one that fits nowhere, which gets a reservation."""
        reserved = self._reservation
        if reserved is not None:
            self._place(reserved.call, looked, now, chosen)
        while (call := self.urgent(now) or self._first()) is not None:
            reserved = self._reservation
            if reserved is not None:
                if reserved.call is call:
                    return
                if call.priority > reserved.call.priority:
                    self._release()
            # What was tried before can only fit where something was given back.
            where = [*looked, *self._released] if call is self._tried else nodes
            self._tried = call
            if not self._place(call, where, now, chosen):
                if self._reservation is None:
                    self._unreserved = call
                return

    def _first(self) -> WaitingCall | None:
        order = self._order
        while order and order[-1][1] not in self._entries:
            order.pop()
        return order[-1][1] if order else None

    def _place(self, call: WaitingCall, nodes: Iterable[Node], now: float, chosen: list[Placement]) -> bool:
        """Start a call on the first of the nodes where it fits, and return whether there is one."""
        for request in call.requests:
            cpus, memory = request.cpu_parts, request.memory
            for node in nodes:
                free = node.free
                if cpus > free.cpus or memory > free.memory:  # checked here as well because it is most often decisive
                    continue
                if (devices := self._allowed(call, request, node, now)) is not None:
                    self._start(call, request, node, devices, now, chosen)
                    return True
        return False

    def _fill(self, node: Node, now: float, chosen: list[Placement]) -> None:
        """Start calls on a node until none fits."""
        free = node.free
        cpus, memory, gpus = free.cpus, free.memory, sum(free.shares)
        heads = [
            (group.entries[-1][0], group)
            for group in self._groups.values()
            if group.cpus <= cpus and group.memory <= memory and group.gpus <= gpus
        ]
        heads.sort(key=_first_of_pair)
        while heads:
            _, group = heads.pop()
            if group.cpus > free.cpus or group.memory > free.memory:
                continue
            entries = group.entries
            for index in range(len(entries) - 1, max(-1, len(entries) - 1 - _LOOK_AHEAD), -1):
                call = entries[index][1]
                found = self._fitting(call, node, now)
                if found is not None:
                    self._start(call, found[0], node, found[1], now, chosen)
                    if entries:
                        insort(heads, (entries[-1][0], group), key=_first_of_pair)
                    break

    def _fitting(self, call: WaitingCall, node: Node, now: float) -> tuple[Resources, tuple[int, ...]] | None:
        """The first alternative with which a call may start on a node, and the GPUs; `None` if there is none."""
        free = node.free
        for request in call.requests:
            if request.cpu_parts <= free.cpus and request.memory <= free.memory:
                devices = self._allowed(call, request, node, now)
                if devices is not None:
                    return request, devices
        return None

    def _allowed(self, call: WaitingCall, request: Resources, node: Node, now: float) -> tuple[int, ...] | None:
        """The GPUs with which a call may start on a node; `None` if it does not fit or would delay the reserved one."""
        if node.lost:
            return None
        devices = node.free.fitting(request)
        if devices is None or (node.ends != math.inf and not self._ends_in_time(call, request, node, now)):
            return None
        if self._unreserved is not None and self._unreserved is not call:
            first, self._unreserved = self._unreserved, None
            self._reserve(first, self._nodes, now)
        reserved = self._reservation
        if reserved is None or reserved.node is not node or reserved.call is call:
            return devices
        if now + self.guess(call, request) <= reserved.since:
            return devices
        return node.free.fitting(request, reserved.spare())

    def _ends_in_time(self, call: WaitingCall, request: Resources, node: Node, now: float) -> bool:
        """Whether a call is expected to end before its node exits by itself; true if its time is unknown.

        A time that is learned may be wrong: if it is more than a node lasts, the call is tried.
        """
        expected = call.expected(request)
        if expected is None or now + expected <= node.ends:
            return True
        return request.time is None and expected > node.lasts

    def _start(
        self,
        call: WaitingCall,
        request: Resources,
        node: Node,
        devices: tuple[int, ...],
        now: float,
        chosen: list[Placement],
    ) -> None:
        lease = node.take(request, now + self.guess(call, request), devices)
        self.discard(call)
        chosen.append(Placement(call, lease))

    # Reservations

    def _release(self) -> None:
        if self._reservation is not None:
            self._released[self._reservation.node] = None
            self._reservation = None

    def _reserve(self, call: WaitingCall, nodes: Sequence[Node], now: float) -> None:
        """Reserve for a call where it fits first. Of many nodes only some are examined, in turn."""
        best: tuple[float, Node, Resources] | None = None
        examined = 0
        for step in range(len(nodes)):
            node = nodes[(self._turn + step) % len(nodes)]
            held = False
            for request in call.requests:
                if node.can_hold(request) and self._ends_in_time(call, request, node, now):
                    held = True
                    since = _earliest(node, request, now)
                    if best is None or since < best[0]:
                        best = since, node, request
            examined += held
            if examined == _CANDIDATES:
                self._turn = (self._turn + step + 1) % len(nodes)
                break
        if best is not None:
            since, node, request = best
            self._reservation = _Reservation(call, node, request, since)


def _earliest(node: Node, request: Resources, now: float) -> float:
    """When a request fits on a node, if what runs there ends as expected."""
    amounts = node.free.copy()
    since = now
    for lease in sorted(node.leases, key=lambda lease: lease.until):
        if amounts.fitting(request) is not None:
            break
        amounts.give_back(lease.request, lease.devices)
        since = max(now, lease.until)
    return since


class LongestFirst(OrderedPolicy):
    """Starts the calls first that are expected to take longest.

    So the last calls to end are short ones, and no worker runs one long call while the others are idle. Large calls are
    harder to place, so a call that asks for four times as much counts as twice as long. A call that was submitted
    earlier by more than ten times the longest expected time goes before a longer one, so that none waits for ever while
    longer ones are submitted.

    A call that asks for more than half of a node, and for twice as much as others do, is hard to place once smaller
    ones run. It goes first from the time on at which the calls that were submitted before it would have ended if they
    had used all nodes fully.
    """

    def __init__(self) -> None:
        super().__init__()
        self._longest = 0.0
        self._generation, self._generation_began = 0, 0.0
        self._large: list[tuple[float, int, WaitingCall]] = []  # a heap by the time from which they go first
        self._work_ends = 0.0  # when the calls up to now would end
        self._shares, self._n_ranked = 0.0, 0

    def rank(self, call: WaitingCall) -> Rank:
        """See `OrderedPolicy`."""
        seconds = self.guess(call)
        self._longest = max(self._longest, seconds)
        if call.submitted - self._generation_began > _PATIENCE * self._longest:
            self._generation += 1
            self._generation_began = call.submitted
        share = self.share(call)
        self._work_ends = max(self._work_ends, call.submitted)
        if self._n_ranked and share > 2 * self._shares / self._n_ranked and self.is_large(call):
            heapq.heappush(self._large, (self._work_ends, self._n_ranked, call))
        self._work_ends += share * seconds
        self._shares, self._n_ranked = self._shares + share, self._n_ranked + 1
        return (-call.priority, self._generation, -seconds * math.sqrt(share))

    def urgent(self, now: float) -> WaitingCall | None:
        """See `OrderedPolicy`."""
        while self._large and not self.is_waiting(self._large[0][2]):
            heapq.heappop(self._large)
        if self._large and self._large[0][0] <= now:
            return self._large[0][2]
        return None


class ArrivalOrder(OrderedPolicy):
    """Starts calls in the order of their submission; one that does not fit holds up those behind it."""

    overtaking = False

    def rank(self, call: WaitingCall) -> Rank:
        """See `OrderedPolicy`."""
        return (-call.priority,)
