"""Searches by Optuna: its samplers propose the trials, its pruners end some of them early."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from amlsched._surroundings import import_extra
from amlsched.search.space import Choice, Float, Int, domains_of, is_there
from amlsched.search.trial import Failure, Trial

import_extra("optuna", "amlsched.search.optuna", "Optuna", "optuna")
import optuna  # noqa: E402
from optuna.distributions import BaseDistribution  # noqa: E402
from optuna.pruners import HyperbandPruner, NopPruner  # noqa: E402
from optuna.study import StudyDirection  # noqa: E402
from optuna.trial import FrozenTrial, TrialState  # noqa: E402

if TYPE_CHECKING:
    from amlsched.search.space import Domain, Space
    from amlsched.search.trial import Mode, Told

__all__ = ["OptunaSearcher"]

OptunaTrial: TypeAlias = "optuna.trial.Trial"


class OptunaSearcher:
    """Lets a study of Optuna propose the trials.

        study = optuna.create_study(direction="maximize", sampler=TPESampler(seed=1), pruner=MedianPruner())
        search = Search(OptunaSearcher(study, {"lr": Float(1e-4, 1, log=True)}), train, n_trials=100)

    Values and failures are kept in the study: a trial that reported and was stopped is `PRUNED`, one that failed is
    `FAIL`, with the reason in its user attribute `failure`. With several trials at the same time, a sampler that knows
    nothing of the running ones proposes similar parameters for all of them: give `TPESampler` its `constant_liar=True`.

    With `order="submission"`, pruners decide by the trials that had ended when the trial was proposed, so that
    decisions can be repeated. `HyperbandPruner` reads the study itself, so its decisions cannot.

    Args:
        study: The study. Trials that it already has count for the sampler, and not for the search's `n_trials`.
        space: The parameters, as in every searcher, or as distributions of Optuna.

    Raises:
        TypeError: `study` is not a study of Optuna.
        ValueError: Optuna cannot take the space: a value of a `Choice` is not None, a bool, a number or a string.
    """

    def __init__(self, study: optuna.Study, space: Space | Mapping[str, BaseDistribution]) -> None:
        if not isinstance(study, optuna.Study):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"study={study!r}: must be a study of Optuna, as optuna.create_study() returns")
        self.study = study
        self._pruner = deepcopy(study.pruner)
        self._distributions: dict[str, BaseDistribution] | None = None
        self._domains: list[tuple[str, Domain]] = []
        given: list[Any] = list(space.values())
        if given and all(isinstance(one, BaseDistribution) for one in given):
            self._distributions = dict(cast("Mapping[str, BaseDistribution]", space))
        else:
            self._domains = list(domains_of(space).items())
            for name, domain in self._domains:
                _check_choice(name, domain)
        self._told: list[int] = []  # numbers of Optuna's trials, in the order in which they were told
        self.report: Callable[[Trial, int, float], bool] | None
        if isinstance(study.pruner, NopPruner) or len(study.directions) > 1:
            self.report = None  # calls need no channel for reports that decide nothing
        else:
            self.report = self._report

    @property
    def mode(self) -> Mode:
        """Whether the best value is the smallest or the largest; `min` for several objectives."""
        directions = self.study.directions
        return "max" if len(directions) == 1 and directions[0] is StudyDirection.MAXIMIZE else "min"

    def ask(self, n: int, /) -> list[Trial]:
        """Let the sampler propose `n` trials."""
        trials: list[Trial] = []
        for _ in range(n):
            handle = self.study.ask(self._distributions)
            params = handle.params if self._distributions is not None else self._suggested(handle)
            trials.append(Trial(params, handle=handle))
        return trials

    def tell(self, results: Sequence[tuple[Trial, Told]], /) -> None:
        """Put values and failures into the study."""
        for trial, told in results:
            handle: OptunaTrial = trial.handle
            if not isinstance(told, Failure):
                self.study.tell(handle, told)
            elif told.reason == "pruned":
                self.study.tell(handle, state=TrialState.PRUNED)
            else:
                handle.set_user_attr("failure", str(told))
                self.study.tell(handle, state=TrialState.FAIL)
            self._told.append(handle.number)

    def _report(self, trial: Trial, step: int, value: float) -> bool:
        """Keep an intermediate value, and let the pruner decide."""
        handle: OptunaTrial = trial.handle
        handle.report(value, step)
        if trial.n_told is None or isinstance(self.study.pruner, HyperbandPruner):
            return handle.should_prune()
        # To be repeatable, only by the trials that had ended when this one was proposed.
        # Some pruners remember what they have seen, so each decision has a new one.
        known = {handle.number, *self._told[: trial.n_told]}
        return deepcopy(self._pruner).prune(cast("optuna.Study", _StudyOf(self.study, known)), self._frozen(handle))

    def _frozen(self, handle: OptunaTrial) -> FrozenTrial:
        return deepcopy(self.study.get_trials(deepcopy=False)[handle.number])

    def _suggested(self, handle: OptunaTrial) -> dict[str, Any]:
        params: dict[str, Any] = {}
        for name, domain in self._domains:
            if not is_there(domain, params):
                continue
            if isinstance(domain, Float):
                params[name] = handle.suggest_float(name, domain.low, domain.high, log=domain.log)
            elif isinstance(domain, Int):
                params[name] = handle.suggest_int(name, domain.low, domain.high, log=domain.log)
            else:
                params[name] = handle.suggest_categorical(name, domain.values)
        return params


class _StudyOf:
    """A study that shows a pruner some of its trials only."""

    def __init__(self, study: optuna.Study, known: set[int]) -> None:
        self._study = study
        self._known = known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return [trial for trial in self._study.get_trials(deepcopy, states) if trial.number in self._known]

    @property
    def best_trial(self) -> FrozenTrial:
        done = self.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done:
            raise ValueError("No trials are completed yet.")
        smallest = self._study.direction is not StudyDirection.MAXIMIZE
        return min(done, key=lambda trial: cast("float", trial.value) * (1 if smallest else -1))


def _check_choice(name: str, domain: Domain) -> None:
    if not isinstance(domain, Choice):
        return
    for value in domain.values:
        if value is not None and not isinstance(value, bool | int | float | str):
            raise ValueError(
                f"space: Optuna cannot take the value {value!r} of {name!r}: must be None, a bool, a number or a "
                "string; choose among names of the values, and look them up in the function"
            )
