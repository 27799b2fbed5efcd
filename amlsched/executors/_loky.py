"""loky's pool, with workers that do not outlive their driver."""

from typing import Any

from loky import ProcessPoolExecutor  # pyright: ignore[reportMissingTypeStubs]

from amlsched.executors._watch import watched

__all__ = ["LokyPool"]


class LokyPool(ProcessPoolExecutor):  # type: ignore[misc]  # pyright: ignore[reportUntypedBaseClass]
    """A pool of loky whose driver is watched while it is open.

    Args:
        *args: As of loky's.
        **options: As of loky's.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._unwatch = watched(self)  # before: a worker that starts shall have the mark
        super().__init__(*args, **options)  # pyright: ignore[reportUnknownMemberType]

    def shutdown(self, wait: bool = True, kill_workers: bool = False, **options: Any) -> None:
        """As of loky's."""
        super().shutdown(wait=wait, kill_workers=kill_workers, **options)
        if wait or kill_workers:  # else once the pool is collected: its workers have calls left
            self._unwatch()
