"""Workers that are bound to a slot from their first instruction on: variables and affinity are inherited at the start.

So they hold before a worker imports anything, the main module of the driver included. A slot is free again when the
process that was started in it has ended, in whatever way.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing.context
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from amlsched.errors import ResourcesError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from multiprocessing.process import BaseProcess

    from amlsched.resources.slots import Slot

__all__ = ["bound_loky_context", "bound_spawn_context", "in_slot"]

_FREE_WITHIN_S = 10.0


@contextlib.contextmanager
def in_slot(slot: Slot) -> Generator[None]:
    """While in here, this thread is bound to a slot, and so is what it starts; the variables hold for the process."""
    variables = slot.environment
    before = {name: os.environ.get(name) for name in variables}
    affinity = os.sched_getaffinity(0)
    os.environ.update(variables)
    try:
        if slot.cpus is not None:
            os.sched_setaffinity(0, slot.cpus)
        yield
    finally:
        os.sched_setaffinity(0, affinity)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Leases:
    """Which process has which slot."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._holders: dict[Slot, BaseProcess | None] = dict.fromkeys(slots)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def for_start_of(self, process: BaseProcess) -> Generator[None]:
        """While in here, the process is started in a slot of its own."""
        with self._lock:
            slot = self._free_slot()
            with in_slot(slot):
                yield
            self._holders[slot] = process

    def _free_slot(self) -> Slot:
        deadline = time.monotonic() + _FREE_WITHIN_S  # the one before may have been killed a moment ago
        while True:
            for slot, holder in self._holders.items():
                if holder is None or _has_ended(holder):
                    return slot
            if time.monotonic() > deadline:
                problem = f"more workers than the {len(self._holders)} slots are to be started"
                raise ResourcesError("workers", problem, "lower max_workers")
            time.sleep(0.01)


def _has_ended(process: BaseProcess) -> bool:
    try:
        return process.exitcode is not None
    except ValueError:  # it was closed, which can be done only afterwards
        return True


def _bound(process_class: Any, leases: _Leases) -> Any:
    """A function in place of a class of processes, that starts each in a slot."""

    def made(*args: Any, **kwargs: Any) -> Any:
        process = process_class(*args, **kwargs)
        start = process.start

        def start_in_slot() -> None:
            del process.start  # it is pickled for the child, and this function cannot be
            with leases.for_start_of(process):
                start()

        process.start = start_in_slot
        return process

    return made


def bound_spawn_context(slots: Sequence[Slot]) -> multiprocessing.context.SpawnContext:
    """A context of multiprocessing whose processes start each in a slot of its own, for `ProcessPool(mp_context=…)`.

    Args:
        slots: As many as there are workers at most.
    """
    context = multiprocessing.context.SpawnContext()
    context.Process = _bound(multiprocessing.context.SpawnProcess, _Leases(slots))  # type: ignore[misc]
    return context


def bound_loky_context(slots: Sequence[Slot]) -> Any:
    """The same for loky's pool.

    Args:
        slots: As many as there are workers at most.
    """
    module: Any = importlib.import_module("loky.backend.context")
    context = module.LokyContext()
    context.Process = _bound(module.LokyContext.Process, _Leases(slots))
    return context
