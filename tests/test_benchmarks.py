"""The frame of the benchmarks judges as it should. Nothing is measured here."""

import pytest

from benchmarks import frame
from benchmarks.frame import Bar, Measured, Workload, rows, table, workloads


def measured(bar: Bar, **numbers: list[float]) -> Measured:
    """Peers with rounds of one number, `wall_us`."""
    result = Measured(Workload("a", "A workload", dict.fromkeys(numbers, dict), (bar,)))
    for peer, values in numbers.items():
        for value in values:
            result.add(peer, {"wall_us": value})
    return result


@pytest.mark.parametrize(
    ("bar", "ours", "theirs", "verdict"),
    [
        (Bar("wall_us", "raw", 0.5), [5.0], [10.0], True),
        (Bar("wall_us", "raw", 0.5), [5.1], [10.0], False),
        (Bar("wall_us", "raw", 0.5), [1.0, 5.0, 99.0], [10.0, 10.0, 10.0], True),
        (Bar("wall_us", "raw", 0.5), [5.0], [], None),
        (Bar("wall_us", "raw", 0.5), [], [10.0], None),
        (Bar("wall_us", "raw", 1.0, plus=50), [59.0], [10.0], True),
        (Bar("wall_us", "raw", 1.0, plus=50), [61.0], [10.0], False),
        (Bar("wall_us", None, 86), [86.0], [], True),
        (Bar("wall_us", None, 86), [87.0], [], False),
        (Bar("wall_us", None, 86, at_least=True), [87.0], [], True),
        (Bar("wall_us", None, 86, at_least=True), [85.0], [], False),
        (Bar("wall_us", None, 86), [], [], None),
    ],
)
def test_a_bar_compares_medians(bar: Bar, ours: list[float], theirs: list[float], verdict: bool | None) -> None:
    (row,) = rows([measured(bar, amlsched=ours, raw=theirs)])
    assert row.passed is verdict


def test_the_table_has_a_line_a_bar_that_says_whether_it_holds() -> None:
    good = measured(Bar("wall_us", "raw", 0.5), amlsched=[5.0], raw=[10.0])
    bad = measured(Bar("wall_us", None, 2), amlsched=[3000.0])
    assert table([good, bad]).splitlines()[2:] == [
        "| A workload | wall | 5 µs | raw: 10 µs | 0.50 | ≤ 0.50 | holds |",
        "|  | wall | 3,000 µs |  |  | ≤ 2 µs | **missed** |",
    ]


@pytest.mark.parametrize("workload", workloads().values(), ids=lambda workload: workload.name)
def test_a_workload_compares_with_peers_that_it_measures(workload: Workload) -> None:
    assert frame.OURS in workload.peers
    assert {bar.against for bar in workload.bars} <= {*workload.peers, None}


def test_the_names_of_workloads_are_unique() -> None:
    modules = [__import__(f"benchmarks.{name}", fromlist=["WORKLOADS"]) for name in frame.MODULES]
    assert len(workloads()) == sum(len(module.WORKLOADS) for module in modules)
