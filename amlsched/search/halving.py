"""Successive halving: many trials get a small budget, and those with the best values go on with a larger one."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amlsched._checks import whole_number
from amlsched.search.space import RandomSearcher
from amlsched.search.trial import Failure, Trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amlsched.search.space import Space
    from amlsched.search.trial import Mode, Told

__all__ = ["HalvingSearcher", "asha", "hyperband", "successive_halving"]


@dataclass(eq=False)
class _Rung:
    """The trials with one budget.

    Attributes:
        budget: The budget.
        n_ended: How many have ended.
        ranked: Those of them that have a value, the best first; each with its value, negative if larger is better.
        promoted: Those that went on, or are going on.
        size: How many there will be in all; `None` if that is open.
    """

    budget: int
    n_ended: int = 0
    ranked: list[tuple[float, int, Trial]] = field(default_factory=list[tuple[float, int, Trial]])
    promoted: set[Trial] = field(default_factory=set[Trial])
    size: int | None = None


@dataclass(eq=False)
class _Bracket:
    """Rungs with growing budgets.

    Attributes:
        rungs: The rungs, the smallest budget first.
        n_new: How many trials have begun in it.
    """

    rungs: list[_Rung]
    n_new: int = 0


class HalvingSearcher:
    """Gives many trials a small budget, and the best of them a larger one. Made by `asha`, `successive_halving` and
    `hyperband`.

    A trial that goes on is a new `Trial` with the same parameters and a larger `budget`; its `resumes` is the number of
    the trial that it continues, so that the function can go on from what that one saved.

    Args:
        brackets: For each bracket, its budgets and the number of trials that begin in it, or `None` for no limit.
        reduction_factor: One of this many trials goes on.
        space: The parameters.
        mode: Whether the best value is the smallest or the largest.
        seed: The same seed gives the same parameters.
        wait: Whether a rung must be complete before any of its trials goes on.
    """

    quick = True

    def __init__(
        self,
        brackets: Sequence[tuple[Sequence[int], int | None]],
        reduction_factor: int,
        space: Space,
        mode: Mode,
        seed: int,
        wait: bool,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r}: must be 'min' or 'max'")
        self.mode: Mode = mode
        self._factor = reduction_factor
        self._wait = wait
        self._proposals = RandomSearcher(space, seed)
        self._brackets = [_Bracket([_Rung(budget) for budget in budgets]) for budgets, _ in brackets]
        for bracket, (_, n_new) in zip(self._brackets, brackets, strict=True):
            size = n_new
            for rung in bracket.rungs:
                rung.size = size
                size = None if size is None else size // reduction_factor
        self._places: dict[Trial, tuple[int, int]] = {}  # bracket and rung of trials that have not ended

    def ask(self, n: int, /) -> list[Trial]:
        """Propose up to `n` trials: first those that go on, the largest budgets first, then new ones."""
        trials: list[Trial] = []
        while len(trials) < n and (trial := self._promoted() or self._new()) is not None:
            trials.append(trial)
        return trials

    def tell(self, results: Sequence[tuple[Trial, Told]], /) -> None:
        """Take the values; a trial that failed never goes on."""
        for trial, told in results:
            bracket, place = self._places.pop(trial)
            rung = self._brackets[bracket].rungs[place]
            rung.n_ended += 1
            if not isinstance(told, Failure):
                value = told[0] if isinstance(told, tuple) else told
                insort(rung.ranked, (value if self.mode == "min" else -value, trial.number, trial))

    def _promoted(self) -> Trial | None:
        for number, bracket in enumerate(self._brackets):
            for place in reversed(range(len(bracket.rungs) - 1)):
                best = self._promotable(bracket.rungs[place])
                if best is not None:
                    bracket.rungs[place].promoted.add(best)
                    budget = bracket.rungs[place + 1].budget
                    trial = Trial(best.params, seed=best.seed, budget=budget, resumes=best.number)
                    self._places[trial] = number, place + 1
                    return trial
        return None

    def _promotable(self, rung: _Rung) -> Trial | None:
        """The best trial that may go on now."""
        if self._wait and (rung.size is None or rung.n_ended < rung.size):
            return None
        n_best = rung.n_ended // self._factor
        if len(rung.promoted) >= n_best:
            return None
        return next((trial for _, _, trial in rung.ranked[:n_best] if trial not in rung.promoted), None)

    def _new(self) -> Trial | None:
        """A trial with new parameters, in the bracket that has had the smallest share of its trials."""
        open_ones = [
            (bracket.n_new / (bracket.rungs[0].size or 1), number)
            for number, bracket in enumerate(self._brackets)
            if bracket.rungs[0].size is None or bracket.n_new < bracket.rungs[0].size
        ]
        if not open_ones:
            return None
        number = min(open_ones)[1]
        bracket = self._brackets[number]
        bracket.n_new += 1
        trial = Trial(self._proposals.params(), budget=bracket.rungs[0].budget)
        self._places[trial] = number, 0
        return trial


def asha(
    space: Space,
    *,
    max_iterations: int,
    min_iterations: int = 1,
    reduction_factor: int = 3,
    n_configs: int | None = None,
    mode: Mode = "min",
    seed: int = 0,
) -> HalvingSearcher:
    """Asynchronous successive halving: a trial goes on as soon as it is among the best of those that have ended.

    No worker waits for the slowest trial of a rung. Some trials go on that would not if all others had been known.

    Args:
        space: The parameters; new ones are random.
        max_iterations: The largest budget.
        min_iterations: The smallest budget.
        reduction_factor: One of this many trials goes on, with this many times the budget.
        n_configs: How many different parameters are tried; `None` for as many as the search allows.
        mode: Whether the best value is the smallest (`"min"`) or the largest (`"max"`).
        seed: The same seed gives the same parameters.

    Raises:
        ValueError: An argument has a value that it cannot have.
    """
    budgets = _budgets(min_iterations, max_iterations, reduction_factor)
    if n_configs is not None:
        whole_number("n_configs", n_configs)
    return HalvingSearcher([(budgets, n_configs)], reduction_factor, space, mode, seed, wait=False)


def successive_halving(
    space: Space,
    *,
    max_iterations: int,
    n_configs: int,
    min_iterations: int = 1,
    reduction_factor: int = 3,
    mode: Mode = "min",
    seed: int = 0,
) -> HalvingSearcher:
    """Successive halving: once all trials of a rung have ended, the best of them go on. Arguments as for `asha`."""
    budgets = _budgets(min_iterations, max_iterations, reduction_factor)
    n_configs = whole_number("n_configs", n_configs, reduction_factor, "")
    return HalvingSearcher([(budgets, n_configs)], reduction_factor, space, mode, seed, wait=True)


def hyperband(
    space: Space,
    *,
    max_iterations: int,
    min_iterations: int = 1,
    reduction_factor: int = 3,
    mode: Mode = "min",
    seed: int = 0,
) -> HalvingSearcher:
    """Hyperband: several brackets of asynchronous halving, from many trials with the smallest budget to few that get
    the largest at once. For functions whose first values say little. Arguments as for `asha`.

    The numbers of trials are those of Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter
    Optimization", JMLR 18 (2018), algorithm 1.
    """
    budgets = _budgets(min_iterations, max_iterations, reduction_factor)
    largest = len(budgets) - 1
    brackets = [
        (budgets[largest - s :], -(-(largest + 1) * reduction_factor**s // (s + 1)))
        for s in reversed(range(largest + 1))
    ]
    return HalvingSearcher(brackets, reduction_factor, space, mode, seed, wait=False)


def _budgets(least: Any, most: Any, factor: Any) -> list[int]:
    least = whole_number("min_iterations", least, 1, "")
    most = whole_number("max_iterations", most, 1, "")
    factor = whole_number("reduction_factor", factor, 2, "")
    if least > most:
        raise ValueError(f"min_iterations={least}: must be at most max_iterations={most}")
    budgets = [most]
    while budgets[0] // factor >= least:
        budgets.insert(0, budgets[0] // factor)
    return budgets
