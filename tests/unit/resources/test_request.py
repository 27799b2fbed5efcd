"""Requests: exact amounts, and errors that name the value and the remedy."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from amlsched.resources.request import WHOLE, Resources, alternatives, shown_memory


def test_amounts_are_whole_numbers_of_ten_thousandths_and_of_bytes() -> None:
    request = Resources(cpus=0.1, memory="1.5 GiB", gpus=0.3, gpu_memory="8 GB", time="10 min", custom={"licence": 2})
    assert (request.cpu_parts, request.gpu_parts) == (1000, 3000)
    assert (request.memory, request.gpu_memory, request.time) == (1536 * 1024**2, 8 * 1000**3, 600.0)
    assert request.custom_parts == (("licence", 2 * WHOLE),)


@pytest.mark.parametrize("times", [3, 6, 7, 9, 11, 13])
def test_so_many_equal_fractions_fit_in_one(times: int) -> None:
    assert Resources(gpus=1 / times).gpu_parts * times <= WHOLE
    assert Resources(cpus=1 / times).cpu_parts * times <= WHOLE


def test_what_is_not_requested_counts_as_nothing() -> None:
    request = Resources()
    assert (request.cpus, request.memory, request.gpus, request.gpu_memory, request.time) == (1, 0, 0, 0, None)
    assert request.custom == {}


def test_equal_requests_are_equal_hash_alike_and_travel() -> None:
    one, same = Resources(2, "1 GiB", custom={"a": 1, "b": 2}), Resources(2, "1024 MiB", custom={"b": 2, "a": 1})
    assert one == same
    assert hash(one) == hash(same)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != Resources(2, "1 GiB")


@pytest.mark.parametrize(("gpus", "devices"), [(0, 0), (0.1, 1), (1, 1), (3, 3)])
def test_on_how_many_devices_a_call_runs(gpus: float, devices: int) -> None:
    assert Resources(gpus=gpus).n_devices == devices


@pytest.mark.parametrize(
    ("options", "kind", "parts"),
    [
        ({"cpus": -1}, ValueError, ("cpus=-1", "at least 0")),
        ({"cpus": float("inf")}, ValueError, ("cpus=inf",)),
        ({"cpus": float("nan")}, ValueError, ("cpus=nan",)),
        ({"cpus": 0.00001}, ValueError, ("cpus=1e-05", "at least 0.0001")),
        ({"cpus": "2"}, TypeError, ("cpus='2'", "a number")),
        ({"cpus": True}, TypeError, ("cpus=True",)),
        ({"memory": 100}, TypeError, ("memory=100", "'1.5 GiB'")),
        ({"memory": "100"}, ValueError, ("memory", "'100'", "number and unit")),
        ({"memory": "3 GO"}, ValueError, ("memory", "'3 GO'", "'6 GB'")),
        ({"memory": "-3 GB"}, ValueError, ("memory", "'-3 GB'")),
        ({"gpus": 1.5}, ValueError, ("gpus=1.5", "such as 2", "such as 0.5")),
        ({"gpus": -0.5}, ValueError, ("gpus=-0.5",)),
        ({"gpu_memory": "8 GiB"}, ValueError, ("gpu_memory='8 GiB'", "gpus=0", "add gpus=1")),
        ({"time": "10"}, ValueError, ("time", "'10'", "'10 min'")),
        ({"time": 10}, TypeError, ("time=10", "'10 min'")),
        ({"custom": ["licence"]}, TypeError, ("custom=['licence']", "{'licence': 1}")),
        ({"custom": {1: 1}}, TypeError, ("the name 1", "'licence'")),
        ({"custom": {"": 1}}, ValueError, ("a name is empty",)),
        ({"custom": {"licence": -1}}, ValueError, ("custom['licence']=-1",)),
    ],
)
def test_a_wrong_amount_is_named_with_its_value_and_the_remedy(
    options: dict[str, Any], kind: type[Exception], parts: tuple[str, ...]
) -> None:
    with pytest.raises(kind) as caught:
        Resources(**options)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_request_as_text() -> None:
    request = Resources(2, "1.5 GiB", 0.5, "8 GiB", custom={"licence": 1})
    assert str(request) == "2 CPUs, 1.5 GiB of memory, 0.5 GPUs, 8 GiB of GPU memory, 1 licence"
    assert str(Resources()) == "1 CPU"
    assert str(Resources(cpus=0)) == "nothing"


def test_memory_is_shown_in_the_largest_unit_that_gives_one() -> None:
    assert [shown_memory(each) for each in (5, 2048, 1024**3, 3 * 1024**4)] == ["5 B", "2 KiB", "1 GiB", "3 TiB"]


def test_alternatives_are_one_request_or_several() -> None:
    gpu, cpus = Resources(gpus=1), Resources(cpus=16)
    assert alternatives(gpu, "task f") == (gpu,)
    assert alternatives([gpu, cpus], "task f") == (gpu, cpus)


@pytest.mark.parametrize("given", [None, [], "2 CPUs", {"cpus": 2}, [Resources(), 2]])
def test_anything_else_is_an_error_that_shows_a_request(given: Any) -> None:
    with pytest.raises(TypeError, match=r"task f: resources=.*Resources\(cpus=2, memory='1.5 GiB'\)"):
        alternatives(given, "task f")
