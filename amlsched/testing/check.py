"""What a check of an executor is."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amlsched.executors.capabilities import capabilities_of
from amlsched.testing.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

__all__ = ["ExecutorCheck", "check"]


@dataclass(frozen=True)
class ExecutorCheck:
    """Something that holds of every executor.

    Attributes:
        name: What holds.
        background: Whether it is about calls that go on while the caller does something else, so that it does not
            apply to an executor that runs a call in the thread that submits it.
        pickles: Whether it applies only to executors that send calls to other processes.
    """

    name: str
    function: Callable[[Stage], None]
    background: bool = False
    pickles: bool = False

    def applies_to(self, executor: Executor) -> bool:
        """Whether the check makes sense for this executor, by what it declares as its `capabilities`."""
        capabilities = capabilities_of(executor)
        return not (self.background and capabilities.inline) and (not self.pickles or capabilities.pickles)

    def run(
        self, make_executor: Callable[[], Executor], *, timeout_s: float = 30.0, folder: Path | str | None = None
    ) -> None:
        """Check an executor.

        Args:
            make_executor: Makes it; the check shuts it down.
            timeout_s: How long to wait for what should happen soon, in seconds.
            folder: A folder that the workers see too, for files of the check; `None` for one of the temporary ones of
                this machine.

        Raises:
            AssertionError: It does not hold.
        """
        try:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                self.function(Stage(make_executor, Path(scratch), timeout_s))
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"the executor raised {type(error).__name__}: {error}") from error


def check(*, background: bool = False, pickles: bool = False) -> Callable[[Callable[[Stage], None]], ExecutorCheck]:
    """A decorator that makes a function a check of the same name."""

    def make(function: Callable[[Stage], None]) -> ExecutorCheck:
        return ExecutorCheck(function.__name__.replace("_", " "), function, background, pickles)

    return make
