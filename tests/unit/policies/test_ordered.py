"""Policies over plain values: order, packing, reservations."""

from __future__ import annotations

import random
from itertools import count
from typing import TYPE_CHECKING

import pytest

from amlsched.policies import ArrivalOrder, LongestFirst, Schedule, SimulatedCall, WaitingCall, simulate
from amlsched.resources.pool import Node, Pool
from amlsched.resources.request import WHOLE, Resources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amlsched.policies import Policy


def calls(*rows: tuple[float, Resources], priority: dict[int, float] | None = None) -> list[SimulatedCall]:
    """Calls that take and are expected to take so many seconds, numbered from 0."""
    return [
        SimulatedCall(WaitingCall(number, (request,), seconds, (priority or {}).get(number, 0)), seconds)
        for number, (seconds, request) in enumerate(rows)
    ]


def order(policy: Policy, given: Sequence[SimulatedCall], *pools: Pool) -> list[int]:
    return list(simulate(given, [Node(pool) for pool in pools], policy).starts)


ONE = Resources(1)


def test_the_longest_starts_first() -> None:
    assert order(LongestFirst(), calls((1, ONE), (3, ONE), (2, ONE)), Pool(1)) == [1, 2, 0]


def test_arrival_order_starts_in_the_order_of_submission_and_nothing_overtakes() -> None:
    given = calls((1, ONE), (3, Resources(2)), (9, ONE))
    schedule = simulate(given, [Node(Pool(2))], ArrivalOrder())
    assert schedule.starts == {0: 0, 1: 1, 2: 4}


@pytest.mark.parametrize("policy", [LongestFirst, ArrivalOrder])
def test_a_higher_priority_goes_first(policy: type[Policy]) -> None:
    assert order(policy(), calls((3, ONE), (2, ONE), (1, ONE), priority={2: 1}), Pool(1))[0] == 2


def test_calls_without_a_time_start_in_the_order_of_submission() -> None:
    given = [SimulatedCall(WaitingCall(number, (ONE,)), 1) for number in range(5)]
    assert order(LongestFirst(), given, Pool(1)) == [0, 1, 2, 3, 4]


def test_a_call_is_packed_beside_others_in_every_dimension() -> None:
    given = calls((5, Resources(1, "3 GiB")), (4, Resources(1, "3 GiB")), (3, Resources(1, "1 GiB")))
    schedule = simulate(given, [Node(Pool(2, "4 GiB"))], LongestFirst())
    assert schedule.starts == {0: 0, 2: 0, 1: 5}


def test_a_large_call_waits_only_for_what_runs_while_small_ones_keep_coming() -> None:
    small = [SimulatedCall(WaitingCall(n, (ONE,), 10, submitted=2.0 * n), 10) for n in range(100)]
    large = SimulatedCall(WaitingCall(1000, (Resources(4),), 9, submitted=9), 9)
    schedule = simulate([*small, large], [Node(Pool(4))], LongestFirst())
    # At 9, calls 0 to 3 run, until 10 to 16. It takes the reservation that 4 has, as it is four times as large.
    assert schedule.starts[1000] == 16


def test_a_short_call_does_not_wait_for_ever_while_longer_ones_keep_coming() -> None:
    longer = [SimulatedCall(WaitingCall(n, (ONE,), 10, submitted=5.0 * n), 10) for n in range(200)]
    short = SimulatedCall(WaitingCall(1000, (ONE,), 1, submitted=1), 1)
    schedule = simulate([*longer, short], [Node(Pool(1))], LongestFirst())
    assert sum(start < schedule.starts[1000] for start in schedule.starts.values()) < 50


def test_a_small_call_overtakes_only_if_it_ends_before_the_reserved_one_begins() -> None:
    rows = (20.0, Resources(3)), (9.0, Resources(4)), (12.0, ONE), (8.0, ONE)
    schedule = simulate(calls(*rows), [Node(Pool(4))], LongestFirst())
    assert schedule.starts == {0: 0, 2: 0, 3: 12, 1: 20}
    late = (20.0, Resources(3)), (9.0, Resources(4)), (12.0, ONE), (8.5, ONE)
    assert simulate(calls(*late), [Node(Pool(4))], LongestFirst()).starts == {0: 0, 2: 0, 1: 20, 3: 29}


def test_an_overrun_does_not_let_small_calls_pass_for_ever() -> None:
    """What runs takes ten times as long as expected: once the time of the reservation has passed, the node drains."""
    numbers = count()
    rows = [(20.0, 200.0, Resources(3)), (9.0, 9.0, Resources(4))] + [(1.0, 10.0, ONE)] * 50
    given = [SimulatedCall(WaitingCall(next(numbers), (need,), guess), real) for guess, real, need in rows]
    schedule = simulate(given, [Node(Pool(4))], LongestFirst())
    assert schedule.starts[1] == 200
    assert [start for number, start in schedule.starts.items() if number > 1][:3] == [0, 10, 209]


def test_the_second_alternative_is_taken_when_the_first_does_not_fit() -> None:
    both = (Resources(gpus=1), Resources(4))
    given = [SimulatedCall(WaitingCall(number, both, 5), 5) for number in range(2)]
    schedule = simulate(given, [Node(Pool(8, gpus=1))], LongestFirst())
    assert schedule.starts == {0: 0, 1: 0}
    assert [schedule.leases[number].request for number in (0, 1)] == list(both)


def test_a_discarded_call_gives_up_its_reservation() -> None:
    node, policy = Node(Pool(4)), LongestFirst()
    first, large, small = (
        WaitingCall(0, (Resources(3),), 20),
        WaitingCall(1, (Resources(4),), 9),
        WaitingCall(2, (ONE,), 20, submitted=500),
    )
    for call in (first, large):
        policy.add(call)
    [begun] = policy.choose([node], 0.0)
    assert begun.call is first
    policy.add(small)
    policy.discard(large)
    policy.discard(large)  # nothing happens
    assert [placed.call for placed in policy.choose([node], 1.0, [])] == [small]
    assert len(policy) == 0


def test_a_reservation_on_a_lost_node_moves() -> None:
    nodes = [Node(Pool(4, name="a")), Node(Pool(4, name="b"))]
    policy = LongestFirst()
    for number, seconds in enumerate((10, 20)):
        policy.add(WaitingCall(number, (Resources(3),), seconds))
    held = {placed.call.number: placed.lease for placed in policy.choose(nodes, 0.0)}
    assert held[0].node is not held[1].node
    policy.add(WaitingCall(2, (Resources(4),), 5))
    assert policy.choose(nodes, 1.0, []) == []
    held[0].node.lost = True  # where the reservation is
    held[1].give_back()
    [placed] = policy.choose(nodes, 2.0, [held[1].node])
    assert placed.lease.node is held[1].node


def test_calls_that_no_node_holds_end_the_simulation_with_an_error() -> None:
    with pytest.raises(RuntimeError, match="1 calls wait although nothing runs"):
        simulate(calls((1, Resources(2))), [Node(Pool(1))], LongestFirst())


def test_a_simulation_goes_on_from_what_runs() -> None:
    node = Node(Pool(1))
    lease = node.take(ONE, 100.0)
    schedule = simulate(calls((5, ONE)), [node], LongestFirst(), now=60.0, running={lease: 7.0})
    assert (schedule.starts, schedule.makespan) == ({0: 67.0}, 72.0)


# Random sets


def random_set(seed: int) -> tuple[list[SimulatedCall], list[Pool]]:
    draw = random.Random(seed)
    pools = [
        Pool(draw.choice([4, 8]), "32 GiB", draw.choice([0, 0, 2]), "16 GiB", {"licence": 1}, name=f"node{index}")
        for index in range(draw.choice([1, 2, 5]))
    ]
    requests = [
        Resources(
            draw.choice([0.5, 1, 3]), f"{draw.randint(1, 20_000)} MiB", custom=draw.choice([None, {"licence": 1}])
        )
        for _ in range(60)
    ]
    if any(pool.gpus for pool in pools):
        requests += [Resources(1, gpus=gpus, gpu_memory="6 GiB") for gpus in (0.3, 0.5, 1, 2) for _ in range(5)]
    draw.shuffle(requests)
    made: list[SimulatedCall] = []
    for number, request in enumerate(requests):
        seconds = draw.lognormvariate(0, 1)
        guess = draw.choice([None, seconds, seconds * draw.lognormvariate(0, 0.7)])
        submitted = draw.choice([0.0, draw.uniform(0, 20)])
        call = WaitingCall(number, (request,), guess, draw.choice([0, 0, 0, 1]), submitted)
        made.append(SimulatedCall(call, seconds))
    return made, pools


def assert_within_capacity(schedule: Schedule, nodes: Sequence[Node]) -> None:
    """Check every instant at which something starts, from the schedule alone."""
    for instant in schedule.starts.values():
        for node in nodes:
            held = [
                lease
                for number, lease in schedule.leases.items()
                if lease.node is node and schedule.starts[number] <= instant < schedule.ends[number]
            ]
            assert sum(lease.request.cpu_parts for lease in held) <= node.pool.cpus * WHOLE
            assert sum(lease.request.memory for lease in held) <= (node.pool.memory or 0)
            assert sum(dict(lease.request.custom_parts).get("licence", 0) for lease in held) <= WHOLE
            for device in range(len(node.pool.gpus)):
                on_it = [lease.request for lease in held if device in lease.devices]
                assert sum(min(request.gpu_parts, WHOLE) for request in on_it) <= WHOLE
                assert sum(request.gpu_memory for request in on_it) <= 16 * 1024**3


@pytest.mark.parametrize("policy", [LongestFirst, ArrivalOrder])
@pytest.mark.parametrize("seed", range(25))
def test_every_call_runs_once_within_capacity_and_the_order_is_the_same_each_time(
    policy: type[Policy], seed: int
) -> None:
    given, pools = random_set(seed)
    nodes = [Node(pool) for pool in pools]
    schedule = simulate(given, nodes, policy())
    assert sorted(schedule.starts) == list(range(len(given)))
    assert all(schedule.starts[each.call.number] >= each.call.submitted for each in given)
    assert_within_capacity(schedule, nodes)
    assert not any(node.leases for node in nodes)
    again = simulate(given, [Node(pool) for pool in pools], policy())
    assert list(again.starts.items()) == list(schedule.starts.items())
