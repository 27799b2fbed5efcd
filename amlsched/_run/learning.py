"""What calls request that declare nothing: the first one of a kind much of a node, the others what was learned."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from amlsched.errors import MemoryLimitError
from amlsched.estimates.estimator import group_of
from amlsched.resources.request import Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amlsched.estimates.estimator import Estimator
    from amlsched.estimates.store import Needs
    from amlsched.future import Future
    from amlsched.resources.pool import Node

__all__ = ["LearnedRequests", "grown"]

_STEPS = 16
"""Memory is requested in steps of a sixteenth of a power of two, so that few different requests wait."""
_PART_OF_A_NODE = 0.5
"""What the first call of a kind requests of the largest node, if calls of other kinds are known."""
_TIMES_THE_LARGEST = 2.0
"""Or so many times the most memory of a known call, if that is more."""
_LOOK_AGAIN = 1.3
"""What waits is requested again when a kind has so many times as many calls as the last time."""


class _Kind:
    """Calls that learn from each other.

    Attributes:
        first: The call that runs without anything known of the kind, if one does.
        held: Those that wait until it has ended.
        waiting: Those that wait with a learned request.
        look_at: The number of calls at which to look again at what was learned.
        growing: Calls that exceeded what they had requested, with what they request now.
    """

    def __init__(self) -> None:
        self.first: Future[Any] | None = None
        self.held: dict[Future[Any], None] = {}
        self.waiting: dict[Future[Any], Resources] = {}
        self.look_at = 1
        self.growing: dict[Future[Any], int] = {}

    @property
    def least(self) -> int:
        """The least memory that a call requests, in bytes, while one has exceeded what was learned."""
        return max(self.growing.values(), default=0)


class LearnedRequests:
    """The requests of calls whose task has `resources="learn"`.

    Args:
        estimator: What has learned from the calls that have finished.
        nodes: Returns the nodes.
    """

    def __init__(self, estimator: Estimator, nodes: Callable[[], Sequence[Node]]) -> None:
        self._needs, self._most_memory, self._nodes = estimator.needs, estimator.most_memory, nodes
        self._kinds: defaultdict[str, _Kind] = defaultdict(_Kind)
        self._firsts: dict[Future[Any], Resources] = {}  # first calls that wait, and what they request

    def request(self, future: Future[Any], least: int) -> tuple[Resources, bool] | None:
        """What a call requests that begins to wait, and whether it goes first; `None` if it waits for another one.

        Args:
            future: The call.
            least: The least memory in bytes, if it has exceeded what it had.
        """
        kind = self._kind(future)
        needs = self._needs(future)
        if needs is not None:
            request = kind.waiting[future] = self._of_needs(needs, max(least, kind.least))
            return request, False
        if kind.first is not None and kind.first is not future and not least:
            kind.held[future] = None
            return None
        kind.first = future
        request = self._firsts[future] = self._of_first(least)
        return request, True

    def ended(self, future: Future[Any]) -> list[Future[Any]]:
        """Note the end of an attempt, in whatever way, and return the calls that are to request again."""
        kind = self._kind(future)
        self.drop(future)
        grew = kind.growing.pop(future, None) is not None
        first = kind.first is future
        if first:
            kind.first = None
        smaller = self.changed()
        needs = self._needs(future)
        if needs is None:
            return smaller + (list(kind.held)[:1] if first else [])  # it failed: the next one is the first
        if not (kind.held or grew or needs.n_calls >= kind.look_at):
            return smaller
        kind.look_at = math.ceil(needs.n_calls * _LOOK_AGAIN) + 1
        again, kind.held = [*smaller, *kind.held], {}
        return again + [
            other
            for other, request in kind.waiting.items()
            if (known := self._needs(other)) is not None and self._of_needs(known, kind.least) != request
        ]

    def changed(self) -> list[Future[Any]]:
        """The first calls that wait and would request something else now, as more is known of other kinds, or nodes."""
        if not self._firsts:
            return []
        now = self._of_first(0)
        return [future for future, request in self._firsts.items() if now != request]

    def drop(self, future: Future[Any]) -> None:
        """Forget a call that no longer waits: it was placed, has ended, or is about to request again."""
        kind = self._kind(future)
        kind.held.pop(future, None)
        kind.waiting.pop(future, None)
        self._firsts.pop(future, None)

    def grows(self, future: Future[Any], memory: int) -> list[Future[Any]]:
        """Note that a call has exceeded what it had and requests more; until it ends, so do the returned ones."""
        kind = self._kind(future)
        kind.growing[future] = memory
        return [other for other, request in kind.waiting.items() if request.memory < memory]

    def _kind(self, future: Future[Any]) -> _Kind:
        return self._kinds[group_of(future)]

    def _largest(self) -> tuple[float, int | None]:
        """CPUs and memory of the largest node."""
        pools = [node.pool for node in self._nodes() if not node.lost]
        amounts = [pool.memory for pool in pools]
        counted = [amount for amount in amounts if amount is not None]
        return max((pool.cpus for pool in pools), default=1), max(counted) if counted == amounts and counted else None

    def _of_first(self, least: int) -> Resources:
        """One CPU, and all memory of the largest node; half of it, or more, if other kinds are known."""
        _, largest = self._largest()
        if largest is None:
            return Resources()
        known = self._most_memory()
        wanted = max(_PART_OF_A_NODE * largest, _TIMES_THE_LARGEST * known, least) if known else largest
        return Resources(1).with_memory(int(min(wanted, largest)))

    def _of_needs(self, needs: Needs, least: int) -> Resources:
        cpus, largest = self._largest()
        memory = 0 if largest is None else min(_in_steps(max(needs.memory_bytes, least)), largest)
        return Resources(min(needs.cpus, cpus)).with_memory(memory)


def _in_steps(amount: int) -> int:
    """An amount, rounded up to few significant digits."""
    step = max(1, (1 << max(0, amount.bit_length() - 1)) // _STEPS)
    return -(-amount // step) * step


def grown(error: BaseException, asked: int, factor: float, most: float) -> int | None:
    """How much memory the next attempt of a call requests that ran out of it.

    Args:
        error: Its exception.
        asked: What it had, in bytes.
        factor: By which to multiply that.
        most: The most that any node has.

    Returns:
        Bytes; `None` if there is no more.
    """
    used = error.used_bytes if isinstance(error, MemoryLimitError) else 0
    amount = int(min(max(asked * factor, used * 1.1), most))
    return amount if amount > asked else None
