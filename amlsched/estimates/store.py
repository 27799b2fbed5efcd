"""What was seen of calls, by group and by equal arguments, and the file that keeps it for the next run."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from amlsched._files import file_bytes, replace_file
from amlsched.estimates.lognormal import (
    Line,
    Moments,
    Spread,
    of_equal_arguments,
    of_group,
    of_other_groups,
    with_running,
)
from amlsched.resources.request import Resources, shown_memory

__all__ = ["GroupStore", "Learned", "LearnedGroups", "Needs", "Store", "equal_arguments"]

logger = logging.getLogger(__name__)

_VERSION = 1
_MOST_ARGUMENTS = 10_000
"""How many different arguments of a group are kept; the oldest are dropped."""
_MOST_VALUES = 200
"""Arguments with more values than this, or a longer text, are not distinguished."""
_LONGEST_TEXT = 1000
_ENCODED = json.JSONEncoder(sort_keys=True).encode
_PEAK_FREEDOM = 2.0
_PEAK_VARIANCE = 0.1**2
"""What is assumed of the memory of the calls of a group, as strongly as two calls would say it: 10 % either way."""
_DEVIATIONS = 2.5
_LEAST_MARGIN = 1.05
_EQUAL_MARGIN = 1.15
"""For calls with equal arguments."""
_BESIDE_ITS_CPUS = 0.2
"""So much of another CPU is used by whatever runs beside a call."""
_FORMER_RUNS = 30.0
"""Former runs count as this many calls of a group at most, so that this run's calls soon outweigh them."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of the calls of a group.

    Attributes:
        n_calls: How many have been seen.
        seconds: The time that half of them take at most; a factor of the expected time, if their tasks have one.
        spread: The standard deviation of the logarithm of the time: 0.1 is about 10 %.
        peak_memory_bytes: The most memory that one has used, including its worker's; `None` if unknown.
        cpus: How many CPUs they used on average; `None` if unknown.
        asked_cpus: How many CPUs those of this run requested on average; `None` if they requested none.
        asked_memory_bytes: Likewise the memory of those that requested any.
        next_cpus: How many CPUs to request for the next call.
        next_memory_bytes: How much memory to request for it, with a margin; `None` if unknown.
    """

    n_calls: int
    seconds: float
    spread: float
    peak_memory_bytes: int | None = None
    cpus: float | None = None
    asked_cpus: float | None = None
    asked_memory_bytes: int | None = None
    next_cpus: int = 1
    next_memory_bytes: int | None = None

    @property
    def resources(self) -> Resources:
        """What to request for the next call."""
        memory = self.next_memory_bytes
        rounded = None if memory is None else f"{-(-memory // 2**20)} MiB"
        return Resources(self.next_cpus, rounded)


class LearnedGroups(dict[str, Learned]):
    """What is known of the calls of each group, by its name; as text, a table of what they used and requested."""

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("group", "calls", "time", "CPUs used", "of", "memory used", "of", "next time")]
        rows += [(group, *_shown(group, learned)) for group, learned in self.items()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _shown(group: str, learned: Learned) -> tuple[str, ...]:
    """The cells of a row of the table, but for the first one."""
    times = group.endswith(OVER_EXPECTED)
    return (
        f"{learned.n_calls:,}",
        f"{learned.seconds:.2g} {'times' if times else 's'}",
        "?" if learned.cpus is None else f"{learned.cpus:.1f}",
        "-" if learned.asked_cpus is None else f"{learned.asked_cpus:.3g}",
        "?" if learned.peak_memory_bytes is None else shown_memory(learned.peak_memory_bytes),
        "-" if learned.asked_memory_bytes is None else shown_memory(learned.asked_memory_bytes),
        str(learned.resources),
    )


OVER_EXPECTED = ", over its expected time"
"""The end of the name of a group whose times are factors of the expected time."""


class Needs(NamedTuple):
    """What the next call of a group probably needs, with a margin.

    Attributes:
        n_calls: How many have been seen.
        memory_bytes: Memory; 0 if it is unknown.
        cpus: Whole CPUs.
    """

    n_calls: int
    memory_bytes: int
    cpus: int


@dataclass(slots=True)
class GroupStore:
    """What was seen of a group.

    Attributes:
        times: Logarithms of the times; see `lognormal`.
        equal: The same by equal arguments, which have the same expected time.
        within: Their deviations from the mean of those with equal arguments; `n` is the number of degrees of freedom.
        cpus: CPUs that were used.
        peak: The most memory in bytes; 0 if unknown.
        peaks: Logarithms of the memory in bytes.
        equal_peaks: The most memory by equal arguments.
        asked_cpus: CPUs that were requested.
        asked_memory: Bytes of memory that were requested, by the calls that requested any.
    """

    times: Line = field(default_factory=Line)
    equal: dict[str, Moments] = field(default_factory=dict[str, Moments])
    within: Moments = field(default_factory=Moments)
    cpus: Moments = field(default_factory=Moments)
    peak: int = 0
    peaks: Moments = field(default_factory=Moments)
    equal_peaks: dict[str, int] = field(default_factory=dict[str, int])
    asked_cpus: Moments = field(default_factory=Moments)
    asked_memory: Moments = field(default_factory=Moments)

    def add(
        self, x: float, z: float, arguments: str | None, cpus: float | None = None, peak: int | None = None
    ) -> None:
        """Count a call."""
        self.times.add(x, z)
        if arguments is not None:
            seen = self.equal.pop(arguments, None) or Moments()
            before = seen.m2
            seen.add(z)
            self.equal[arguments] = seen  # the latest are the last
            if seen.n > 1:
                self.within.n += 1
                self.within.m2 += seen.m2 - before
            elif len(self.equal) > _MOST_ARGUMENTS:
                del self.equal[next(iter(self.equal))]
        if cpus is not None:
            self.cpus.add(cpus)
        if peak:
            self.peak = max(self.peak, peak)
            self.peaks.add(math.log(peak))
            if arguments is not None:
                self.equal_peaks[arguments] = max(peak, self.equal_peaks.pop(arguments, 0))
                if len(self.equal_peaks) > _MOST_ARGUMENTS:
                    del self.equal_peaks[next(iter(self.equal_peaks))]

    def needs(self, arguments: str | None) -> Needs | None:
        """What the next call with these arguments needs; `None` if none has been seen."""
        if not self.times.n:
            return None
        memory = float(self.equal_peaks.get(arguments or "", 0)) * _EQUAL_MARGIN
        if not memory and self.peaks.n:
            freedom = _PEAK_FREEDOM + max(0.0, self.peaks.n - 1)
            deviation = math.sqrt((_PEAK_FREEDOM * _PEAK_VARIANCE + self.peaks.m2) / freedom)
            memory = max(self.peak * _LEAST_MARGIN, math.exp(self.peaks.mean + _DEVIATIONS * deviation))
        cpus = max(1, math.ceil(self.cpus.mean - _BESIDE_ITS_CPUS)) if self.cpus.n else 1
        return Needs(round(self.times.n), math.ceil(memory), cpus)

    def merged(self, other: GroupStore) -> GroupStore:
        """What both have seen."""
        equal = {**self.equal}
        for arguments, seen in other.equal.items():
            equal[arguments] = equal.pop(arguments, Moments()).merged(seen)
        within = Moments(
            sum(max(0.0, seen.n - 1) for seen in equal.values()), 0.0, sum(seen.m2 for seen in equal.values())
        )
        dropped = list(equal)[: max(0, len(equal) - _MOST_ARGUMENTS)]
        for arguments in dropped:
            del equal[arguments]
        peaks = {
            arguments: max(self.equal_peaks.get(arguments, 0), other.equal_peaks.get(arguments, 0))
            for arguments in (*self.equal_peaks, *other.equal_peaks)
        }
        for arguments in list(peaks)[: max(0, len(peaks) - _MOST_ARGUMENTS)]:
            del peaks[arguments]
        return GroupStore(
            self.times.merged(other.times),
            equal,
            within,
            self.cpus.merged(other.cpus),
            max(self.peak, other.peak),
            self.peaks.merged(other.peaks),
            peaks,
            self.asked_cpus.merged(other.asked_cpus),
            self.asked_memory.merged(other.asked_memory),
        )


class Store:
    """What was seen in former runs, and in this one.

    Args:
        path: The file that keeps it; `None` for none.

    Raises:
        ValueError: A newer version of amlsched wrote the file.
        OSError: It cannot be read, or its folder cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._former: dict[str, GroupStore] = {}
        self._new: defaultdict[str, GroupStore] = defaultdict(GroupStore)
        if path is not None:
            if not path.parent.is_dir():
                raise FileNotFoundError(f"estimates={str(path)!r}: there is no folder {path.parent}: create it first")
            if not os.access(path.parent, os.W_OK):
                raise PermissionError(f"estimates={str(path)!r}: the folder {path.parent} cannot be written")
            self._former = _loaded(path)

    def add(
        self,
        group: str,
        x: float,
        z: float,
        arguments: str | None,
        cpus: float | None = None,
        peak: int | None = None,
    ) -> None:
        """Count a call of a group.

        Args:
            group: The group.
            x: The logarithm of its expected time, or 0.
            z: The logarithm of its time over the expected time, or over 1 s.
            arguments: The key of its arguments, if it has one.
            cpus: How many CPUs it used.
            peak: Its peak memory in bytes.
        """
        self._new[group].add(x, z, arguments, cpus, peak)

    def times(self, group: str) -> Line:
        """The logarithms of the times of a group; those of former runs count less."""
        former, new = self._former.get(group), self._new.get(group)
        times = Line() if former is None else former.times.weighing(_FORMER_RUNS)
        return times if new is None else times.merged(new.times)

    def of_others(self) -> Spread | None:
        """What all groups say about one of which nothing was seen; `None` if nothing was seen at all."""
        return of_other_groups(self.times(group) for group in (self._former.keys() | self._new.keys()))

    def knows_arguments(self, group: str) -> bool:
        """Whether arguments of a group have come again, or were seen in a former run."""
        new = self._new.get(group)
        return group in self._former or (new is not None and new.within.n > 0)

    def of_arguments(
        self, group: str, arguments: str, spread: Spread, x: float = 0.0, running: Sequence[float] = ()
    ) -> Spread | None:
        """What calls with these arguments say about the next one; `None` if none has finished.

        Args:
            group: The group.
            arguments: The key of the arguments.
            spread: What the group says.
            x: Of these calls.
            running: What `z` of those that run would be if they ended now.
        """
        stores = [store for store in (self._former.get(group), self._new.get(group)) if store is not None]
        seen, within = Moments(), Moments()
        for store in stores:
            seen = seen.merged(store.equal.get(arguments, Moments()))
            within = Moments(within.n + store.within.n, 0.0, within.m2 + store.within.m2)
        if not seen.n:
            return None
        corrected = with_running(seen, running)
        n, m2 = within.n + corrected.n - seen.n, within.m2 + corrected.m2 - seen.m2
        return of_equal_arguments(corrected, Moments(max(0.0, n), 0.0, max(0.0, m2)), spread, x)

    def needs(self, group: str, arguments: str | None) -> Needs | None:
        """What the next call of a group with these arguments needs; `None` if none has been seen."""
        former, new = self._former.get(group), self._new.get(group)
        if former is None or new is None:
            known = former or new
            return None if known is None else known.needs(arguments)
        own = new.needs(arguments)
        before = former.needs(arguments)
        if own is None or before is None:
            return own or before
        memory = max(own.memory_bytes, before.memory_bytes)
        return Needs(own.n_calls + before.n_calls, memory, max(own.cpus, before.cpus))

    def asked(self, group: str, cpus: float, memory: int) -> None:
        """Count what a call of a group requested."""
        found = self._new[group]
        found.asked_cpus.add(cpus)
        if memory:
            found.asked_memory.add(memory)

    @property
    def most_memory(self) -> int:
        """The most memory that a call has used, in bytes; 0 if unknown."""
        return max((group.peak for group in (*self._former.values(), *self._new.values())), default=0)

    def learned(self) -> LearnedGroups:
        """What is known of each group."""
        found = LearnedGroups()
        for group in sorted(self._former.keys() | self._new.keys()):
            both = self._former.get(group, GroupStore()).merged(self._new.get(group, GroupStore()))
            if both.times.n:
                spread = math.sqrt(of_group(both.times).variance)
                cpus = both.cpus.mean if both.cpus.n else None
                needs = both.needs(None)
                assert needs is not None
                found[group] = Learned(
                    round(both.times.n),
                    math.exp(both.times.z),
                    spread,
                    both.peak or None,
                    cpus,
                    both.asked_cpus.mean if both.asked_cpus.n else None,
                    round(both.asked_memory.mean) if both.asked_memory.n else None,
                    needs.cpus,
                    needs.memory_bytes or None,
                )
        return found

    def save(self) -> None:
        """Put what was seen into the file, together with what other programs have put there meanwhile.

        If that is not possible, a warning says so: no run ends for it.
        """
        if self.path is None or not self._new:
            return
        try:
            former = _loaded(self.path)
            for group, seen in self._new.items():
                former[group] = former.get(group, GroupStore()).merged(seen)
            replace_file(self.path, _encoded(former))
        except (OSError, ValueError) as error:
            logger.warning("what was learned could not be saved: %s", error)
            return
        self._former = former
        self._new.clear()


def _encoded(groups: Mapping[str, GroupStore]) -> str:
    def numbers(moments: Moments) -> list[float]:
        return list(astuple(moments))

    encoded = {
        group: {
            "times": list(astuple(store.times)),
            "cpus": numbers(store.cpus),
            "peak": store.peak,
            "peaks": numbers(store.peaks),
            "equal_peaks": store.equal_peaks,
            "equal": {key: numbers(seen) for key, seen in store.equal.items()},
        }
        for group, store in sorted(groups.items())
    }
    return json.dumps({"amlsched": "estimates", "version": _VERSION, "groups": encoded}, indent=1) + "\n"


def _loaded(path: Path) -> dict[str, GroupStore]:
    """What a file has; nothing if there is none, or if it is damaged and was put aside."""
    try:
        content = file_bytes(path)
    except FileNotFoundError:
        return {}
    try:
        raw: Any = json.loads(content)
        if raw["amlsched"] != "estimates":
            raise KeyError("amlsched")
        version = int(raw["version"])
        if version <= _VERSION:
            return {str(group): _decoded(store) for group, store in raw["groups"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        logger.warning("%s is damaged (%r), and is now %s: nothing is known of former runs", path, error, aside)
        return {}
    raise ValueError(
        f"estimates={str(path)!r}: was written by a newer version of amlsched (format {version}, this one reads "
        f"{_VERSION}): update amlsched, or use another file"
    )


def _decoded(raw: Mapping[str, Any]) -> GroupStore:
    def moments(given: Any) -> Moments:
        n, mean, m2 = map(float, given)
        if not (n >= 0 and m2 >= 0 and math.isfinite(n + mean + m2)):
            raise ValueError(f"{given} are no moments")
        return Moments(n, mean, m2)

    times = Line(*map(float, raw["times"]))
    if not (times.n >= 0 and times.xx >= 0 and times.zz >= 0 and math.isfinite(sum(astuple(times)))):
        raise ValueError(f"{raw['times']} are no times")
    equal = {str(key): moments(given) for key, given in raw["equal"].items()}
    peak = int(raw["peak"])
    peaks = moments(raw["peaks"]) if "peaks" in raw else Moments(1.0, math.log(peak)) if peak else Moments()
    equal_peaks = {str(key): int(given) for key, given in raw.get("equal_peaks", {}).items()}
    store = GroupStore(times, equal, Moments(), moments(raw["cpus"]), peak, peaks, equal_peaks)
    return store.merged(GroupStore())  # which computes what is not in the file


def equal_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """A short key of arguments that is the same for equal ones, in every process; `None` if they are not plain values.

    Plain are numbers, strings, `None`, and lists, tuples and mappings of these, if there are not too many.
    """
    if _count((args, kwargs), 0) > _MOST_VALUES:
        return None
    try:
        text = _ENCODED((args, kwargs))
    except (TypeError, ValueError):  # keys of several types, or a cycle
        return None
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _count(value: object, count: int) -> int:
    """How many plain values there are in a value, more than the maximum if one of them is not plain."""
    count += 1
    if value is None or isinstance(value, int | float):
        return count
    if isinstance(value, str):
        return count if len(value) < _LONGEST_TEXT else _MOST_VALUES + 1
    if isinstance(value, Mapping):
        parts: Any = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple):
        parts = cast("list[Any]", value)
    else:
        return _MOST_VALUES + 1
    for part in parts:
        if count > _MOST_VALUES:
            break
        count = _count(part, count)
    return count
