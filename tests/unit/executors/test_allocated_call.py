"""A call is bound to what it got, and knows it; a worker never computes on the wrong GPUs."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from amlsched.errors import ResourcesError
from amlsched.executors import allocated_call, worker_setup
from amlsched.executors.allocated_call import AllocatedCall
from amlsched.resources import Pool, Resources, current_allocation
from amlsched.resources.allocation import Allocation, allocation_of
from amlsched.resources.pool import Node

if TYPE_CHECKING:
    from amlsched.executors.allocated_call import Binding

GPUS = "CUDA_VISIBLE_DEVICES"


def got(request: Resources) -> Allocation:
    return allocation_of(Node(Pool(8, "8 GiB", ["0", "1"], custom={"licence": 1})).take(request, 0.0))


def seen() -> tuple[Allocation | None, str | None, str | None]:
    return current_allocation(), os.environ.get(GPUS), os.environ.get("OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def limited(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A worker that ran nothing yet; its variables are put back, and this process keeps its threads.

    Returns:
        To how many threads the worker would have limited its libraries.
    """
    limits: list[int] = []
    monkeypatch.setattr(worker_setup, "limit_loaded_libraries", limits.append)
    for name in AllocatedCall(seen, got(Resources()), "call", GPUS)._environment():
        monkeypatch.setenv(name, "before")
    monkeypatch.setattr(allocated_call, "_bound", None)
    return limits


@pytest.mark.parametrize("binding", ["worker", "call", "nothing"])
def test_a_call_knows_what_it_got_and_is_bound_as_its_executor_allows(binding: Binding, limited: list[int]) -> None:
    mine = got(Resources(2.5, gpus=1))
    found = AllocatedCall(seen, mine, binding, GPUS)()
    assert found == (mine, *(("before", "before") if binding == "nothing" else ("0", "2")))
    assert current_allocation() is None
    assert seen()[1:] == (("0", "2") if binding == "worker" else ("before", "before"))
    assert limited == [2] * (binding == "worker")


def test_a_call_that_raises_is_unbound_again() -> None:
    with pytest.raises(ZeroDivisionError):
        AllocatedCall(lambda: 1 / 0, got(Resources(2)), "call", GPUS)()
    assert seen() == (None, "before", "before")


def test_without_gpus_in_the_pool_the_variable_stays() -> None:
    assert AllocatedCall(seen, got(Resources(2)), "worker", "")()[1:] == ("before", "2")


def test_a_call_without_gpus_sees_none_if_the_pool_has_some() -> None:
    assert AllocatedCall(seen, got(Resources(2)), "worker", GPUS)()[1] == ""


@pytest.mark.parametrize("uses_gpus", [True, False])
def test_a_worker_that_has_used_gpus_never_computes_on_the_wrong_ones(
    uses_gpus: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocated_call, "_uses_gpus", lambda: uses_gpus)
    first, both = (AllocatedCall(seen, got(Resources(gpus=number)), "worker", GPUS) for number in (1, 2))
    assert [first()[1], first()[1]] == ["0", "0"]
    if uses_gpus:
        with pytest.raises(
            ResourcesError, match=r"has used the GPUs 0, and cannot change to 0,1: .*max_tasks_per_child=1"
        ):
            both()
    else:
        assert both()[1] == "0,1"


def test_a_call_travels_with_what_it_got() -> None:
    call = AllocatedCall(seen, got(Resources(2, "1 GiB", 0.5, custom={"licence": 1})), "call", GPUS)
    copied: Any = pickle.loads(pickle.dumps(call))
    assert copied.allocation == call.allocation
    assert (copied.__name__, copied.__qualname__) == ("seen", "seen")
    assert copied()[0] == call.allocation
    assert (call.allocation.gpu_share, call.allocation.n_threads) == (0.5, 2)
