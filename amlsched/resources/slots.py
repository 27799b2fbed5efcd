"""Divides CPUs and GPUs into slots, one per worker."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amlsched.errors import ResourcesError
from amlsched.resources.binding import thread_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Request", "Slot", "slots"]

VARIABLE = "AMLSCHED_SLOT"
"""Environment variable of processes that are bound to a slot."""


@dataclass(frozen=True, slots=True)
class Request:
    """The resources that a repetition requests.

    Attributes:
        gpus: A whole number of GPUs, or a fraction of one; `None` not to bind it to GPUs.
        cpus: A number of CPUs; `None` for an even share if it is bound to GPUs.
    """

    gpus: float | None = None
    cpus: int | None = None

    def __str__(self) -> str:
        parts = [f"{self.gpus:g} GPUs"] if self.gpus is not None else []
        parts += [f"{self.cpus} CPUs"] if self.cpus is not None else []
        return " and ".join(parts) or "nothing"


@dataclass(frozen=True, slots=True)
class Slot:
    """The resources of one worker.

    Attributes:
        index: Number of the slot, from 0.
        devices: The GPUs, as in `CUDA_VISIBLE_DEVICES`; `None` to leave that variable unchanged.
        cpus: The CPUs; `None` for all.
    """

    index: int
    devices: tuple[str, ...] | None = None
    cpus: frozenset[int] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a worker in this slot."""
        variables = {VARIABLE: str(self.index)}
        if self.devices is not None:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
        if self.cpus is not None:
            variables |= thread_environment(len(self.cpus))
        return variables


def slots(
    request: Request,
    devices: Sequence[str],
    cpus: Sequence[int],
    at_most: int | None = None,
    where: str = "a repetition",
) -> tuple[Slot, ...]:
    """Divide CPUs and GPUs into slots of the size of a request.

    Fractions of GPUs are assigned in turn: with two GPUs and fractions of 0.5, the slots 0 and 2 are on the first GPU.
    A fraction of 0.3 fits three times on a GPU. The CPUs of a slot have consecutive numbers if possible.

    Args:
        request: The resources of each slot.
        devices: The available GPUs.
        cpus: The available CPUs.
        at_most: Maximum number of slots; `None` for as many as fit.
        where: What requests them, for the message.

    Raises:
        ResourcesError: Not even one slot fits; the message says what is available.
    """
    n_cpus = len(cpus)
    limits = [math.inf if at_most is None else at_most]
    on_devices: list[tuple[str, ...]] = []
    if request.gpus is not None:
        on_devices = _divided(request.gpus, devices)
        limits.append(len(on_devices))
        if not on_devices:
            shown = f"{len(devices)} ({','.join(devices)})" if devices else "none"
            remedy = "use a smaller gpus_per_rep, or a machine or an allocation with more"
            raise ResourcesError(where, f"requests {request.gpus:g} GPUs, but there are {shown}", remedy)
    if request.cpus is not None:
        limits.append(n_cpus // request.cpus)
        if request.cpus > n_cpus:
            remedy = "use a smaller cpus_per_rep, or a machine or an allocation with more"
            raise ResourcesError(where, f"requests {request.cpus} CPUs, but there are {n_cpus}", remedy)
    if request.gpus is None and request.cpus is None:
        return ()
    count = int(min(limits))
    each = request.cpus or n_cpus // count
    return tuple(
        Slot(
            index,
            on_devices[index] if request.gpus is not None else None,
            frozenset(cpus[index * each : (index + 1) * each]) if each else None,
        )
        for index in range(count)
    )


def _divided(gpus: float, devices: Sequence[str]) -> list[tuple[str, ...]]:
    if gpus < 1:
        times = math.floor(1 / gpus + 1e-9)
        return [(device,) for _ in range(times) for device in devices]
    size = int(gpus)
    return [tuple(devices[first : first + size]) for first in range(0, len(devices) - size + 1, size)]
