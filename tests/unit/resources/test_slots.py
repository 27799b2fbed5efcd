"""Dividing CPUs and GPUs into slots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amlsched.errors import ResourcesError
from amlsched.resources import Request, Slot, slots

EIGHT = tuple(range(8))


def test_whole_devices_and_an_even_share_of_the_cpus() -> None:
    assert slots(Request(2), ("0", "1", "2", "3", "4"), EIGHT) == (
        Slot(0, ("0", "1"), frozenset({0, 1, 2, 3})),
        Slot(1, ("2", "3"), frozenset({4, 5, 6, 7})),
    )


def test_two_shares_of_a_half_are_on_one_device_and_go_around() -> None:
    """Trap 11: cw2 makes of it the device 0.01."""
    made = slots(Request(0.5), ("GPU-a", "MIG-b"), EIGHT)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in made] == ["GPU-a", "MIG-b", "GPU-a", "MIG-b"]


@pytest.mark.parametrize(("share", "times"), [(0.5, 2), (0.3, 3), (1 / 3, 3), (0.1, 10), (0.9, 1)])
def test_a_share_fits_as_often_as_it_does(share: float, times: int) -> None:
    assert len(slots(Request(share), ("0",), EIGHT)) == times


def test_cpus_alone_leave_the_devices_as_they_are() -> None:
    made = slots(Request(cpus=3), ("0",), EIGHT)
    assert [slot.cpus for slot in made] == [frozenset({0, 1, 2}), frozenset({3, 4, 5})]
    assert "CUDA_VISIBLE_DEVICES" not in made[0].environment
    assert made[0].environment["OMP_NUM_THREADS"] == "3"
    assert made[0].environment["NUMEXPR_NUM_THREADS"] == "3"


def test_the_scarcer_of_both_counts_and_no_more_than_wanted() -> None:
    assert len(slots(Request(1, 3), ("0", "1", "2"), EIGHT)) == 2
    assert len(slots(Request(1, 2), ("0", "1", "2"), EIGHT)) == 3
    [only] = slots(Request(1), ("0", "1"), EIGHT, at_most=1)
    assert only.cpus == frozenset(EIGHT)


def test_more_slots_than_cpus_share_them() -> None:
    made = slots(Request(0.25), ("0",), (0, 1))
    assert [slot.cpus for slot in made] == [None] * 4


@pytest.mark.parametrize(
    ("request_", "devices", "message"),
    [
        (Request(3), ("0", "1"), r"exp: requests 3 GPUs, but there are 2 \(0,1\)"),
        (Request(0.5), (), "exp: requests 0.5 GPUs, but there are none"),
        (Request(cpus=9), (), "exp: requests 9 CPUs, but there are 8"),
    ],
)
def test_what_fits_nowhere_is_refused_with_what_there_is(request_: Request, devices, message: str) -> None:
    with pytest.raises(ResourcesError, match=message):
        slots(request_, devices, EIGHT, where="exp")


def test_nothing_asked_for_binds_nothing() -> None:
    assert slots(Request(), ("0",), EIGHT) == ()


@given(
    st.one_of(st.none(), st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1, 2, 3])),
    st.one_of(st.none(), st.integers(1, 4)),
    st.integers(1, 8),
    st.integers(1, 32),
)
def test_no_device_and_no_cpu_is_given_away_twice(gpus, n_cpus, n_devices: int, n: int) -> None:
    devices = tuple(f"GPU-{index}" for index in range(n_devices))
    try:
        made = slots(Request(gpus, n_cpus), devices, range(n))
    except ResourcesError:
        assert (gpus or 0) > n_devices or (n_cpus or 0) > n
        return
    on = [device for slot in made for device in slot.devices or ()]
    assert all(on.count(device) * (gpus if gpus and gpus < 1 else 1) <= 1 + 1e-9 for device in devices)
    given_away = [cpu for slot in made for cpu in slot.cpus or ()]
    assert len(given_away) == len(set(given_away)) <= n
    assert all(n_cpus is None or len(slot.cpus or ()) == n_cpus for slot in made)
