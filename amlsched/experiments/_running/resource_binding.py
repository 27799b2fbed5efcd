"""GPUs and CPUs of repetitions: what a config requests, and the workers that are bound to them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amlsched.batch_systems import SYSTEMS
from amlsched.errors import ResourcesError
from amlsched.resources import Request, cpus, devices, slots
from amlsched.resources.binding import bound_loky_context, bound_spawn_context, in_slot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from amlsched.experiments._config.resolve import ResolvedExperiment
    from amlsched.experiments.plan import Plan
    from amlsched.resources import Slot

__all__ = ["Binding", "bindings"]

_KEYS = ("gpus_per_rep", "cpus_per_rep")


@dataclass(frozen=True, slots=True)
class Binding:
    """The slots that the workers of an experiment are bound to.

    There are none if the workers are not bound.

    Attributes:
        slots: One for each worker.
    """

    slots: tuple[Slot, ...] = ()

    def options(self, executor: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of an executor whose workers are bound to the slots.

        Args:
            executor: Its name.
            given: Its other options.
        """
        if not self.slots or executor == "sequential":
            return dict(given)
        bound = {"processes": "mp_context", "loky": "context"}[executor]
        made = bound_spawn_context(self.slots) if executor == "processes" else bound_loky_context(self.slots)
        return {"threads_per_worker": None, **given, bound: made, "max_workers": len(self.slots)}

    def here(self, executor: str) -> contextlib.AbstractContextManager[None]:
        """Within this context, this process is bound to a slot if the executor runs its calls in this process."""
        return in_slot(self.slots[0]) if self.slots and executor == "sequential" else contextlib.nullcontext()


def bindings(plan: Plan, executor: str, max_workers: int | None = None) -> dict[str, Binding]:
    """The bindings of a plan's experiments, by name.

    `gpus_per_rep` and `cpus_per_rep` are set in an experiment or in the section for the batch system. In a job of a
    batch system, what the section requests has to be available; elsewhere, it is ignored if it is not.

    Args:
        plan: The plan.
        executor: Name of the executor.
        max_workers: At most this many workers; `None` for as many as there are slots.

    Raises:
        ResourcesError: A repetition fits nowhere, or the executor cannot bind its workers.
    """
    found: dict[str, Binding] = {}
    there: tuple[tuple[str, ...], tuple[int, ...]] | None = None
    for experiment in plan.experiments:
        request, is_own = _request(experiment, plan.resolved.cluster or {})
        if request == Request():
            found[experiment.name] = Binding()
            continue
        there = there or (devices(), cpus())
        at_most = 1 if executor == "sequential" else max_workers
        where = f"{experiment.name}, a repetition"
        try:
            divided = slots(request, *there, at_most, where)
        except ResourcesError:
            if is_own or _in_a_job():
                raise
            divided = ()
        if divided and executor not in ("processes", "loky", "sequential"):
            problem = f"cannot bind its workers, and {experiment.name} requests {request} for each repetition"
            raise ResourcesError(f"executor {executor}", problem, "--executor processes, loky or sequential")
        found[experiment.name] = Binding(divided)
    return found


def _request(experiment: ResolvedExperiment, section: Mapping[str, Any]) -> tuple[Request, bool]:
    """What a repetition requests, and whether it is requested by the experiment itself."""
    own = experiment.config.get("gpus_per_rep"), experiment.config.get("cpus_per_rep")
    gpus, n_cpus = (mine if mine is not None else section.get(key) for mine, key in zip(own, _KEYS, strict=True))
    return Request(gpus, n_cpus), own != (None, None)


def _in_a_job() -> bool:
    return any(system.own_job is not None for system in SYSTEMS.values())
