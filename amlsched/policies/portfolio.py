"""The policy that tries several orders in simulation, and follows the best."""

from __future__ import annotations

import math
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from amlsched.policies.ordered import ArrivalOrder, LongestFirst, OrderedPolicy
from amlsched.policies.policy import Policy
from amlsched.policies.simulation import SimulatedCall, simulate
from amlsched.resources.pool import Amounts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from amlsched.policies.ordered import Rank
    from amlsched.policies.policy import Placement, WaitingCall
    from amlsched.policies.simulation import Schedule
    from amlsched.resources.pool import Lease, Node

    _New = Callable[[], OrderedPolicy]

__all__ = ["Portfolio"]

_FEWEST = 8
"""Fewer calls than this are not planned."""
_NEW = 4
"""Calls are planned again once one of this many is new."""
_MOST = 20_000
"""How many calls to simulate for one plan at most."""
_MOST_ORDERS = 40
"""How many orders to try for one plan at most."""
_COST_S = 1e-4
"""What it costs to simulate a call."""
_PART = 0.01
"""The part of the expected time of the calls that a plan may cost."""
_GOOD = 1.002
"""A plan that takes this many times the lower bound is not improved further."""


class _Order(OrderedPolicy):
    """Calls ranked by their expected seconds times a power of the share that they ask for.

    Args:
        power: The power; 0 for the longest first, 1 for the largest area first.
        first: Number of a call that goes before all others.
        reserving: As of `OrderedPolicy`.
        spread: Sigma of the logarithm of the factor by which ranks differ from this.
        seed: Of these factors, which depend on nothing else but the number of the call.
    """

    def __init__(self, power: float, reserving: bool, first: int = 0, spread: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self._power, self._first_number, self._spread, self._seed = power, first, spread, seed
        self.reserving = reserving

    def rank(self, call: WaitingCall) -> Rank:
        """See `OrderedPolicy`."""
        rank = -self.guess(call) * float(self.share(call) ** self._power)
        if self._spread:
            rank *= math.exp(self._spread * _noise(call.number, self._seed))
        return (-call.priority, call.number != self._first_number, rank)


def _noise(number: int, seed: int) -> float:
    """A number with a mean of 0 and a variance of 1 that looks random."""
    mixed = (number * 0x9E3779B1 + seed * 0x85EBCA77) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 15) * 0x2C1B3C6D) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 12) * 0x297A2D39) & 0xFFFFFFFF
    return math.sqrt(12.0) * ((mixed ^ mixed >> 15) / 0xFFFFFFFF - 0.5)


class _Tried(NamedTuple):
    """What became of an order in simulation."""

    seconds: float
    largest_starts: float
    new: _New


_ORDERS: tuple[partial[_Order], ...] = (
    partial(_Order, 0.5, reserving=False),
    partial(_Order, 0.0, reserving=True),
    partial(_Order, 0.25, reserving=False),
    partial(_Order, 0.0, reserving=False),
    partial(_Order, 1.0, reserving=False),
    partial(_Order, 0.5, reserving=True),
)


class Portfolio(Policy):
    """Simulates how long the calls that wait will take in several orders, and starts them in the best one.

    It begins with `LongestFirst`. Once calls have arrived whose times are expected, it runs them forward, as expected,
    in that order, in others, with and without reservations, and in the order of submission. It then follows the order
    in which all end first, among those in which the largest call begins no later than in the order of submission plus
    the longest call. When more calls arrive, reservations are made again, and once they are a quarter of those that
    wait, it plans again.

    All plans together take at most 1 % of the time that the calls take, and one takes 2 s at most. For more calls than
    that allows, for calls of unknown times or of different priorities, it is `LongestFirst`. The same calls have the
    same plan.
    """

    def __init__(self) -> None:
        self._policy: OrderedPolicy = LongestFirst()
        self._new: _New = LongestFirst
        self._n_new = 0
        self._began: float | None = None
        self._spent = 0.0  # seconds of CPU that the plans have cost, about

    def add(self, call: WaitingCall) -> None:
        """See `Policy`."""
        self._policy.add(call)
        self._policy.reserving = True
        self._n_new += 1

    def discard(self, call: WaitingCall) -> None:
        """See `Policy`."""
        self._policy.discard(call)

    def waiting(self) -> list[WaitingCall]:
        """See `Policy`."""
        return self._policy.waiting()

    def __len__(self) -> int:
        """See `Policy`."""
        return len(self._policy)

    def without_calls(self) -> Policy:
        """See `Policy`."""
        return self._new()

    def choose(self, nodes: Sequence[Node], now: float, freed: Collection[Node] | None = None) -> list[Placement]:
        """See `Policy`."""
        waiting = len(self._policy)
        if self._n_new * _NEW >= waiting and waiting >= _FEWEST:
            self._n_new = 0
            new = self._plan(nodes, now)
            if new is not None:
                calls = self._policy.waiting()
                self._policy, self._new, freed = new(), new, None
                for call in calls:
                    self._policy.add(call)
        return self._policy.choose(nodes, now, freed)

    def _plan(self, nodes: Sequence[Node], now: float) -> _New | None:
        """The order to follow from now on; `None` for the one that is followed."""
        waiting = self._policy.waiting()
        present = [node for node in nodes if not node.lost]
        priority = waiting[0].priority
        if any(
            call.priority != priority
            or call.expected(call.requests[0]) is None
            or not any(node.can_hold(call.requests[0]) for node in present)
            for call in waiting
        ):
            return None
        calls = [
            SimulatedCall(call, call.expected(call.requests[0]) or 0.0)
            for call in sorted(waiting, key=lambda call: call.number)
        ]
        longest = max(each.seconds for each in calls)
        bound = _lower_bound(calls, longest, present)
        self._began = now if self._began is None else self._began
        may_cost = _PART * (now - self._began + bound) - self._spent
        n_orders = min(_MOST_ORDERS, int(min(_MOST, may_cost / _COST_S) / len(calls)))
        if n_orders < 2:
            return None
        kinds = list({(node.pool.cpus, node.pool.memory, len(node.pool.gpus)): node for node in present}.values())
        largest = max(calls, key=lambda each: _largest_share(each.call, kinds)).call.number

        def tried(new: _New) -> _Tried:
            self._spent += _COST_S * len(calls)
            schedule = _run_forward(calls, present, new(), now)
            return _Tried(schedule.makespan - now, schedule.starts[largest], new)

        best, in_order = tried(LongestFirst), tried(ArrivalOrder)
        allowed = in_order.largest_starts + longest
        ours = best.largest_starts <= allowed
        if in_order.seconds < best.seconds:
            best, ours = in_order, True
        orders = iter(_variants(largest))
        for _ in range(2, n_orders):
            if ours and best.seconds <= _GOOD * bound:
                break
            another = tried(next(orders)(best.new))
            if another.largest_starts <= allowed and (not ours or another.seconds < best.seconds):
                best, ours = another, True
        return best.new


def _variants(largest: int) -> Iterator[Callable[[_New], _New]]:
    """Orders to try, one after the other; from then on, orders near the best one."""
    for order in _ORDERS:
        yield partial(_given, order=order, largest=largest)
    for seed in count(1):
        yield partial(_near, largest=largest, seed=seed)


def _given(_: _New, order: partial[_Order], largest: int) -> _New:
    return partial(order, first=largest)


def _near(best: _New, largest: int, seed: int) -> _New:
    """An order near another one."""
    spread = (0.1, 0.4)[seed % 2]
    if isinstance(best, partial):
        return partial(_Order, *best.args, **{**best.keywords, "spread": spread, "seed": seed})
    return partial(_Order, 0.5, reserving=seed % 3 == 0, first=largest, spread=spread, seed=seed)


def _run_forward(calls: Sequence[SimulatedCall], nodes: Sequence[Node], policy: Policy, now: float) -> Schedule:
    """What happens if all calls take as long as expected."""
    leases: dict[Lease, Lease] = {}
    twins = [node.twin(leases) for node in nodes]
    running = {twin: max(0.0, lease.until - now) for lease, twin in leases.items()}
    return simulate(calls, twins, policy, now=now, running=running)


def _lower_bound(calls: Sequence[SimulatedCall], longest: float, nodes: Sequence[Node]) -> float:
    """Seconds below which no schedule of the calls can be, but for what runs already."""
    total = Amounts.together(node.pool for node in nodes)
    there = (total.cpus, total.memory, sum(total.shares))
    asked = [0.0] * len(there)
    for each in calls:
        request = each.call.requests[0]
        amounts = (request.cpu_parts, request.memory, request.gpu_parts)
        asked = [so_far + amount * each.seconds for so_far, amount in zip(asked, amounts, strict=True)]
    return max(longest, *(amount / has for amount, has in zip(asked, there, strict=True) if has))


def _largest_share(call: WaitingCall, nodes: Sequence[Node]) -> float:
    """The part of a node that a call asks for, on the node where that is the least."""
    return min((node.share_of(call.requests[0]) for node in nodes), default=math.inf)
