"""How long a run still takes: many runs with drawn times, and their quantiles."""

from __future__ import annotations

import heapq
import math
import random
import statistics

import pytest

from amlsched.estimates.forecast import Estimate, Pending, run_forward, run_policy_forward, summarize
from amlsched.estimates.lognormal import Spread
from amlsched.policies import ArrivalOrder, LongestFirst, WaitingCall
from amlsched.resources import Pool, Resources
from amlsched.resources.pool import Lease, Node

SURE = Spread(math.log(10.0), 1e9, 1e-12, 1e9)
"""Ten seconds, exactly."""


def exactly(*pending: Pending, workers: int) -> float:
    times = run_forward(pending, [SURE], workers, random.Random(0))
    assert max(times) - min(times) < 1e-3
    return statistics.fmean(times)


@pytest.mark.parametrize(
    ("n_waiting", "elapsed", "workers", "expected"),
    [
        (1, [], 1, 10),
        (4, [], 1, 40),
        (4, [], 2, 20),
        (3, [], 2, 20),
        (0, [4.0], 2, 6),
        (1, [4.0], 1, 16),
        (2, [4.0], 2, 16),
        (0, [4.0, 1.0], 2, 9),
        (0, [], 3, 0),
        (2, [4.0, 4.0], 1, 16),  # more run than there are workers known of
    ],
)
def test_each_worker_takes_the_next_call_when_it_is_free(
    n_waiting: int, elapsed: list[float], workers: int, expected: float
) -> None:
    pending = [*(Pending(0, 0.0, each) for each in elapsed), *(Pending(0) for _ in range(n_waiting))]
    assert exactly(*pending, workers=workers) == pytest.approx(expected, abs=1e-3)


def test_the_expected_time_of_a_call_scales_what_was_learned() -> None:
    assert exactly(Pending(0, math.log(3.0)), Pending(0, math.log(0.5)), workers=1) == pytest.approx(35, abs=1e-3)
    assert exactly(Pending(0, math.log(3.0), 20.0), workers=1) == pytest.approx(10, abs=1e-3)


def test_the_long_call_at_the_end_counts() -> None:
    assert exactly(*(Pending(0) for _ in range(8)), Pending(0, math.log(6.0)), workers=4) == pytest.approx(80, abs=1e-3)


def one_by_one(pending: list[Pending], spread: Spread, workers: int, rng: random.Random) -> float:
    mean, slope, sigma = spread.draw(rng)
    free = [0.0] * workers
    for call in pending:
        heapq.heapreplace(free, free[0] + math.exp(mean + slope * call.x + sigma * rng.gauss(0, 1)))
    return max(free)


def test_the_first_of_very_many_calls_are_added_up_with_the_same_result() -> None:
    spread = Spread(1.0, 200.0, 0.8**2, 200.0)
    pending = [Pending(0, math.log(1.0 + number % 3)) for number in range(1500)]
    quick = sorted(run_forward(pending, [spread], 6, random.Random(1)))
    slow = sorted(one_by_one(pending, spread, 6, random.Random(seed)) for seed in range(200))
    for probability in (0.1, 0.5, 0.9):
        place = int(probability * 200)
        assert quick[place] == pytest.approx(slow[place], rel=0.04)


def test_the_work_of_a_forecast_is_bounded() -> None:
    class Counting(random.Random):
        drawn = 0

        def gauss(self, *args: float) -> float:  # type: ignore[override]
            self.drawn += 1
            return super().gauss(*args)

    rng = Counting(0)
    assert len(run_forward([Pending(0)] * 100_000, [SURE], 64, rng)) >= 40
    assert rng.drawn < 150_000


def test_quantiles_of_many_times() -> None:
    estimate = summarize([float(value) for value in range(1, 100)], 7)
    assert (estimate.seconds, estimate.low, estimate.high, estimate.n_calls) == (50, 10, 90, 7)
    assert summarize([3.0], 1) == Estimate(3.0, 3.0, 3.0, 1)


@pytest.mark.parametrize(
    ("seconds", "low", "high", "text"),
    [
        (840, 660, 1140, "14 min left (11 to 19)"),
        (150, 130, 200, "2.5 min left (2.2 to 3.3)"),
        (119, 60, 200, "119 s left (60 to 200)"),
        (5.04, 1, 12.3, "5.0 s left (1.0 to 12)"),
        (0.04, 0.01, 0.2, "0.04 s left (0.01 to 0.2)"),
        (9.97, 9.94, 100.4, "10 s left (9.9 to 100)"),
        (3600 * 7, 3600 * 5, 3600 * 11, "7.0 h left (5.0 to 11)"),
        (86400 * 3, 86400 * 2, 86400 * 11, "3.0 days left (2.0 to 11)"),
        (0, 0, 0, "0 s left (0 to 0)"),
    ],
)
def test_the_text_is_short(seconds: float, low: float, high: float, text: str) -> None:
    assert str(Estimate(seconds, low, high, 1)) == text


# ------------------------------------------------------------------------------------------------- with a policy


def request(cpus: float = 1, **more: str) -> Resources:
    return Resources(cpus, **more)


def waiting(count: int, *requests: Resources, kind: int = 0) -> list[tuple[Pending, WaitingCall]]:
    each = requests or (request(),)
    return [(Pending(kind), WaitingCall(number, (each[number % len(each)],))) for number in range(count)]


def placed(
    running: list[tuple[Pending, Lease]], calls: list[tuple[Pending, WaitingCall]], nodes: list[Node], seed: int = 0
) -> list[float]:
    return run_policy_forward(running, calls, [SURE], nodes, ArrivalOrder, 0.0, random.Random(seed))


def test_a_policy_packs_what_fits_together() -> None:
    node = Node(Pool(4, "8 GiB"))
    assert placed([], waiting(4, request(2)), [node]) == pytest.approx([20.0] * 40, abs=1e-2)
    assert placed([], waiting(4, request(memory="5 GiB")), [node]) == pytest.approx([40.0] * 40, abs=1e-2)
    assert placed([], [], [node]) == [0.0] * 40
    two = [Node(Pool(4, name="a")), Node(Pool(4, name="b"))]
    assert placed([], waiting(4, request(2)), two) == pytest.approx([10.0] * 40, abs=1e-2)


@pytest.mark.parametrize("directly", [100, 10])
def test_what_a_call_holds_its_resources_for_besides_its_own_time_counts(
    directly: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amlsched.estimates.forecast._PLACED_DIRECTLY", directly)
    nodes = [Node(Pool(4))]
    times = run_policy_forward([], waiting(40, request(2)), [SURE], nodes, ArrivalOrder, 0.0, random.Random(0), 5.0)
    assert statistics.median(times) == pytest.approx(20 * 15.0, rel=0.01)


def test_what_runs_holds_its_resources_and_the_nodes_stay_as_they_are() -> None:
    node = Node(Pool(4))
    lease = node.take(request(3), 5.0)
    times = placed([(Pending(0, 0.0, 4.0), lease)], waiting(1, request(2)), [node])
    assert times == pytest.approx([16.0] * 40, abs=1e-2)
    assert list(node.leases) == [lease]
    assert lease.active
    assert node.free.cpus == 1 * 10_000


def quantiles(times: list[float]) -> list[float]:
    estimate = summarize(times, 0)
    return [estimate.low, estimate.seconds, estimate.high]


def test_a_policy_without_choice_takes_as_long_as_workers_do() -> None:
    spread = Spread(1.0, 50.0, 0.5**2, 50.0)
    nodes = [Node(Pool(6))]
    with_policy = run_policy_forward([], waiting(60), [spread], nodes, ArrivalOrder, 0.0, random.Random(1))
    assert quantiles(with_policy) == pytest.approx(
        quantiles(run_forward([Pending(0)] * 60, [spread], 6, random.Random(2))), rel=0.08
    )


def test_with_very_many_calls_the_policy_runs_over_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    spread, nodes = Spread(1.0, 200.0, 0.7**2, 200.0), [Node(Pool(8))]
    calls = waiting(280, request(1), request(2), request(3))
    direct = run_policy_forward([], calls, [spread], nodes, LongestFirst, 0.0, random.Random(1))
    monkeypatch.setattr("amlsched.estimates.forecast._PLACED_DIRECTLY", 100)
    monkeypatch.setattr("amlsched.estimates.forecast._PLACED_AT_MOST", 150)
    sampled = run_policy_forward([], calls, [spread], nodes, LongestFirst, 0.0, random.Random(2))
    assert len(sampled) == 200
    assert quantiles(sampled) == pytest.approx(quantiles(direct), rel=0.08)
