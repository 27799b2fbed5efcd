"""Search spaces of plain values, and the searchers that need nothing else: random and grid."""

from __future__ import annotations

import math
import random as random_numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from amlsched._checks import check_flag, check_whole, is_number
from amlsched.search.trial import Trial

if TYPE_CHECKING:
    from amlsched.search.trial import Told

__all__ = [
    "Choice",
    "Condition",
    "Float",
    "GridSearcher",
    "Int",
    "RandomSearcher",
    "Space",
    "domains_of",
    "grid",
    "random",
]

Condition: TypeAlias = Mapping[str, Any]
"""When a parameter is there: names of parameters that stand before it in the space, each with the value, or the list of
values, that it must have."""


@dataclass(frozen=True, slots=True)
class Float:
    """A real number.

    Args:
        low: The smallest value.
        high: The largest value.
        log: Whether to search on a logarithmic scale.
        when: When the parameter is there; `None` for always.
    """

    low: float
    high: float
    log: bool = False
    when: Condition | None = None

    def __post_init__(self) -> None:
        _check_range(self, self.low, self.high, self.log)

    def at(self, share: float) -> float:
        """The value at a share of the range, from 0 to 1."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return min(max(math.exp(low + share * (high - low)), self.low), self.high)
        return min(self.low + share * (self.high - self.low), self.high)


@dataclass(frozen=True, slots=True)
class Int:
    """A whole number; both ends are included.

    Args:
        low: The smallest value.
        high: The largest value.
        log: Whether to search on a logarithmic scale.
        when: When the parameter is there; `None` for always.
    """

    low: int
    high: int
    log: bool = False
    when: Condition | None = None

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or int(value) != value:
                raise ValueError(f"{self!r}: {name}={value!r} must be a whole number")
        _check_range(self, self.low, self.high, self.log)

    def at(self, share: float) -> int:
        """The value at a share of the range, from 0 to 1."""
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            value = round(math.exp(low + share * (high - low)))
        else:
            value = self.low + math.floor(share * (self.high - self.low + 1))
        return min(max(value, self.low), self.high)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values. A plain list in a space means the same.

    Args:
        values: The values.
        when: When the parameter is there; `None` for always.
    """

    values: Sequence[Any]
    when: Condition | None = None

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.values), list | tuple) or not self.values:
            raise ValueError(f"Choice({self.values!r}): must be a list of at least one value")

    def at(self, share: float) -> Any:
        """The value at a share of the list, from 0 to 1."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]


Domain: TypeAlias = Float | Int | Choice
Space: TypeAlias = Mapping[str, Any]
"""Parameters by name: a `Float`, an `Int`, a `Choice`, a list of values, or a value that does not change."""


def domains_of(space: Space) -> dict[str, Domain]:
    """A space in which each parameter has a domain.

    Raises:
        TypeError: It is not a mapping from names.
        ValueError: A condition names no parameter that stands before.
    """
    if not isinstance(cast("object", space), Mapping) or not space:
        raise TypeError(
            f"space={space!r}: must be a mapping from the names of parameters, such as {{'lr': Float(0, 1)}}"
        )
    domains: dict[str, Domain] = {}
    for name, given in space.items():
        if not isinstance(cast("object", name), str):
            raise TypeError(f"space: the name of a parameter must be a string, not {name!r}")
        if isinstance(given, Float | Int | Choice):
            domain: Domain = given
        else:
            domain = Choice(cast("list[object]", given) if isinstance(given, list) else [given])
        for other in domain.when or ():
            if other not in domains:
                raise ValueError(
                    f"space: {name!r} depends on {other!r}, which does not stand before it: there is "
                    f"{', '.join(map(repr, domains)) or 'no parameter'} before it"
                )
        domains[name] = domain
    return domains


def is_there(domain: Domain, params: Mapping[str, Any]) -> bool:
    """Whether a parameter is there, by the values of those before it."""
    for name, wanted in (domain.when or {}).items():
        if name not in params:
            return False
        several = cast("Sequence[object]", wanted) if isinstance(wanted, list | tuple) else [wanted]
        if params[name] not in several:
            return False
    return True


class RandomSearcher:
    """Proposes independent random parameters, without end.

    Args:
        space: The parameters.
        seed: The same seed gives the same trials.
    """

    quick = True

    def __init__(self, space: Space, seed: int = 0) -> None:
        self._domains = list(domains_of(space).items())
        self._conditional = any(domain.when for _, domain in self._domains)
        check_whole("seed", seed, 0)
        self._shares = random_numbers.Random(seed)

    def ask(self, n: int, /) -> list[Trial]:
        """Propose `n` trials."""
        return [Trial(self.params()) for _ in range(n)]

    def tell(self, results: Sequence[tuple[Trial, Told]], /) -> None:
        """Do nothing: it does not learn."""

    def params(self) -> dict[str, Any]:
        """Random parameters."""
        share = self._shares.random
        if not self._conditional:
            return {name: domain.at(share()) for name, domain in self._domains}
        params: dict[str, Any] = {}
        for name, domain in self._domains:
            value = domain.at(share())  # drawn also if it is not there: one condition does not shift all that follow
            if is_there(domain, params):
                params[name] = value
        return params


class GridSearcher:
    """Proposes each combination of values once.

    Args:
        space: The parameters; none of them a `Float`, as that has no list of values.
    """

    quick = True

    def __init__(self, space: Space) -> None:
        self._domains = list(domains_of(space).items())
        for name, domain in self._domains:
            if isinstance(domain, Float):
                raise ValueError(f"space: a grid cannot take {name!r}, {domain!r}: give a list of its values")
        self._left = self._combinations(0, {})

    def ask(self, n: int, /) -> list[Trial]:
        """Propose the next `n` combinations, or those that are left."""
        return [Trial(params) for params in islice(self._left, n)]

    def tell(self, results: Sequence[tuple[Trial, Told]], /) -> None:
        """Do nothing: it does not learn."""

    def _combinations(self, place: int, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if place == len(self._domains):
            yield params
            return
        name, domain = self._domains[place]
        if not is_there(domain, params):
            yield from self._combinations(place + 1, params)
            return
        values = range(domain.low, domain.high + 1) if isinstance(domain, Int) else cast("Choice", domain).values
        for value in values:
            yield from self._combinations(place + 1, params | {name: value})


def random(space: Space, seed: int = 0) -> RandomSearcher:
    """A searcher that proposes independent random parameters; see `RandomSearcher`."""
    return RandomSearcher(space, seed)


def grid(space: Space) -> GridSearcher:
    """A searcher that proposes each combination of values once; see `GridSearcher`."""
    return GridSearcher(space)


def _check_range(domain: Float | Int, low: object, high: object, log: object) -> None:
    check_flag("log", log)
    for name, value in (("low", low), ("high", high)):
        if not is_number(value) or not math.isfinite(cast("float", value)):
            raise ValueError(f"{domain!r}: {name}={value!r} must be a finite number")
    if not cast("float", low) < cast("float", high):
        raise ValueError(f"{domain!r}: low must be below high")
    if log and cast("float", low) <= 0:
        raise ValueError(f"{domain!r}: log=True needs low above 0")
