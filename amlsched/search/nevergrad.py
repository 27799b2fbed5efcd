"""Searches by nevergrad's optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from amlsched._surroundings import import_extra
from amlsched.search.trial import Failure, Trial

_base = import_extra("nevergrad.optimization.base", "amlsched.search.nevergrad", "nevergrad", "nevergrad")

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amlsched.search.trial import Told

__all__ = ["NevergradSearcher"]


class NevergradSearcher:
    """Lets an optimizer of nevergrad propose the trials.

        space = ng.p.Dict(lr=ng.p.Log(lower=1e-4, upper=1), layers=ng.p.Scalar(lower=1, upper=8).set_integer_casting())
        optimizer = ng.optimizers.NGOpt(space, budget=100, num_workers=4)
        search = Search(NevergradSearcher(optimizer), train, n_trials=100, n_workers=4)

    nevergrad has no failures: a trial that failed is told the worst value so far, so that the optimizer keeps away.
    Give the optimizer the number of workers as `num_workers`, which it needs to know.

    Args:
        optimizer: The optimizer, which minimises. Its parametrization is a `ng.p.Dict`, whose keys name the parameters.

    Raises:
        TypeError: `optimizer` is not an optimizer of nevergrad.
        ValueError: Its parametrization is not a `ng.p.Dict`.
    """

    mode: Literal["min"] = "min"

    def __init__(self, optimizer: Any) -> None:
        if not isinstance(optimizer, _base.Optimizer):
            raise TypeError(
                f"optimizer={optimizer!r}: must be an optimizer, such as ng.optimizers.NGOpt(space, budget=100)"
            )
        if not isinstance(optimizer.parametrization.value, dict):
            raise ValueError(
                f"the parametrization of the optimizer is {optimizer.parametrization.name}: must be a ng.p.Dict, whose "
                "keys name the parameters"
            )
        self.optimizer = optimizer
        self._worst: Any = None
        self._failed: list[Any] = []  # before any trial had a value

    def ask(self, n: int, /) -> list[Trial]:
        """Let the optimizer propose `n` trials."""
        candidates = [self.optimizer.ask() for _ in range(n)]
        return [Trial(dict(candidate.value), handle=candidate) for candidate in candidates]

    def tell(self, results: Sequence[tuple[Trial, Told]], /) -> None:
        """Tell the optimizer values, and the worst of them for trials that failed."""
        for trial, told in results:
            if isinstance(told, Failure):
                self._failed.append(trial.handle)
                continue
            value = list(told) if isinstance(told, tuple) else told
            if self._worst is None or value > self._worst:
                self._worst = value
            self.optimizer.tell(trial.handle, value)
        if self._worst is not None:
            for candidate in self._failed:
                self.optimizer.tell(candidate, self._worst)
            self._failed.clear()
