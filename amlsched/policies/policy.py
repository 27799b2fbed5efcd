"""The interface of policies: what waits goes in, what starts comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from amlsched.resources.pool import Lease, Node
    from amlsched.resources.request import Resources

__all__ = ["Placement", "Policy", "WaitingCall"]


@dataclass(slots=True, eq=False)
class WaitingCall:
    """A call that waits for resources.

    Attributes:
        number: Its number in the order of submission; unique.
        requests: What it asks for: alternatives, the preferred one first.
        seconds: How long it is expected to take; `None` if unknown. An alternative with a `time` has its own.
        priority: Calls with a higher one go first.
        submitted: When it was submitted, in seconds.
        key: Whatever its owner wants to find again in the placement.
    """

    number: int
    requests: tuple[Resources, ...]
    seconds: float | None = None
    priority: float = 0
    submitted: float = 0.0
    key: Any = None

    def expected(self, request: Resources) -> float | None:
        """How long it is expected to take with this alternative, in seconds."""
        return self.seconds if request.time is None else request.time


class Placement(NamedTuple):
    """A call that is to start.

    Attributes:
        call: The call, which the policy has forgotten.
        lease: What it holds from now on.
    """

    call: WaitingCall
    lease: Lease


class Policy(ABC):
    """Decides which calls start, and on which node.

    A policy holds the calls that wait. It is given the nodes, whose leases say what runs and when that is expected to
    end, and takes leases for the calls that it chooses. It knows no executor and no clock.
    """

    @abstractmethod
    def add(self, call: WaitingCall) -> None:
        """Let a call wait, which some node can hold."""

    @abstractmethod
    def discard(self, call: WaitingCall) -> None:
        """Forget a call that was cancelled; nothing happens if it does not wait."""

    @abstractmethod
    def choose(self, nodes: Sequence[Node], now: float, freed: Collection[Node] | None = None) -> list[Placement]:
        """Take leases for the calls that are to start now, and forget these calls.

        Args:
            nodes: All nodes; the same ones at each call, except that some may be new or lost.
            now: The time in seconds, in the same clock as `WaitingCall.submitted` and `Lease.until`.
            freed: The nodes on which a lease was given back since the last call; `None` if that is unknown. A policy
                may look only at these for calls that did not fit before.
        """

    def without_calls(self) -> Policy | None:
        """A policy without calls that would decide as this one does now, for estimates; `None` for a new one."""
        return None

    @abstractmethod
    def waiting(self) -> list[WaitingCall]:
        """The calls that wait, in no particular order."""

    @abstractmethod
    def __len__(self) -> int:
        """How many calls wait."""
