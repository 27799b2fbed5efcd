"""What happened in a run, in the order in which it was told."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amlsched import Scheduler, Task

__all__ = ["Journal"]

_OF_THE_RUN = ("on_start", "on_empty", "on_finishing", "on_finished", "on_stop", "on_timeout")
_OF_CALLS = ("submitted", "done", "result", "exception", "cancelled")


class Journal:
    """Listens to every event of a scheduler and of some of its tasks.

    Attributes:
        lines: What happened: `on_start`; `on_future_result 1` and `task on_result 1` for call number 1.
    """

    def __init__(self, scheduler: Scheduler, *tasks: Task[..., Any]) -> None:
        self.lines: list[str] = []
        for name in _OF_THE_RUN:
            getattr(scheduler, name).register(partial(self._of_the_run, name), hidden=True)
        for name in _OF_CALLS:
            getattr(scheduler, f"on_future_{name}").register(partial(self._of_call, f"on_future_{name}"), hidden=True)
            for task in tasks:
                getattr(task, f"on_{name}").register(partial(self._of_call, f"task on_{name}"), hidden=True)

    def _of_the_run(self, name: str, *args: Any) -> None:
        self.lines.append(name)

    def _of_call(self, name: str, future: Any, *args: Any, **kwargs: Any) -> None:
        self.lines.append(f"{name} {future.number}")

    @property
    def of_the_run(self) -> list[str]:
        """The events of the run alone."""
        return [line for line in self.lines if " " not in line]

    def of_call(self, number: int) -> list[str]:
        """The events of one call, without its number."""
        return [line.rpartition(" ")[0] for line in self.lines if line.endswith(f" {number}")]

    @property
    def counts(self) -> Counter[str]:
        """How often each event was told."""
        return Counter(line.rpartition(" ")[0] or line for line in self.lines)

    def assert_every_call_ended_once(self) -> None:
        counts = self.counts
        ends = counts["on_future_result"] + counts["on_future_exception"] + counts["on_future_cancelled"]
        assert counts["on_future_submitted"] == ends
        assert counts["on_future_done"] == counts["on_future_result"] + counts["on_future_exception"]
        told: dict[str, list[str]] = defaultdict(list)
        for line in self.lines:
            name, _, number = line.rpartition(" ")
            if name:
                told[number].append(name)
        assert len(told) == counts["on_future_submitted"]
        for lines in told.values():
            assert lines[0] == "on_future_submitted", lines
            assert sum(line in _ENDS for line in lines) == 1, lines


_ENDS = ("on_future_result", "on_future_exception", "on_future_cancelled")
