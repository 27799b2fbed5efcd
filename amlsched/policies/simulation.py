"""Runs a policy forward over calls of known durations: no clock, no executor, nothing waits."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from amlsched.policies.policy import WaitingCall

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from amlsched.policies.policy import Policy
    from amlsched.resources.pool import Lease, Node

__all__ = ["Schedule", "SimulatedCall", "simulate"]


@dataclass(slots=True, eq=False)
class SimulatedCall:
    """A call and how long it takes.

    Attributes:
        call: The call, with what is expected of it; it arrives at its `submitted`.
        seconds: How long it takes.
    """

    call: WaitingCall
    seconds: float


@dataclass(slots=True)
class Schedule:
    """What a simulation found.

    Attributes:
        starts: When each call started, by number, in the order of starts.
        ends: When each call ended, by number.
        leases: What each call held, by number.
        makespan: When the last call ended.
    """

    starts: dict[int, float] = field(default_factory=dict[int, float])
    ends: dict[int, float] = field(default_factory=dict[int, float])
    leases: dict[int, Lease] = field(default_factory=dict["int", "Lease"])
    makespan: float = 0.0


def simulate(
    calls: Iterable[SimulatedCall],
    nodes: Sequence[Node],
    policy: Policy,
    *,
    now: float = 0.0,
    running: Mapping[Lease, float] | None = None,
) -> Schedule:
    """Run a policy until all calls have ended.

    The nodes are changed: their leases are taken and given back. The same arguments give the same schedule.

    Args:
        calls: The calls.
        nodes: The nodes, of which some can hold each call.
        policy: The policy; calls that it holds already must be among `calls`, and are not added again.
        now: When the simulation begins, in seconds.
        running: Leases that are held at the beginning, with the seconds until they end.

    Raises:
        RuntimeError: Calls wait, nothing runs, and the policy starts none of them.
    """
    schedule = Schedule(makespan=now)
    seconds: dict[int, float] = {}
    held = {waiting.number for waiting in policy.waiting()}
    arrivals: list[tuple[float, int, WaitingCall]] = []
    for each in calls:
        seconds[each.call.number] = each.seconds
        if each.call.number not in held:
            arrivals.append((max(now, each.call.submitted), each.call.number, each.call))
    arrivals.sort(key=lambda arrival: arrival[:2], reverse=True)
    ends: list[tuple[float, int, int, Lease]] = []  # when, a number to break ties, the call
    for count, (lease, remaining) in enumerate((running or {}).items()):
        heapq.heappush(ends, (now + remaining, count - len(running or {}), -1, lease))
    started = 0
    freed: dict[Node, None] | None = None
    while True:
        while arrivals and arrivals[-1][0] <= now:
            policy.add(arrivals.pop()[2])
        for call, lease in policy.choose(nodes, now, freed):
            end = now + seconds[call.number]
            schedule.starts[call.number], schedule.ends[call.number] = now, end
            schedule.leases[call.number] = lease
            heapq.heappush(ends, (end, started, call.number, lease))
            started += 1
        if not ends and not arrivals:
            break
        now = min(ends[0][0] if ends else arrivals[-1][0], arrivals[-1][0] if arrivals else ends[0][0])
        freed = {}
        while ends and ends[0][0] <= now:
            *_, lease = heapq.heappop(ends)
            lease.give_back()
            freed[lease.node] = None
            schedule.makespan = max(schedule.makespan, now)
    if len(policy):
        raise RuntimeError(
            f"{len(policy)} calls wait although nothing runs: no node can hold them, or the policy fails"
        )
    return schedule
