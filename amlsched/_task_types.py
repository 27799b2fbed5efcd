"""For type checkers only: the parameters of `Scheduler.task`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from amlsched.plugins import Comm
    from amlsched.resources import Resources
    from amlsched.task import Plugin

    Plugins: TypeAlias = Plugin | Iterable[Plugin]
    Requested: TypeAlias = (
        Resources | Sequence[Resources] | Callable[..., Resources | Sequence[Resources]] | Literal["learn"] | None
    )

__all__ = ["CommFirst", "CommKeyword", "CommSecond", "CommThird", "TaskOptions"]

R_co = TypeVar("R_co", covariant=True)


class TaskOptions(TypedDict, total=False):
    """The options of `Scheduler.task`, besides the function and its plugins."""

    init_plugins: bool
    batch_size: int
    retries_on_loss: int | None
    resources: Requested
    priority: float | Callable[..., float]
    group: str | Callable[..., str] | None


# Functions with a parameter that `Comm.Plugin` provides. Type checkers can only remove the first positional parameter
# from a signature; so the other parameters are not checked either.


class CommKeyword(Protocol[R_co]):
    """A function with a keyword parameter `comm`."""

    def __call__(self, *args: Any, comm: Comm, **kwargs: Any) -> R_co: ...


class CommFirst(Protocol[R_co]):
    """A function whose first parameter is `comm`."""

    def __call__(self, comm: Comm, *args: Any, **kwargs: Any) -> R_co: ...


class CommSecond(Protocol[R_co]):
    """A function whose second parameter is `comm`."""

    def __call__(self, _1: Any, /, comm: Comm, *args: Any, **kwargs: Any) -> R_co: ...


class CommThird(Protocol[R_co]):
    """A function whose third parameter is `comm`."""

    def __call__(self, _1: Any, _2: Any, /, comm: Comm, *args: Any, **kwargs: Any) -> R_co: ...
