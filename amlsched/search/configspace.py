"""Searches over a space of ConfigSpace: random or quasi-random configurations."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

from amlsched._checks import whole_number
from amlsched._surroundings import import_extra
from amlsched.search.trial import Trial

import_extra("ConfigSpace", "amlsched.search.configspace", "ConfigSpace", "configspace")
from ConfigSpace import (  # noqa: E402
    CategoricalHyperparameter,
    Configuration,
    ConfigurationSpace,
    Constant,
    OrdinalHyperparameter,
    util,
)
from ConfigSpace.exceptions import ForbiddenValueError  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from amlsched.search.trial import Told

__all__ = ["ConfigSpaceSearcher", "plain"]

_TRIES = 1000


class ConfigSpaceSearcher:
    """Proposes configurations of a space of ConfigSpace, without end. Its conditions and forbidden clauses hold.

    The function gets the values of the active hyperparameters as `trial.params`.

    Args:
        space: The space.
        sampler: `"random"` for independent configurations, by the distributions of the space; `"sobol"` for a scrambled
            Sobol sequence, which covers the space more evenly. It needs scipy, and takes uniform distributions.
        seed: The same seed gives the same configurations.

    Raises:
        ValueError: `sampler` is neither.
        MissingExtraError: scipy is not installed.
    """

    quick = True

    def __init__(
        self, space: ConfigurationSpace, sampler: Literal["random", "sobol"] = "random", seed: int = 0
    ) -> None:
        if not isinstance(space, ConfigurationSpace):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"space={space!r}: must be a ConfigurationSpace")
        if sampler not in ("random", "sobol"):
            raise ValueError(f"sampler={sampler!r}: must be 'random' or 'sobol'")
        seed = whole_number("seed", seed, 0, "")
        self._space = deepcopy(space)  # so that nobody else draws its random numbers
        self._space.seed(seed)
        self._points: Any = None
        if sampler == "sobol":
            qmc = import_extra("scipy.stats.qmc", "sampler='sobol'", "scipy", "configspace")
            self._points = qmc.Sobol(len(self._space), seed=seed)

    def ask(self, n: int, /) -> list[Trial]:
        """Propose `n` configurations."""
        return [Trial(plain(self._one())) for _ in range(n)]

    def tell(self, results: Sequence[tuple[Trial, Told]], /) -> None:
        """Do nothing: it does not learn."""

    def _one(self) -> Configuration:
        if self._points is None:
            return self._space.sample_configuration()
        for _ in range(_TRIES):
            shares: list[float] = self._points.random(1)[0].tolist()
            hyperparameters: list[Any] = list(self._space.values())  # pyright: ignore[reportUnknownArgumentType]
            values = {one.name: _at(one, share) for one, share in zip(hyperparameters, shares, strict=True)}
            try:
                configuration: Configuration = vars(util)["deactivate_inactive_hyperparameters"](values, self._space)
            except ForbiddenValueError:
                continue
            return configuration
        raise ValueError(f"{_TRIES} points in a row are forbidden by the clauses of the space")


def plain(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration, as plain objects of Python instead of numpy's."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in dict(configuration).items()}


def _at(hyperparameter: Any, share: float) -> Any:
    """The value of a hyperparameter at a share of its range, from 0 to 1."""
    if isinstance(hyperparameter, Constant):
        return hyperparameter.value
    values: Sequence[Any] | None = None
    if isinstance(hyperparameter, CategoricalHyperparameter):
        values = hyperparameter.choices
    elif isinstance(hyperparameter, OrdinalHyperparameter):
        values = hyperparameter.sequence
    if values is not None:
        return values[min(int(share * len(values)), len(values) - 1)]
    return hyperparameter.to_value(share)
