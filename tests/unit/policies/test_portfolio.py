"""The policy that simulates several orders, and follows the best."""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING

import pytest

from amlsched.policies import ArrivalOrder, LongestFirst, Portfolio, SimulatedCall, WaitingCall, simulate
from amlsched.resources.pool import Node, Pool
from amlsched.resources.request import Resources

if TYPE_CHECKING:
    from amlsched.policies import Policy, Schedule

POOLS = (Pool(8, "32 GiB"), Pool(16, "64 GiB", 2))


def some_calls(seed: int, n_calls: int = 40) -> list[SimulatedCall]:
    draw = random.Random(seed)
    calls: list[SimulatedCall] = []
    for number in range(n_calls):
        request = Resources(draw.choice([1, 2, 4, 12]), f"{draw.randint(1, 40)} GiB", draw.choice([0, 0, 0, 1]))
        seconds = draw.lognormvariate(1.5, 1.0)
        calls.append(SimulatedCall(WaitingCall(number, (request,), seconds), seconds))
    return calls


def run(policy: Policy, calls: list[SimulatedCall]) -> Schedule:
    return simulate(calls, [Node(pool) for pool in POOLS], policy)


@functools.cache
def schedule(policy: type[Policy], seed: int) -> Schedule:
    return run(policy(), some_calls(seed))


@pytest.mark.parametrize("seed", range(4))
def test_it_takes_no_longer_than_the_orders_that_it_tries_and_the_largest_call_is_not_late(seed: int) -> None:
    calls = some_calls(seed)
    planned, in_order, longest = (schedule(policy, seed) for policy in (Portfolio, ArrivalOrder, LongestFirst))
    nodes = [Node(pool) for pool in POOLS]
    shares = {each.call.number: min(node.share_of(each.call.requests[0]) for node in nodes) for each in calls}
    largest = max(shares, key=lambda number: shares[number])
    allowed = in_order.starts[largest] + max(each.seconds for each in calls)
    assert planned.starts[largest] <= allowed
    assert planned.makespan <= in_order.makespan
    if longest.starts[largest] <= allowed:
        assert planned.makespan <= longest.makespan


def test_it_finds_shorter_schedules() -> None:
    planned, longest = (
        sum(schedule(policy, seed).makespan for seed in range(4)) for policy in (Portfolio, LongestFirst)
    )
    assert planned < 0.99 * longest


def test_the_same_calls_have_the_same_plan() -> None:
    assert run(Portfolio(), some_calls(1)).starts == schedule(Portfolio, 1).starts


@pytest.mark.parametrize("change", ["unknown times", "priorities", "short"])
def test_without_what_a_plan_needs_it_is_the_longest_first(change: str) -> None:
    calls = some_calls(2)
    for each in calls:
        if change == "unknown times" and each.call.number == 3:
            each.call.seconds = None
        elif change == "priorities":
            each.call.priority = each.call.number % 2
        elif change == "short" and each.call.seconds is not None:  # a plan would take longer than it can save
            each.call.seconds /= 1e6
    assert run(Portfolio(), calls).starts == run(LongestFirst(), calls).starts


def test_calls_that_arrive_later_do_not_delay_a_large_one_for_ever() -> None:
    calls = some_calls(3, 20)
    large = SimulatedCall(WaitingCall(1000, (Resources(16, "60 GiB"),), 10.0, submitted=0.1), 10.0)
    small = [
        SimulatedCall(WaitingCall(2000 + number, (Resources(4),), 5.0, submitted=0.2 + 0.5 * number), 5.0)
        for number in range(100)
    ]
    schedule = run(Portfolio(), [*calls, large, *small])
    assert schedule.starts[1000] < 40.0


def test_estimates_run_the_order_forward_that_is_followed() -> None:
    policy = Portfolio()
    nodes = [Node(pool) for pool in POOLS]
    for each in some_calls(1):
        policy.add(each.call)
    policy.choose(nodes, 0.0)
    forward = policy.without_calls()
    assert forward is not None
    assert not isinstance(forward, Portfolio)
    assert len(forward) == 0
