"""For type checkers only: what `Scheduler.task` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from amlsched.plugins import Comm
    from amlsched.task import Plugin

    Plugins: TypeAlias = Plugin | Iterable[Plugin]

__all__ = ["CommFirst", "CommKeyword", "CommSecond", "CommThird", "TaskOptions"]

R_co = TypeVar("R_co", covariant=True)


class TaskOptions(TypedDict, total=False):
    """What `Scheduler.task` takes beside a function and its plugins."""

    init_plugins: bool
    batch_size: int
    retries_on_loss: int | None


# Functions with a parameter that `Comm.Plugin` gives. A type checker can leave no parameter out of a signature that is
# a keyword, or is not the first; so the others are not checked either.


class CommKeyword(Protocol[R_co]):
    """A function that takes it by keyword."""

    def __call__(self, *args: Any, comm: Comm, **kwargs: Any) -> R_co: ...


class CommFirst(Protocol[R_co]):
    """A function whose first parameter it is."""

    def __call__(self, comm: Comm, *args: Any, **kwargs: Any) -> R_co: ...


class CommSecond(Protocol[R_co]):
    """A function whose second parameter it is."""

    def __call__(self, _1: Any, /, comm: Comm, *args: Any, **kwargs: Any) -> R_co: ...


class CommThird(Protocol[R_co]):
    """A function whose third parameter it is."""

    def __call__(self, _1: Any, _2: Any, /, comm: Comm, *args: Any, **kwargs: Any) -> R_co: ...
