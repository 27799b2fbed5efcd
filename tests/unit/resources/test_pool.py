"""Pools and leases: what fits, what is left, and which GPU."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amlsched.errors import ResourcesError
from amlsched.resources import Gpu, Gpus, pool
from amlsched.resources.pool import Lease, Node, Pool, refuse_impossible
from amlsched.resources.request import WHOLE, Resources

POOL = Pool(8, "32 GiB", ["0", "1", "MIG-x"], "40 GiB", {"licence": 2}, name="node1")


@pytest.mark.parametrize(
    ("options", "kind", "parts"),
    [
        ({"cpus": 0}, ValueError, ("cpus=0", "more than 0")),
        ({"cpus": -2}, ValueError, ("cpus=-2",)),
        ({"cpus": 2, "memory": "3"}, ValueError, ("memory", "'3'", "unit")),
        ({"cpus": 2, "gpus": -1}, ValueError, ("gpus=-1", "['0', '1']")),
        ({"cpus": 2, "gpus": "0"}, TypeError, ("gpus='0'", "['0', '1']")),
        ({"cpus": 2, "gpus": [0, 1]}, TypeError, ("gpus=[0, 1]", "['0', '1']")),
        ({"cpus": 2, "gpus": ["0", "0"]}, ValueError, ("listed twice",)),
        ({"cpus": 2, "gpus": 2, "gpu_memory": ["1 GB"]}, ValueError, ("1 amounts for 2 GPUs",)),
        ({"cpus": 2, "custom": {"licence": -1}}, ValueError, ("custom['licence']=-1",)),
    ],
)
def test_a_wrong_pool_is_an_error(options: dict[str, Any], kind: type[Exception], parts: tuple[str, ...]) -> None:
    with pytest.raises(kind) as caught:
        Pool(**options)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_number_of_gpus_is_numbered_from_0() -> None:
    assert Pool(1, gpus=2).gpus == ("0", "1")


def test_a_pool_as_text() -> None:
    assert str(POOL) == "node1 with 8 CPUs, 32 GiB of memory, 3 GPUs of 40 GiB, 2 licence"


def test_a_lease_takes_and_gives_back_all_of_it() -> None:
    node = Node(POOL)
    request = Resources(6, "20 GiB", 2, "10 GiB", custom={"licence": 2})
    lease = node.take(request, 10.0)
    assert not node.fits(Resources(3))
    assert not node.fits(Resources(1, "13 GiB"))
    assert not node.fits(Resources(1, gpus=2))
    assert not node.fits(Resources(1, custom={"licence": 1}))
    assert node.fits(Resources(2, "12 GiB", 1, "40 GiB"))
    assert lease.gpus == ("0", "1")
    lease.give_back()
    assert node.fits(Resources(8, "32 GiB", 3, "40 GiB", custom={"licence": 2}))
    assert not node.leases


def test_what_does_not_fit_cannot_be_taken_and_nothing_is_given_back_twice() -> None:
    node = Node(POOL)
    with pytest.raises(RuntimeError, match="9 CPUs does not fit"):
        node.take(Resources(9), 0.0)
    lease = node.take(Resources(1), 0.0)
    lease.give_back()
    with pytest.raises(RuntimeError, match="given back before"):
        lease.give_back()


def test_fractions_share_a_gpu_so_that_others_stay_whole() -> None:
    node = Node(Pool(8, gpus=2))
    half = Resources(gpus=0.5)
    assert [node.take(half, 0.0).gpus for _ in range(2)] == [("0",), ("0",)]
    assert node.take(Resources(gpus=1), 0.0).gpus == ("1",)
    assert not node.fits(Resources(gpus=0.1))


def test_a_fraction_goes_where_its_memory_fits() -> None:
    node = Node(Pool(8, gpus=2, gpu_memory=["8 GiB", "40 GiB"]))
    assert node.take(Resources(gpus=0.5, gpu_memory="20 GiB"), 0.0).gpus == ("1",)
    assert node.take(Resources(gpus=0.5, gpu_memory="8 GiB"), 0.0).gpus == ("1",)
    assert node.take(Resources(gpus=0.1, gpu_memory="8 GiB"), 0.0).gpus == ("0",)


def test_memory_that_is_not_counted_never_runs_out() -> None:
    node = Node(Pool(2))
    assert node.fits(Resources(1, "900 TB"))


def test_nothing_fits_on_a_lost_node() -> None:
    node = Node(POOL)
    node.lost = True
    assert not node.fits(Resources(1))
    assert not node.can_hold(Resources(1))


@pytest.mark.parametrize(
    ("request_", "dimension", "asked", "has"),
    [
        (Resources(9), "CPUs", "9", "8"),
        (Resources(1, "33 GiB"), "memory", "33 GiB", "32 GiB"),
        (Resources(1, gpus=4), "GPUs", "4", "3"),
        (Resources(1, gpus=1, gpu_memory="41 GiB"), "GPU memory", "41 GiB", "40 GiB"),
        (Resources(1, custom={"licence": 3}), "'licence'", "3", "2"),
        (Resources(1, custom={"license": 1}), "'license'", "1", "0"),
    ],
)
def test_an_impossible_request_names_the_node_and_what_it_is_short_of(
    request_: Resources, dimension: str, asked: str, has: str
) -> None:
    small = Node(Pool(1, "1 GiB", name="node0"))
    with pytest.raises(ResourcesError) as caught:
        refuse_impossible([request_], [small, Node(POOL)], "train(3)")
    message = str(caught.value)
    assert message.startswith(f"train(3): requests {request_}")
    assert "node1 with 8 CPUs, 32 GiB of memory, 3 GPUs of 40 GiB" in message
    assert f"short of {dimension}: {asked} requested, {has} there" in message


def test_one_possible_alternative_on_one_node_is_enough() -> None:
    refuse_impossible([Resources(gpus=9), Resources(8)], [Node(Pool(1)), Node(POOL)], "f")


_requests = st.builds(
    Resources,
    cpus=st.sampled_from([0, 0.1, 1 / 3, 1, 2, 5]),
    memory=st.sampled_from([None, "1 GiB", "7 GiB"]),
    gpus=st.sampled_from([0, 0.3, 0.5, 1, 2]),
    custom=st.sampled_from([None, {"licence": 1}]),
)


@given(st.lists(st.tuples(_requests, st.integers(0, 10))))
def test_capacity_is_never_exceeded_and_comes_back_whole(steps: list[tuple[Resources, int]]) -> None:
    node = Node(POOL)
    held: list[Lease] = []
    for request, which in steps:
        if node.fits(request):
            held.append(node.take(request, 0.0))
        elif held:
            held.pop(which % len(held)).give_back()
        assert sum(lease.request.cpu_parts for lease in held) <= 8 * WHOLE
        assert sum(lease.request.memory for lease in held) <= 32 * 1024**3
        for device in range(3):
            on_it = [lease for lease in held if device in lease.devices]
            assert sum(min(lease.request.gpu_parts, WHOLE) for lease in on_it) <= WHOLE
        assert sum(dict(lease.request.custom_parts).get("licence", 0) for lease in held) <= 2 * WHOLE
    for lease in held:
        lease.give_back()
    assert node.fits(Resources(8, "32 GiB", 3, "40 GiB", custom={"licence": 2}))


def test_the_pool_of_this_machine_is_what_detection_finds_less_a_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Gpus(
        (Gpu("GPU-a", memory_bytes=4 * 1024**3, free_bytes=3 * 1024**3), Gpu("GPU-b", memory_bytes=2 * 1024**3))
    )
    monkeypatch.setattr(pool, "cpus", lambda: (0, 2, 3))
    monkeypatch.setattr(pool, "free_memory", lambda: 10 * 1024**3)
    monkeypatch.setattr(pool, "gpus", lambda: found)
    here = Pool.here(reserve="2 GiB", custom={"licence": 1})
    assert (here.cpus, here.memory, here.gpus) == (3, 8 * 1024**3, ("GPU-a", "GPU-b"))
    assert (here.gpu_memory, here.custom) == ((3 * 1024**3, 2 * 1024**3), {"licence": 1})
    assert Pool.here().memory == 10 * 1024**3 - 10 * 1024**3 // 20
    with pytest.raises(ResourcesError, match="reserve='11 GiB', but only 10 GiB of memory are free"):
        Pool.here(reserve="11 GiB")


def test_a_node_runs_no_more_calls_than_it_has_workers() -> None:
    node = Node(Pool(8), max_calls=2)
    leases = [node.take(Resources(0), 0.0) for _ in range(2)]
    assert not node.fits(Resources(0))
    leases[0].give_back()
    assert node.fits(Resources(0))


@pytest.mark.parametrize(
    ("request_", "twice"),
    [(Resources(4), True), (Resources(5), False), (Resources(9), False), (Resources(gpus=2), False)],
)
def test_whether_a_node_can_hold_a_request_twice(request_: Resources, twice: bool) -> None:
    assert Node(POOL).can_hold_twice(request_) is twice
