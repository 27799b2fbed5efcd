"""How good estimates are: over simulated runs, asked at a quarter, half and three quarters of the calls.

Each run has 4 to 64 workers, 10 to 40 calls for each, of 1 to 4 functions. The times of a function are log-normal: its
median is itself drawn (log-normal, sigma 1), and its sigma is 0.2 to 1. Nothing is declared.

With `--placed`, calls request CPUs and memory of 1 to 8 nodes, at least 10 calls for each slot, and declare a time that
is wrong by a log-normal factor (sigma 0.7); the longest go first.

`python -m benchmarks.estimates [--runs 500]` prints the table of `docs/scheduler/estimates.md`.
"""

import argparse
import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from amlsched import Future, Scheduler
from amlsched.estimates import Estimate
from amlsched.estimates.forecast import Pending, run_policy_forward, summarize
from amlsched.estimates.lognormal import Line, of_group
from amlsched.executors.simulation import VirtualCall
from amlsched.policies import LongestFirst, Schedule, SimulatedCall, WaitingCall, simulate
from amlsched.resources import Pool, Resources
from amlsched.resources.pool import Lease, Node

PLACES = (0.25, 0.5, 0.75)


class Asked(NamedTuple):
    place: float
    covered: bool
    below: bool
    error: float  # of the point, relative to what came
    seconds: float  # CPU time of the question


def kinds() -> list[Any]:
    """Functions, so that each has a group of its own."""

    def first(number: int) -> None: ...
    def second(number: int) -> None: ...
    def third(number: int) -> None: ...
    def fourth(number: int) -> None: ...

    return [first, second, third, fourth]


def one_run(seed: int, few_or_many: Sequence[int]) -> list[Asked]:
    rng = random.Random(seed)
    workers = rng.choice(few_or_many)
    n_calls = workers * rng.randint(10, 40)
    functions = kinds()[: rng.randint(1, 4)]
    truth = {function: (rng.gauss(4, 1), rng.uniform(0.2, 1.0)) for function in functions}

    def duration(call: VirtualCall) -> float:
        return call.random.lognormvariate(*truth[call.function])

    scheduler = Scheduler.with_simulation(workers, duration, seed=seed, estimates=True)
    tasks = [scheduler.task(function) for function in functions]
    asked: list[tuple[float, float, Any, float]] = []
    wanted = {round(place * n_calls): place for place in PLACES}
    n_done = 0

    @scheduler.on_start
    def start() -> None:
        for number in range(n_calls):
            rng.choice(tasks).submit(number)

    @scheduler.on_future_done
    def ask(_: Future[Any]) -> None:
        nonlocal n_done
        n_done += 1
        if n_done in wanted:
            began = time.process_time()
            estimate = scheduler.estimate()
            asked.append((wanted[n_done], scheduler.elapsed_s, estimate, time.process_time() - began))

    scheduler.run()
    found: list[Asked] = []
    for place, at, estimate, cost in asked:
        left = scheduler.elapsed_s - at
        assert estimate is not None
        covered = estimate.low <= left <= estimate.high
        found.append(Asked(place, covered, left < estimate.low, abs(estimate.seconds / left - 1), cost))
    return found


def placed_run(seed: int) -> list[Asked]:
    """The same for a policy that places calls, over plain values."""
    rng = random.Random(seed)
    sigma = rng.uniform(0.3, 1.2)
    pools = [Pool(rng.choice([8, 16, 32]), "64 GiB", name=f"node{n}") for n in range(rng.choice([1, 2, 4, 8]))]
    calls: list[WaitingCall] = []
    truth: dict[int, float] = {}
    while sum(call.requests[0].cpus for call in calls) < 10 * sum(pool.cpus for pool in pools):
        cpus = rng.choice([1, 1, 1, 2, 4, 8])
        request = Resources(cpus, f"{min(60.0, rng.lognormvariate(0, 1) * cpus):.3f} GiB")
        number = len(calls)
        truth[number] = rng.lognormvariate(3, sigma)
        calls.append(WaitingCall(number, (request,), truth[number] * rng.lognormvariate(0, 0.7)))
    nodes = [Node(pool) for pool in pools]
    schedule = simulate([SimulatedCall(call, truth[call.number]) for call in calls], nodes, LongestFirst())
    ends = sorted(schedule.ends.values())
    found: list[Asked] = []
    for place in PLACES:
        now = ends[round(place * len(ends)) - 1]
        began = time.process_time()
        estimate = asked_at(now, calls, schedule, pools, rng)
        cost = time.process_time() - began
        left = schedule.makespan - now
        error = abs(estimate.seconds / left - 1)
        found.append(Asked(place, estimate.low <= left <= estimate.high, left < estimate.low, error, cost))
    return found


def asked_at(
    now: float, calls: Sequence[WaitingCall], schedule: Schedule, pools: Sequence[Pool], rng: random.Random
) -> Estimate:
    """The estimate of somebody who has seen a schedule up to now."""
    seen, elapsed = Line(), list[tuple[float, float]]()
    nodes = {pool.name: Node(pool) for pool in pools}
    running: list[tuple[Pending, Lease]] = []
    waiting: list[tuple[Pending, WaitingCall]] = []
    for call in calls:
        start, end, expected = schedule.starts[call.number], schedule.ends[call.number], call.seconds or 1.0
        x = math.log(expected)
        if end <= now:
            seen.add(x, math.log(end - start) - x)
        elif start < now:
            held = schedule.leases[call.number]
            lease = nodes[held.node.pool.name].take(held.request, start + expected, held.devices)
            elapsed.append((x, math.log(now - start) - x))
            running.append((Pending(0, x, now - start), lease))
        else:
            waiting.append((Pending(0, x), call))
    kinds = [of_group(seen, elapsed)]
    times = run_policy_forward(running, waiting, kinds, list(nodes.values()), LongestFirst, now, rng)
    return summarize(times, len(running) + len(waiting))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="one of these at random")
    parser.add_argument("--placed", action="store_true", help="calls request resources, and a policy places them")
    options = parser.parse_args()
    by_place: dict[float, list[Asked]] = defaultdict(list)
    for seed in range(options.seed, options.seed + options.runs):
        for each in placed_run(seed) if options.placed else one_run(seed, options.workers):
            by_place[each.place].append(each)
    print("| asked at | inside the interval | took less | median error | 90 % of errors below | CPU of a question |")
    print("|---|---|---|---|---|---|")
    for place, all_of in sorted(by_place.items()):
        errors = sorted(each.error for each in all_of)
        print(
            f"| {place:.0%} | {statistics.fmean(each.covered for each in all_of):.1%} "
            f"| {statistics.fmean(each.below for each in all_of):.1%} | {statistics.median(errors):.1%} "
            f"| {errors[int(0.9 * len(errors))]:.1%} | {1000 * statistics.median(e.seconds for e in all_of):.0f} ms |"
        )


if __name__ == "__main__":
    main()
