"""Makespans of policies over random sets of calls, in simulation: `python -m benchmarks.placement [SETS]`.

The sets are drawn from seeds: 1 to 64 nodes of one to three kinds, calls with CPUs, memory and GPUs, and log-normal
times. They are large enough that each CPU of the nodes is asked for ten times. The lower bound of a set is the largest
of its longest call and, for each resource, the amount times seconds of all calls divided by that of all nodes.
"""

from __future__ import annotations

import random
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from amlsched.policies import (
    ArrivalOrder,
    LongestFirst,
    Placement,
    Policy,
    Portfolio,
    SimulatedCall,
    WaitingCall,
    simulate,
)
from amlsched.resources import Pool, Resources
from amlsched.resources.pool import Node
from benchmarks.frame import Bar, Numbers, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from amlsched.policies import Schedule


class SlowestThatFits(Policy):
    """pytabkit's rule, from its documentation: as many jobs in parallel as the resources allow, the slowest first.

    Nothing is reserved: whenever something ended, the jobs are tried in the order of their estimated times, each on the
    nodes in their order.
    """

    def __init__(self) -> None:
        self._calls: list[WaitingCall] = []
        self._is_sorted = True

    def add(self, call: WaitingCall) -> None:
        """See `Policy`."""
        self._calls.append(call)
        self._is_sorted = False

    def discard(self, call: WaitingCall) -> None:
        """See `Policy`."""
        self._calls.remove(call)

    def choose(self, nodes: Sequence[Node], now: float, freed: Collection[Node] | None = None) -> list[Placement]:
        """See `Policy`."""
        if not self._is_sorted:
            self._calls.sort(key=lambda call: -(call.seconds or 0.0))
            self._is_sorted, freed = True, None
        where = list(nodes if freed is None else freed)  # what did not fit before fits only where something ended
        chosen: list[Placement] = []
        waiting: list[WaitingCall] = []
        most_cpus = most_memory = -1
        for call in self._calls:
            request = call.requests[0]
            if most_cpus < 0:
                most_cpus = max(node.free.cpus for node in where)
                most_memory = max(node.free.memory for node in where)
            if request.cpu_parts > most_cpus or request.memory > most_memory:
                waiting.append(call)
                continue
            node = next((node for node in where if node.fits(request)), None)
            if node is None:
                waiting.append(call)
            else:
                chosen.append(Placement(call, node.take(request, now + (call.seconds or 0.0))))
                most_cpus = -1
        self._calls = waiting
        return chosen

    def waiting(self) -> list[WaitingCall]:
        """See `Policy`."""
        return list(self._calls)

    def __len__(self) -> int:
        """See `Policy`."""
        return len(self._calls)


POLICIES: dict[str, Callable[[], Policy]] = {
    "portfolio": Portfolio,
    "longest first": LongestFirst,
    "arrival order": ArrivalOrder,
    "pytabkit's rule": SlowestThatFits,
}


@dataclass(frozen=True)
class JobSet:
    """Nodes, and calls with their real seconds.

    Attributes:
        pools: What the nodes have.
        requests: What each call asks for.
        seconds: How long each takes.
        guesses: How long each is expected to take.
    """

    pools: list[Pool]
    requests: list[Resources]
    seconds: list[float]
    guesses: list[float]

    def run(self, policy: Policy) -> Schedule:
        """The schedule of a policy."""
        rows = zip(self.requests, self.seconds, self.guesses, strict=True)
        calls = [
            SimulatedCall(WaitingCall(number, (request,), guess), seconds)
            for number, (request, seconds, guess) in enumerate(rows)
        ]
        return simulate(calls, [Node(pool) for pool in self.pools], policy)

    def lower_bound(self) -> float:
        """Seconds below which no schedule can be."""
        there = [
            sum(pool.cpus for pool in self.pools),
            sum(pool.memory or 0 for pool in self.pools),
            sum(len(pool.gpus) for pool in self.pools),
            sum(sum(pool.gpu_memory or ()) for pool in self.pools),
        ]
        asked = [0.0] * 4
        for request, seconds in zip(self.requests, self.seconds, strict=True):
            each = request.cpus, request.memory, request.gpus, request.gpu_memory * request.n_devices
            asked = [total + amount * seconds for total, amount in zip(asked, each, strict=True)]
        areas = (total / has for total, has in zip(asked, there, strict=True) if has)
        return max(*areas, *self.seconds)

    def largest(self) -> int:
        """The number of the call that asks for the largest share of a node that can hold it."""
        nodes = [Node(pool) for pool in self.pools]

        def share(request: Resources) -> float:
            return min(node.share_of(request) for node in nodes if node.can_hold(request))

        return max(range(len(self.requests)), key=lambda number: share(self.requests[number]))


def job_set(seed: int, wrong: float = 0.0) -> JobSet:
    """A random set.

    Args:
        seed: The same seed gives the same set.
        wrong: Sigma of the log-normal factor by which expected times are wrong.
    """
    draw = random.Random(seed)
    n_nodes = draw.choice([1, 2, 4, 8, 16, 32, 64])
    with_gpus = draw.random() < 0.5
    sigma = draw.uniform(0.3, 1.5)
    kinds = [
        (draw.choice([8, 16, 32, 64]), draw.choice([2, 4, 8]), draw.choice([0, 2, 4, 8]) if with_gpus else 0)
        for _ in range(draw.choice([1, 1, 2, 3]))
    ]
    pools: list[Pool] = []
    for number in range(n_nodes):
        cpus, gib_per_cpu, gpus = kinds[number % len(kinds)]
        pools.append(Pool(cpus, f"{cpus * gib_per_cpu} GiB", gpus, "40 GiB", name=f"node{number}"))
    n_cpus, n_gpus = sum(pool.cpus for pool in pools), sum(len(pool.gpus) for pool in pools)
    nodes = [Node(pool) for pool in pools]
    requests: list[Resources] = []
    asked = 0.0
    while asked < 10 * n_cpus:
        cpus = draw.choice([1, 1, 1, 2, 2, 4, 8, 16])
        memory = f"{draw.lognormvariate(0, 1) * cpus:.3f} GiB"
        if n_gpus and draw.random() < 0.3:
            gpus, gpu_memory = draw.choice([0.25, 0.5, 1, 1, 2]), f"{draw.choice([4, 8, 16])} GiB"
            request = Resources(cpus, memory, gpus, gpu_memory)
        else:
            request = Resources(cpus, memory)
        if any(node.can_hold(request) for node in nodes):
            requests.append(request)
            asked += cpus
    seconds = [draw.lognormvariate(3, sigma) for _ in requests]
    errors = random.Random(-1 - seed)
    guesses = [each * errors.lognormvariate(0, wrong) if wrong else each for each in seconds]
    return JobSet(pools, requests, seconds, guesses)


# ----------------------------------------------------------------------------------------------------------- studies


def study(n_sets: int, wrong: float) -> dict[str, list[float]]:
    """Makespans over lower bounds, by policy; and how much later the largest call starts than the bar allows."""
    found: dict[str, list[float]] = {name: [] for name in POLICIES}
    found["largest is late"] = []
    for seed in range(n_sets):
        jobs = job_set(seed, wrong)
        bound, largest = jobs.lower_bound(), jobs.largest()
        starts: dict[str, float] = {}
        for name, policy in POLICIES.items():
            schedule = jobs.run(policy())
            found[name].append(schedule.makespan / bound)
            starts[name] = schedule.starts[largest]
        allowed = starts["arrival order"] + max(jobs.seconds)
        found["largest is late"].append(starts["longest first"] - allowed)
    return found


def shown(n_sets: int, wrong: float) -> str:
    """A table of a study."""
    found = study(n_sets, wrong)
    lines = [
        f"{n_sets} sets, expected times {f'wrong by a log-normal factor (sigma {wrong:g})' if wrong else 'right'}",
        "",
        "| policy | median | 95th percentile | largest |",
        "|---|---|---|---|",
    ]
    for name in POLICIES:
        values = sorted(found[name])
        cells = (statistics.median(values), values[int(0.95 * len(values))], values[-1])
        lines.append(f"| {name} | " + " | ".join(f"{each:.3f}" for each in cells) + " |")
    ours = found["longest first"]
    for name in ("arrival order", "pytabkit's rule"):
        pairs = list(zip(ours, found[name], strict=True))
        better, equal = sum(a < b - 1e-9 for a, b in pairs), sum(abs(a - b) <= 1e-9 for a, b in pairs)
        worst = max(a / b for a, b in pairs)
        lines.append(f"\nAgainst {name}: shorter in {better}, equal in {equal}; at worst {worst:.3f} of it.")
    late = sum(each > 1e-9 for each in found["largest is late"])
    lines.append(f"\nThe largest call starts later than in arrival order plus one longest call in {late} sets.")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- scale


def many(n_calls: int, n_nodes: int) -> Numbers:
    """CPU time and memory of the simulation of many calls."""
    draw = random.Random(0)
    nodes = [
        Node(Pool(draw.choice([8, 16, 32]), "64 GiB", draw.choice([0, 0, 4]), "40 GB", name=f"node{number}"))
        for number in range(n_nodes)
    ]
    calls: list[SimulatedCall] = []
    for number in range(n_calls):
        gpus = draw.choice([0.5, 1, 2]) if draw.random() < 0.1 else 0
        request = Resources(draw.choice([1, 1, 2, 4, 8]), f"{draw.randint(100, 16_000)} MiB", gpus)
        seconds = draw.lognormvariate(4, 1)
        calls.append(SimulatedCall(WaitingCall(number, (request,), seconds), seconds))
    begin = time.process_time()
    schedule = simulate(calls, nodes, LongestFirst())
    used = time.process_time() - begin
    assert len(schedule.ends) == n_calls
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"CPU_s": used, "CPU_us": used / n_calls * 1e6, "memory_MiB": memory}


WORKLOADS = [
    Workload(
        "placement",
        "100,000 calls with requests are placed on 1,000 nodes, in simulation",
        {"amlsched": partial(many, 100_000, 1_000), "1,000 on 10": partial(many, 1_000, 10)},
        (Bar("CPU_s", None, 30), Bar("memory_MiB", None, 1024), Bar("CPU_us", "1,000 on 10", 1.5)),
        rounds=3,
    ),
]

if __name__ == "__main__":
    for sigma in (0.0, 0.7):
        print(shown(int(sys.argv[1]) if len(sys.argv) > 1 else 100, sigma), end="\n\n", flush=True)
