"""Searches by the real nevergrad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from amlsched import Scheduler
from amlsched.search import Search

ng: Any = pytest.importorskip("nevergrad", reason="nevergrad is not installed")

from amlsched.search.nevergrad import NevergradSearcher  # noqa: E402

if TYPE_CHECKING:
    from amlsched.search import Trial

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:scipy", "ignore::DeprecationWarning")


def parabola(trial: Trial) -> float:
    if trial["x"] < -5:
        raise ValueError("too small")
    return float((trial["x"] - 3) ** 2 + trial["n"])


def optimizer(seed: int = 1) -> Any:
    space = ng.p.Dict(x=ng.p.Scalar(lower=-10, upper=10), n=ng.p.Scalar(lower=1, upper=4).set_integer_casting())
    space.random_state.seed(seed)
    return ng.optimizers.OnePlusOne(space, budget=60, num_workers=2)


def test_an_optimizer_proposes_and_learns() -> None:
    own = optimizer()
    search = Search(NevergradSearcher(own), parabola, scheduler=Scheduler.with_threads(2), n_trials=60, keep_going=True)
    search.run()
    assert search.n_done == own.num_ask == 60
    assert own.num_tell == 60
    assert search.best.value == own.current_bests["minimum"].mean
    assert isinstance(search.best.value, float)
    assert search.best.value < 3


def test_in_the_order_of_submission_it_proposes_the_same() -> None:
    def run(workers: int) -> list[Any]:
        search = Search(
            NevergradSearcher(optimizer()),
            parabola,
            scheduler=Scheduler.with_threads(workers),
            n_trials=20,
            order="submission",
            in_flight=2,
            keep_going=True,
        )
        search.run()
        return [result.trial.params for result in sorted(search.trials, key=lambda each: each.trial.number)]

    assert run(1) == run(2)


def test_what_is_no_optimizer_of_named_parameters_is_refused() -> None:
    with pytest.raises(TypeError, match="must be an optimizer"):
        NevergradSearcher("NGOpt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be a ng\.p\.Dict"):
        NevergradSearcher(ng.optimizers.OnePlusOne(ng.p.Array(shape=(2,)), budget=5))
