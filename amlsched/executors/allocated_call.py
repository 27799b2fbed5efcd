"""A function that is bound to what its call got, and sent to a worker in place of the submitted one."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from amlsched._proc import own_mapped_files
from amlsched.errors import ResourcesError
from amlsched.executors.user_function import drop_frame
from amlsched.resources.allocation import Allocation, current

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["AllocatedCall", "Binding"]

Binding = Literal["worker", "call", "executor", "nothing"]
"""What is bound: the worker, until a call with another allocation; the process, for this call; the worker except for
its GPUs, which its executor has selected; or nothing, as for threads, which share a process with other calls."""


class AllocatedCall:
    """Wraps a function for one call that got resources; sent to a worker in its place.

    Args:
        function: The function.
        allocation: What the call may use.
        binding: What to bind to it.
        gpu_variable: The environment variable that selects GPUs; empty to leave it as it is.
    """

    def __init__(
        self, function: Callable[..., Any], allocation: Allocation, binding: Binding, gpu_variable: str
    ) -> None:
        self.__wrapped__ = function
        self.allocation, self.binding, self.gpu_variable = allocation, binding, gpu_variable
        self.__name__ = getattr(function, "__name__", None) or type(function).__name__
        self.__qualname__: str = getattr(function, "__qualname__", self.__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        given = self.allocation
        values = (given.cpus, given.memory, given.gpus, given.gpu_share, given.gpu_memory, given.custom, given.node)
        return _rebuilt, (self.__wrapped__, values, self.binding, self.gpu_variable)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function with what it got, and return its result."""
        if self.binding == "executor" and self.allocation.gpus:
            selected = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            self.allocation = replace(self.allocation, gpus=tuple(filter(None, selected.split(","))))
        token = current.set(self.allocation)
        before: dict[str, str | None] = {}
        try:
            if self.binding in ("worker", "executor"):
                self._bind_worker()
            elif self.binding == "call":
                variables = self._environment()
                before = {name: os.environ.get(name) for name in variables}
                os.environ.update(variables)
            return self.__wrapped__(*args, **kwargs)
        except BaseException as error:
            drop_frame(error)
            raise
        finally:
            _restore(before)
            current.reset(token)

    def _bind_worker(self) -> None:
        """Set variables in this worker, and limit the threads of libraries that are loaded.

        Raises:
            ResourcesError: The worker has used other GPUs, which it cannot give up.
        """
        global _bound
        variable, n_threads = self.gpu_variable, self.allocation.n_threads
        selected = ",".join(self.allocation.gpus)
        if _bound == (variable, selected, n_threads):
            return
        if _bound is not None and variable and _bound[1] != selected and _uses_gpus():
            raise ResourcesError(
                "a worker",
                f"has used the GPUs {_bound[1] or '(none)'}, and cannot change to {selected or '(none)'}: "
                "its libraries select GPUs once",
                "start a new process for each call: max_tasks_per_child=1",
            )
        os.environ.update(self._environment())
        from amlsched.executors.worker_setup import limit_loaded_libraries

        limit_loaded_libraries(n_threads)
        _bound = variable, selected, n_threads

    def _environment(self) -> dict[str, str]:
        from amlsched.resources.binding import thread_environment

        variables = thread_environment(self.allocation.n_threads)
        if self.gpu_variable:
            variables[self.gpu_variable] = ",".join(self.allocation.gpus)
        return variables


def _rebuilt(function: Callable[..., Any], values: tuple[Any, ...], binding: Binding, variable: str) -> AllocatedCall:
    """A call in the worker; half as many steps to pickle as for the allocation itself."""
    return AllocatedCall(function, Allocation(*values), binding, variable)


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


_bound: tuple[str, str, int] | None = None
"""To which GPUs, by which variable, and to how many threads this worker is bound."""


def _uses_gpus() -> bool:
    """Whether the driver's library of CUDA or ROCm is loaded in this process."""
    mapped = own_mapped_files()
    return mapped is None or b"libcuda.so" in mapped or b"libhsa-runtime" in mapped
