"""Calls on a Ray cluster: one that runs already, or one of this machine."""

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
    """Calls run on a Ray cluster.

    Args:
        address: Of a running cluster, such as `"auto"` or `"ray://host:10001"`; `None` for one on this machine that
            ends with the run. A Ray that the program has started itself is used, and left as it is.
        max_workers: How many calls run at a time; `None` for as many as fit into the cluster as it is at the start.
        num_cpus: CPUs that each call is given.
        num_gpus: GPUs that each call is given; a share below 1 too. Ray sets `CUDA_VISIBLE_DEVICES`.
        memory: Bytes that Ray reserves for each call; `None` for no reservation.
        resources: Custom resources of the cluster that each call takes, by their names.
        **options: Any other argument of `ray.init`, such as `runtime_env`.

    Raises:
        MissingExtraError: Ray is not installed.
        TypeError: An argument has a type that it cannot have.
        ValueError: A number is below what it can be.
    """
    import importlib.util  # here and below: not for `import amlsched`

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
