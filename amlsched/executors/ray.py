"""Executors on Ray clusters: running ones, or clusters on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amlsched._checks import check_number, check_text, whole_number
from amlsched.errors import MissingExtraError

if TYPE_CHECKING:
    from amlsched.executors._ray_executor import RayExecutor

__all__ = ["ray"]


def ray(
    address: str | None = None,
    max_workers: int | None = None,
    *,
    num_cpus: float = 1,
    num_gpus: float = 0,
    memory: int | None = None,
    resources: Mapping[str, float] | None = None,
    **options: Any,
) -> RayExecutor:
    """Runs calls on a Ray cluster.

    Args:
        address: Address of a running cluster, such as `"auto"` or `"ray://host:10001"`; `None` for one on this machine
            that is shut down with the run. If the program has started Ray itself, that is used and left running.
        max_workers: How many calls run at a time; `None` for as many as fit into the cluster at the start.
        num_cpus: Number of CPUs per call.
        num_gpus: Number of GPUs per call; may be a fraction. Ray sets `CUDA_VISIBLE_DEVICES`.
        memory: Bytes that Ray reserves for each call; `None` for no reservation.
        resources: Custom resources of the cluster per call, by name.
        **options: Any other argument of `ray.init`, such as `runtime_env`.

    Raises:
        MissingExtraError: Ray is not installed.
        TypeError: An argument has the wrong type.
        ValueError: A number is too small.
    """
    import importlib.util  # here and below, to keep `import amlsched` light

    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("with_ray", "ray", "ray")
    check_text("address", address, "auto")
    request: dict[str, Any] = {}
    for name, amount in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
        check_number(name, amount)
        request[name] = amount
    if memory is not None:
        request["memory"] = whole_number("memory", memory, also=" bytes, or None")
    if resources:
        if not isinstance(resources, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"resources={resources!r}: must be a mapping from names to numbers")
        for name, amount in resources.items():
            check_number(f"resources[{name!r}]", amount)
        request["resources"] = dict(resources)
    from amlsched.executors._ray_executor import RayExecutor

    return RayExecutor(address, max_workers, request, options)
