"""What a call got of a pool, and how it finds out."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from amlsched.resources.pool import Lease

__all__ = ["Allocation", "allocation_of", "current", "current_allocation"]


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a call may use.

    Attributes:
        cpus: Number of CPUs.
        memory: Memory in bytes; 0 if it is not counted.
        gpus: The GPUs, as in `CUDA_VISIBLE_DEVICES`.
        gpu_share: What the call may use of each GPU: 1 for all of it, less for a fraction; 0 without GPUs.
        gpu_memory: Memory on each GPU in bytes; 0 if it is not counted.
        custom: Amounts of resources that the pool defines, by name.
        node: Name of the node in the pool.
    """

    cpus: float
    memory: int
    gpus: tuple[str, ...]
    gpu_share: float
    gpu_memory: int
    custom: Mapping[str, float] = field(hash=False)
    node: str

    @property
    def n_threads(self) -> int:
        """How many threads its libraries should start: one for each whole CPU, and at least one."""
        return max(1, int(self.cpus))


current: ContextVar[Allocation | None] = ContextVar("amlsched allocation", default=None)
"""What the call that runs in this thread may use; set around it."""


def current_allocation() -> Allocation | None:
    """What the call that runs in this thread may use; `None` outside of a call, or if its scheduler has no pool."""
    return current.get()


def allocation_of(lease: Lease) -> Allocation:
    """What a call with this lease may use."""
    request = lease.request
    share = min(request.gpus, 1)
    return Allocation(
        request.cpus, request.memory, lease.gpus, share, request.gpu_memory, request.custom, lease.node.pool.name
    )
