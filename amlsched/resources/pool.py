"""What a node has, and which of it calls hold now.

Values only: a lease says what a call got, and starting the call is up to others.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from amlsched._checks import check_whole
from amlsched._spelling import as_question, most_similar
from amlsched.errors import ResourcesError
from amlsched.resources.detect import cpus, free_memory, gpus, memory
from amlsched.resources.request import WHOLE, as_memory, in_parts, is_sequence, named_parts, shown_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

    from amlsched.resources.request import Resources

__all__ = ["HERE", "Amounts", "Lease", "Node", "Pool", "Shortage", "refuse_impossible", "replace_name"]

logger = logging.getLogger(__name__)
HERE = "this machine"
"""Name of a pool that was given none."""
_UNCOUNTED = 1 << 62
"""More memory than any node has, for a pool whose memory is not counted."""


@dataclass(frozen=True, slots=True, init=False)
class Pool:
    """What calls may use on one node.

    Args:
        cpus: Number of CPUs.
        memory: Memory for all calls, such as `"32 GB"`; `None` not to count it.
        gpus: The GPUs, as in `CUDA_VISIBLE_DEVICES`: numbers, UUIDs or names of MIG instances; or how many there are.
        gpu_memory: Memory of each GPU, such as `"40 GB"`, or a list with one amount for each; `None` not to count it.
        custom: Amounts of resources with names of your own, such as `{"licence": 2}`.
        name: Name of the node in messages.

    Attributes:
        cpus: Number of CPUs.
        memory: Memory in bytes; `None` if it is not counted.
        gpus: The GPUs.
        gpu_memory: Memory of each GPU in bytes; `None` if it is not counted.
        custom: Amounts by name.
        name: Name of the node.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An amount is negative or has an unknown unit, a GPU is listed twice, or `gpu_memory` has not one
            amount for each GPU.
    """

    cpus: float
    memory: int | None
    gpus: tuple[str, ...]
    gpu_memory: tuple[int, ...] | None
    custom: Mapping[str, float] = field(hash=False)
    name: str

    def __init__(
        self,
        cpus: float,
        memory: str | None = None,
        gpus: int | Sequence[str] = (),
        gpu_memory: str | Sequence[str] | None = None,
        custom: Mapping[str, float] | None = None,
        *,
        name: str = HERE,
    ) -> None:
        if not in_parts("cpus", cpus):
            raise ValueError(f"cpus={cpus!r}: a pool needs more than 0")
        named_parts(custom)
        devices = _devices(gpus)
        values: dict[str, object] = {
            "cpus": cpus,
            "memory": None if memory is None else as_memory("memory", memory),
            "gpus": devices,
            "gpu_memory": _gpu_memory(gpu_memory, devices),
            "custom": dict(custom or {}),
            "name": str(name),
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @classmethod
    def here(cls, *, reserve: str | None = None, custom: Mapping[str, float] | None = None) -> Self:
        """What this process may use of this machine now: its CPUs, the memory that is free, and its GPUs.

        Args:
            reserve: Memory to keep free, such as `"2 GiB"`; `None` for 5 % of what is free.
            custom: Amounts of resources with names of your own.

        Raises:
            ResourcesError: The reserve is more than what is free.
            OSError: The system does not say how much memory it has.
        """
        free, found = free_memory(), gpus().found
        kept = free // 20 if reserve is None else as_memory("reserve", reserve)
        if kept >= free:
            problem = f"reserve={reserve!r}, but only {shown_memory(free)} of memory are free"
            raise ResourcesError("Pool.here", problem, "reserve less")
        known = [f"{each.usable_bytes} B" for each in found if each.usable_bytes]
        return cls(
            len(cpus()),
            f"{free - kept} B",
            [each.name for each in found],
            known if len(known) == len(found) else None,
            custom,
        )

    def warn_if_larger_than_this_machine(self) -> None:
        """Log a warning if it has more CPUs, memory or GPUs than this process may use."""
        here = len(cpus())
        if self.cpus > here:
            logger.warning("the pool has %g CPUs, but this process may use %d of this machine", self.cpus, here)
        if self.memory is not None and self.memory > (there := memory()):
            has, may = shown_memory(self.memory), shown_memory(there)
            logger.warning("the pool has %s of memory, but this process may use %s of this machine", has, may)
        if self.gpus and len(self.gpus) > len((found := gpus()).found):
            logger.warning("the pool has %d GPUs, but this process may use %s", len(self.gpus), found)

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPUs"]
        parts += [f"{shown_memory(self.memory)} of memory"] if self.memory is not None else []
        if self.gpus:
            of_memory = f" of {shown_memory(max(self.gpu_memory))}" if self.gpu_memory else ""
            parts.append(f"{len(self.gpus)} GPUs{of_memory}")
        parts += [f"{amount:g} {name}" for name, amount in self.custom.items()]
        return f"{self.name} with {', '.join(parts)}"


def replace_name(pool: Pool, name: str) -> Pool:
    """The same amounts for a node of another name."""
    renamed = copy.copy(pool)
    object.__setattr__(renamed, "name", name)
    return renamed


def _devices(gpus: object) -> tuple[str, ...]:
    if not is_sequence(gpus):
        check_whole("gpus", gpus, 0, " or a list of GPUs, such as ['0', '1']")
        return tuple(map(str, range(cast("int", gpus))))
    devices = tuple(cast("Sequence[Any]", gpus))
    if not all(isinstance(each, str) and each for each in devices):
        raise TypeError(f"gpus={gpus!r}: must be strings, such as ['0', '1'], or the number of GPUs")
    if len(set(devices)) < len(devices):
        raise ValueError(f"gpus={gpus!r}: a GPU is listed twice")
    return devices


def _gpu_memory(given: object, devices: Sequence[str]) -> tuple[int, ...] | None:
    if given is None:
        return None
    if not is_sequence(given):
        return (as_memory("gpu_memory", given),) * len(devices)
    amounts = tuple(as_memory("gpu_memory", each) for each in cast("Sequence[Any]", given))
    if len(amounts) != len(devices):
        raise ValueError(f"gpu_memory={given!r}: has {len(amounts)} amounts for {len(devices)} GPUs")
    return amounts


class Amounts:
    """Free amounts of each resource; GPUs one by one.

    Attributes:
        cpus: CPUs in 1/10,000.
        memory: Bytes.
        shares: What is free of each GPU, in 1/10,000.
        gpu_memory: Bytes on each GPU.
        custom: Custom resources by name, in 1/10,000.
        calls: How many more calls may run, whatever they ask for.
    """

    __slots__ = ("calls", "cpus", "custom", "gpu_memory", "memory", "shares")

    calls: int

    cpus: int
    memory: int
    shares: list[int]
    gpu_memory: list[int]
    custom: dict[str, int]

    def __init__(self, pool: Pool, calls: int = _UNCOUNTED) -> None:
        self.calls = calls
        self.cpus = in_parts("cpus", pool.cpus)
        self.memory = _UNCOUNTED if pool.memory is None else pool.memory
        self.shares = [WHOLE] * len(pool.gpus)
        self.gpu_memory = list(pool.gpu_memory) if pool.gpu_memory is not None else [_UNCOUNTED] * len(pool.gpus)
        self.custom = named_parts(pool.custom)

    @classmethod
    def together(cls, pools: Iterable[Pool]) -> Amounts:
        """What several pools have together; memory that one of them does not count is not counted."""
        total = cls.__new__(cls)
        total.cpus = total.memory = 0
        total.calls = _UNCOUNTED
        total.shares, total.gpu_memory, total.custom = [], [], {}
        for each in map(cls, pools):
            total.cpus, total.memory = total.cpus + each.cpus, total.memory + each.memory
            total.shares += each.shares
            total.gpu_memory += each.gpu_memory
            for name, parts in each.custom.items():
                total.custom[name] = total.custom.get(name, 0) + parts
        return total

    def copy(self) -> Amounts:
        """A copy that can be changed."""
        copied = Amounts.__new__(Amounts)
        copied.cpus, copied.memory, copied.custom = self.cpus, self.memory, self.custom.copy()
        copied.calls = self.calls
        copied.shares, copied.gpu_memory = self.shares.copy(), self.gpu_memory.copy()
        return copied

    def fitting(self, request: Resources, within: Amounts | None = None) -> tuple[int, ...] | None:
        """The GPUs on which a request fits, by index; `None` if it does not fit, `()` if it needs none.

        A fraction goes to the GPU with the least free share on which it fits, so that others stay whole.

        Args:
            request: The request.
            within: Other amounts in which it must fit as well, on the same GPUs.
        """
        if request.cpu_parts > self.cpus or request.memory > self.memory or self.calls < 1:
            return None
        for name, parts in request.custom_parts:
            if parts > self.custom.get(name, 0):
                return None
        if within is not None and within.fitting(request) is None:
            return None
        if not request.gpu_parts:
            return ()
        share = min(request.gpu_parts, WHOLE)
        free = [
            (self.shares[index], self.gpu_memory[index], index)
            for index in range(len(self.shares))
            if share <= self.shares[index]
            and request.gpu_memory <= self.gpu_memory[index]
            and (within is None or (share <= within.shares[index] and request.gpu_memory <= within.gpu_memory[index]))
        ]
        count = request.n_devices
        return tuple(index for *_, index in sorted(free)[:count]) if len(free) >= count else None

    def take(self, request: Resources, devices: Iterable[int]) -> None:
        """Subtract a request, on these GPUs."""
        self._add(request, devices, -1)

    def give_back(self, request: Resources, devices: Iterable[int]) -> None:
        """Add a request, on these GPUs."""
        self._add(request, devices, 1)

    def _add(self, request: Resources, devices: Iterable[int], sign: int) -> None:
        self.calls += sign
        self.cpus += sign * request.cpu_parts
        self.memory += sign * request.memory
        for name, parts in request.custom_parts:
            self.custom[name] += sign * parts
        share = min(request.gpu_parts, WHOLE)
        for index in devices:
            self.shares[index] += sign * share
            self.gpu_memory[index] += sign * request.gpu_memory


class Shortage(NamedTuple):
    """Why a node can never hold a request.

    Attributes:
        dimension: Name of the resource.
        asked: How much of it is requested, as text.
        has: How much of it the node has, likewise.
    """

    dimension: str
    asked: str
    has: str


class Lease:
    """What a call holds.

    Attributes:
        node: The node.
        request: What was requested.
        devices: The GPUs, by their index in the node's pool.
        until: When the call is expected to end, in the seconds of whoever took the lease.
        since: When it got the lease, if whoever took it has noted that; in the same seconds.
        active: Whether the call still holds it.
    """

    __slots__ = ("active", "devices", "node", "request", "since", "until")

    def __init__(self, node: Node, request: Resources, devices: tuple[int, ...], until: float) -> None:
        self.node, self.request, self.devices, self.until = node, request, devices, until
        self.since: float | None = None
        self.active = True

    def give_back(self) -> None:
        """Give back what the call held.

        Raises:
            RuntimeError: It was given back before.
        """
        self.node.give_back(self)

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs, as in `CUDA_VISIBLE_DEVICES`."""
        return tuple(self.node.pool.gpus[index] for index in self.devices)

    def __repr__(self) -> str:
        return f"<Lease of {self.request} on {self.node.pool.name}>"


class Node:
    """A node whose resources calls hold.

    Args:
        pool: What it has.
        max_calls: How many calls may run on it at a time, whatever they ask for; `None` for any number.
        ends: When it will exit by itself, in the seconds of the leases; infinity if that is unknown.
        lasts: How long it lasts from its start to then, in seconds.

    Attributes:
        pool: What it has.
        free: What no call holds.
        leases: What calls hold, in the order in which they got it.
        lost: Whether the node is gone: nothing fits on it any more.
        n_changes: How often something was taken or given back.
        ends: When it will exit by itself.
        lasts: How long it lasts.
    """

    __slots__ = ("_all", "ends", "free", "lasts", "leases", "lost", "n_changes", "pool")

    def __init__(
        self, pool: Pool, max_calls: int | None = None, ends: float = math.inf, lasts: float = math.inf
    ) -> None:
        self.pool, self.ends, self.lasts = pool, ends, lasts
        calls = _UNCOUNTED if max_calls is None else max_calls
        self.free = Amounts(pool, calls)
        self._all = Amounts(pool, calls)
        self.leases: dict[Lease, None] = {}
        self.lost = False
        self.n_changes = 0

    def fits(self, request: Resources) -> bool:
        """Whether a request fits now."""
        return not self.lost and self.free.fitting(request) is not None

    def can_hold(self, request: Resources) -> bool:
        """Whether a request fits when no call holds anything."""
        return not self.lost and self._all.fitting(request) is not None

    def can_hold_twice(self, request: Resources) -> bool:
        """Whether a request fits beside itself when no call holds anything."""
        amounts = self._all.copy()
        devices = amounts.fitting(request)
        if devices is None:
            return False
        amounts.take(request, devices)
        return amounts.fitting(request) is not None

    def take(self, request: Resources, until: float, devices: tuple[int, ...] | None = None) -> Lease:
        """Lease what is requested.

        Args:
            request: The request.
            until: When the call is expected to end.
            devices: The GPUs, as `Amounts.fitting` returned them; `None` to choose.

        Raises:
            RuntimeError: It does not fit now.
        """
        if devices is None:
            devices = self.free.fitting(request)
        if devices is None or self.lost:
            raise RuntimeError(f"{request} does not fit on {self.pool} now")
        self.free.take(request, devices)
        lease = Lease(self, request, devices, until)
        self.leases[lease] = None
        self.n_changes += 1
        return lease

    def give_back(self, lease: Lease) -> None:
        """End a lease; see `Lease.give_back`."""
        if not lease.active:
            raise RuntimeError(f"{lease!r} was given back before")
        lease.active = False
        del self.leases[lease]
        self.n_changes += 1
        self.free.give_back(lease.request, lease.devices)

    def twin(self, leases: dict[Lease, Lease]) -> Node:
        """A copy, with copies of its leases, which are added to a mapping; for simulations."""
        twin = Node(self.pool, None, self.ends, self.lasts)
        twin.free, twin.lost, twin._all = self.free.copy(), self.lost, self._all
        for lease in self.leases:
            leases[lease] = copied = Lease(twin, lease.request, lease.devices, lease.until)
            twin.leases[copied] = None
        return twin

    def share_of(self, request: Resources) -> float:
        """The largest part of its CPUs, memory or GPUs that a request asks for; more than 1 if it can never fit."""
        has = self._all
        asked = [(request.cpu_parts, has.cpus), (request.memory, has.memory), (request.gpu_parts, sum(has.shares))]
        return max((amount / there if there else math.inf for amount, there in asked if amount), default=0.0)

    def shortage(self, request: Resources) -> Shortage | None:
        """Why a request can never fit; `None` if it can."""
        everything, pool = self._all, self.pool
        if request.cpu_parts > everything.cpus:
            return Shortage("CPUs", f"{request.cpus:g}", f"{pool.cpus:g}")
        if request.memory > everything.memory:
            return Shortage("memory", shown_memory(request.memory), shown_memory(everything.memory))
        for name, parts in request.custom_parts:
            if parts > everything.custom.get(name, 0):
                return Shortage(repr(name), f"{request.custom[name]:g}", f"{pool.custom.get(name, 0):g}")
        if request.n_devices > len(pool.gpus):
            return Shortage("GPUs", f"{request.gpus:g}", str(len(pool.gpus)))
        if everything.fitting(request) is None:
            amounts = sorted(everything.gpu_memory, reverse=True)
            return Shortage(
                "GPU memory", shown_memory(request.gpu_memory), shown_memory(amounts[request.n_devices - 1])
            )
        return None


def refuse_impossible(requests: Sequence[Resources], nodes: Sequence[Node], where: str) -> None:
    """Raise ResourcesError if no node can ever hold one of the alternatives of a request.

    Args:
        requests: The alternatives.
        nodes: All nodes.
        where: What requests them, for the message.
    """
    present = [node for node in nodes if not node.lost]
    if any(node.can_hold(request) for request in requests for node in present):
        return
    asked = " or ".join(map(str, requests))
    if not present:
        raise ResourcesError(where, f"requests {asked}, but there is no node", "give the scheduler a pool")
    # The node that comes closest: where the fewest dimensions of the preferred alternative are short.
    largest = max(present, key=lambda node: _size(node, requests[0]))
    shortages = [short for request in requests if (short := largest.shortage(request)) is not None]
    words = [f"{short.dimension}: {short.asked} requested, {short.has} there" for short in shortages]
    problem = (
        f"requests {asked}, which no node can hold: the largest is {largest.pool}, "
        f"which is short of {', or of '.join(dict.fromkeys(words))}"
    )
    raise ResourcesError(where, problem, _remedy(shortages[0].dimension, largest.pool))


def _remedy(dimension: str, pool: Pool) -> str:
    """What to do about a request that no node can hold."""
    if dimension == "GPUs" and not pool.gpus:
        found = f"; on this machine: {gpus()}" if pool.name == HERE else ""
        return f"request none, or give the pool gpus=…{found}"
    name = dimension.strip("'")
    if dimension != name and name not in pool.custom:
        known = as_question(most_similar(name, list(pool.custom), 0.6))
        return f"{known}a pool has such a resource if it was given, as in custom={{{dimension}: 1}}"
    return "request less, or use a larger pool"


def _size(node: Node, request: Resources) -> tuple[float, ...]:
    pool = node.pool
    memory = float("inf") if pool.memory is None else pool.memory
    enough = (
        request.n_devices <= len(pool.gpus),
        request.memory <= memory,
        request.cpus <= pool.cpus,
        all(pool.custom.get(name, 0) >= amount for name, amount in request.custom.items()),
    )
    return (sum(enough), len(pool.gpus), memory, pool.cpus)
