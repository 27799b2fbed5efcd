"""What a call asks for: CPUs, memory, GPUs, an expected time, and resources with names of their own.

Amounts are whole numbers inside, of bytes or of 1/10,000: ten times 0.1 CPUs are one CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple, cast

from amlsched._checks import is_number, parsed
from amlsched.errors import ResourcesError
from amlsched.units import parse_memory, parse_seconds

__all__ = [
    "WHOLE",
    "Resources",
    "Requests",
    "Wanted",
    "alternatives",
    "as_memory",
    "in_parts",
    "is_sequence",
    "named_parts",
    "shown_memory",
]

WHOLE = 10_000
"""How many parts a CPU, a GPU or one of a custom resource has."""


@dataclass(frozen=True, slots=True, init=False)
class Resources:
    """What one call needs while it runs.

    Args:
        cpus: Number of CPUs. Fractions are exact to 1/10,000 and rounded down, so that three calls with 1/3 fit on one.
        memory: Memory of the call with all processes that it starts, such as `"1.5 GiB"`; `None` not to count it. Write
            an amount that was computed in bytes as `f"{n} B"`.
        gpus: A whole number of GPUs, or a fraction of one, which it shares with other calls.
        gpu_memory: Memory on each of its GPUs, such as `"8 GiB"`; `None` not to count it.
        time: How long the call is expected to take, such as `"10 min"`; `None` if unknown. Only an expectation: the
            order of calls depends on it, but no call is ended because it takes longer.
        custom: Amounts of resources that only the pool defines, such as `{"licence": 1}`.

    Attributes:
        cpus: Number of CPUs.
        memory: Memory in bytes; 0 if it is not counted.
        gpus: Number of GPUs, or a fraction of one.
        gpu_memory: Memory on each GPU in bytes; 0 if it is not counted.
        time: Expected seconds; `None` if unknown.
        custom: Amounts by name.
        cpu_parts: CPUs in 1/10,000.
        gpu_parts: GPUs in 1/10,000.
        custom_parts: Names and amounts in 1/10,000, in the order of the names.

    Raises:
        TypeError: An amount has the wrong type; the message names it and its value.
        ValueError: An amount is negative or has an unknown unit, or GPUs are neither whole nor a fraction of one.
    """

    cpus: float
    memory: int
    gpus: float
    gpu_memory: int
    time: float | None
    custom: Mapping[str, float] = field(hash=False)
    cpu_parts: int = field(repr=False, compare=False)
    gpu_parts: int = field(repr=False, compare=False)
    custom_parts: tuple[tuple[str, int], ...] = field(repr=False)

    def __init__(
        self,
        cpus: float = 1,
        memory: str | None = None,
        gpus: float = 0,
        gpu_memory: str | None = None,
        time: str | None = None,
        custom: Mapping[str, float] | None = None,
    ) -> None:
        gpu_parts = in_parts("gpus", gpus)
        if gpu_parts > WHOLE and gpu_parts % WHOLE:
            raise ValueError(
                f"gpus={gpus!r}: must be a whole number of GPUs, such as 2, or a fraction of one, such as 0.5"
            )
        if gpu_memory is not None and not gpu_parts:
            raise ValueError(f"gpu_memory={gpu_memory!r}, but gpus=0: add gpus=1, or a fraction of one to share it")
        named = named_parts(custom)
        values: dict[str, object] = {
            "cpus": cpus,
            "memory": 0 if memory is None else as_memory("memory", memory),
            "gpus": gpus,
            "gpu_memory": 0 if gpu_memory is None else as_memory("gpu_memory", gpu_memory),
            "time": None if time is None else _seconds(time),
            "custom": dict(custom or {}),
            "cpu_parts": in_parts("cpus", cpus),
            "gpu_parts": gpu_parts,
            "custom_parts": tuple((name, parts) for name, parts in named.items() if parts),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def with_memory(self, memory: int) -> Resources:
        """The same with another amount of memory, in bytes."""
        changed = copy.copy(self)
        object.__setattr__(changed, "memory", memory)
        return changed

    @property
    def n_devices(self) -> int:
        """On how many GPUs the call runs: 1 for a fraction."""
        return -(-self.gpu_parts // WHOLE)

    def __str__(self) -> str:
        parts = [_counted(self.cpus, "CPU")] if self.cpu_parts else []
        parts += [f"{shown_memory(self.memory)} of memory"] if self.memory else []
        parts += [_counted(self.gpus, "GPU")] if self.gpu_parts else []
        parts += [f"{shown_memory(self.gpu_memory)} of GPU memory"] if self.gpu_memory else []
        parts += [f"{amount:g} {name}" for name, amount in self.custom.items() if amount]
        return ", ".join(parts) or "nothing"


class Wanted(NamedTuple):
    """What the task of a call says about it.

    Attributes:
        requests: What the call requests: alternatives, the preferred one first.
        priority: Calls with a higher one go first.
        group: What is learned from the call applies to the calls of this group; `None` for those of its function.
        learns: Whether it requests what others of its group have needed. `requests` then has the least memory, if it
            has exceeded what it had.
    """

    requests: tuple[Resources, ...]
    priority: float = 0
    group: str | None = None
    learns: bool = False

    def with_memory(self, memory: int) -> Wanted:
        """The same with so much memory, or more, in bytes."""
        several = tuple(each if each.memory >= memory else each.with_memory(memory) for each in self.requests)
        return self._replace(requests=several)


def alternatives(given: Any, where: str, also: str = "") -> tuple[Resources, ...]:
    """The alternatives of a request, the preferred one first.

    Args:
        given: A `Resources`, or a sequence of them.
        where: What requests them, for the message.
        also: What else is valid there, likewise.

    Raises:
        TypeError: It is something else, or a sequence without or with something else.
    """
    if isinstance(given, Resources):
        return (given,)
    if is_sequence(given):
        several = tuple(cast("Sequence[Any]", given))
        if several and all(isinstance(each, Resources) for each in several):
            return several
    raise TypeError(
        f"{where}: resources={given!r}: must be a Resources, such as Resources(cpus=2, memory='1.5 GiB'), "
        f"a list of alternatives, or a function of the call's arguments that returns one of these{also}"
    )


class Requests:
    """What the calls of a task request, and to which group they belong.

    Args:
        task: Name of the task, for messages.
        resources: A `Resources`, alternatives, a function of the call's arguments, or `"learn"`; `None` for one CPU.
        priority: A number, or a function of the call's arguments.
        group: A name, or a function of the call's arguments; `None` for the function's own name.

    Attributes:
        learns: Whether `resources` is `"learn"`.

    Raises:
        TypeError: An argument is something else.
        ValueError: The name is empty.
    """

    def __init__(self, task: str, resources: Any, priority: Any, group: Any = None) -> None:
        self._task = task
        self._functions = {
            name: given
            for name, given in (("resources", resources), ("priority", priority), ("group", group))
            if callable(given)
        }
        self.learns = isinstance(resources, str) and resources == "learn"
        given = resources is not None and not self.learns and not callable(resources)
        requests = alternatives(resources, task, "; or 'learn'") if given else (Resources(),)
        number = 0.0 if callable(priority) else _as_priority(priority, task)
        name = None if group is None or callable(group) else _as_group(group, task)
        self._wanted = Wanted(requests, number, name, self.learns)

    def of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Wanted:
        """What the call with these arguments requests.

        Raises:
            ResourcesError: A function raised, or returned something else.
        """
        if not self._functions:
            return self._wanted
        values: dict[str, Any] = {}
        for name, function in self._functions.items():
            try:
                values[name] = _READERS[name](function(*args, **kwargs), "the function returned")
            except Exception as error:
                shown = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
                failure = f"{type(error).__name__}: {error}"
                problem = f"the function given as {name} failed for the arguments ({shown[:200]}): {failure}"
                raise ResourcesError(self._task, problem, "it gets the arguments of the call") from error
        requests, number, group, learns = self._wanted
        requests = values.get("resources", requests)
        return Wanted(requests, values.get("priority", number), values.get("group", group), learns)


def _as_group(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where}: group={value!r}: must be a string, or a function of the call's arguments")
    if not value:
        raise ValueError(f"{where}: group is empty: name the calls from which to learn, such as 'xgboost'")
    return value


def _as_priority(value: object, where: str) -> float:
    if not is_number(value) or not math.isfinite(number := float(cast("float", value))):
        raise TypeError(f"{where}: priority={value!r}: must be a number, or a function of the call's arguments")
    return number


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "resources": alternatives,
    "priority": _as_priority,
    "group": _as_group,
}


def is_sequence(value: object) -> bool:
    """Whether it is a sequence, such as a list, but not a string."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def in_parts(name: str, value: object) -> int:
    """An amount in 1/10,000, rounded down.

    Raises:
        TypeError: It is not a number.
        ValueError: It is negative, not finite, or so small that it would be rounded to nothing.
    """
    if not is_number(value):
        raise TypeError(f"{name}={value!r}: must be a number of at least 0")
    exact = Decimal(str(value)) if isinstance(value, int | float) else Decimal(str(float(cast("float", value))))
    if not exact.is_finite() or exact < 0:
        raise ValueError(f"{name}={value!r}: must be a number of at least 0")
    parts = int(exact * WHOLE)
    if exact and not parts:
        raise ValueError(f"{name}={value!r}: must be 0, or at least {1 / WHOLE:g}")
    return parts


def named_parts(custom: object) -> dict[str, int]:
    """Amounts of custom resources in 1/10,000, in the order of their names.

    Raises:
        TypeError: They are not a mapping from names to numbers.
        ValueError: A name is empty, or an amount negative.
    """
    if custom is None:
        return {}
    mapping = isinstance(custom, Mapping)
    if not mapping:
        raise TypeError(f"custom={custom!r}: must be a mapping from names to amounts, such as {{'licence': 1}}")
    amounts = cast("Mapping[Any, Any]", custom)
    for name in amounts:
        if not isinstance(name, str):
            raise TypeError(f"custom={custom!r}: the name {name!r} must be a string, such as 'licence'")
        if not name:
            raise ValueError(f"custom={custom!r}: a name is empty")
    return {name: in_parts(f"custom[{name!r}]", amounts[name]) for name in sorted(amounts)}


def as_memory(name: str, text: object) -> int:
    """Bytes of an amount of memory.

    Raises:
        TypeError: It is not a string.
        ValueError: Its unit is missing or unknown.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name}={text!r}: must be a string with its unit, such as '6 GB' or '1.5 GiB'; bytes are 'B'")
    return parsed(name, text, parse_memory)


def _seconds(text: object) -> float:
    if not isinstance(text, str):
        raise TypeError(f"time={text!r}: must be a string with its unit, such as '90 s' or '10 min'")
    return parsed("time", text, parse_seconds)


def shown_memory(amount: int) -> str:
    """Bytes as text, in the largest unit that gives at least 1: `1.5 GiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if amount >= 1024**power:
            return f"{amount / 1024**power:.4g} {unit}"
    return f"{amount} B"


def _counted(amount: float, unit: str) -> str:
    return f"{amount:g} {unit}" + ("" if amount == 1 else "s")
