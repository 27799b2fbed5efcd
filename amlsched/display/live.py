"""The live display of a scheduler: a view that is redrawn on a terminal, one line every few seconds elsewhere.

A timer of the run's own loop reads the scheduler between two turns. So it needs no thread and no lock, its cost does
not depend on the number of calls, and it costs nothing if it is off.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import time
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TextIO, TypeGuard, cast

from amlsched._surroundings import import_extra, is_terminal, printable
from amlsched.events import Stopwatch
from amlsched.executors.capabilities import WorkersNow, capabilities_of, clock_of, running_at_once, workers_now
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from rich.console import RenderableType
    from rich.table import Table

    from amlsched.scheduler import Scheduler
    from amlsched.task import Plugin, Task

__all__ = ["LiveView", "PlainLines", "as_html", "live", "scheduler_view"]

logger = logging.getLogger(__name__)
_RATE_OVER_S = 10.0
REFRESH_S = 0.25
LINE_S = 5.0
_HTML_WIDTH = 100


def live(
    scheduler: Scheduler, display: bool | Literal["auto"] | Iterable[RenderableType], *, stream: TextIO | None = None
) -> AbstractContextManager[object]:
    """Display the run inside this context, which must be entered in the run's loop.

    Args:
        scheduler: The scheduler to show.
        display: The argument of `run(display=…)`: `True`, `False`, `"auto"` to display it on a terminal and in a
            notebook only, or a list of renderables of rich to show below.
        stream: Where to write; `None` for `sys.stdout`.

    Raises:
        MissingExtraError: The output is a terminal and rich is not installed.
        ValueError: `display` is none of these.
    """
    if display is False:
        return nullcontext()
    if display is True or display == "auto":
        extra: list[Any] = []
    elif isinstance(display, str) or not isinstance(display, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"display={display!r}: must be True, False, 'auto' or a list of renderables of rich")
    else:
        extra = list(display)
    shown = stream or cast("TextIO | None", sys.stdout)  # `None` if the program has no console
    if shown is not None and ("ipykernel" in sys.modules or is_terminal(shown)):
        return LiveView(scheduler, extra, shown)
    return nullcontext() if shown is None or display == "auto" else PlainLines(scheduler, shown)


class _Display(AbstractContextManager[object]):
    """Shows a scheduler at regular intervals, and once when the run has finished."""

    def __init__(self, scheduler: Scheduler, interval_s: float) -> None:
        self._scheduler = scheduler
        self._interval_s = interval_s
        self._timer: asyncio.TimerHandle | None = None
        self._shows = True
        self._callbacks = Stopwatch()

    def __enter__(self) -> object:
        self._loop = asyncio.get_running_loop()
        executor = self._scheduler.executor
        self._workers = Workers(executor)  # a stopped run may release its executor
        self._clock = Clock(clock_of(executor))
        self._watch()
        if not capabilities_of(executor).virtual:  # whose timers are not those of whoever looks: it is shown at its end
            self._timer = self._loop.call_later(self._interval_s, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._shows:
            self._show_safely(final=True)

    def _watch(self) -> None:
        """Measure the callbacks of the present run."""
        if self._scheduler.dispatcher is not None:
            self._scheduler.dispatcher.stopwatch = self._callbacks

    @property
    def _share(self) -> float:
        """The share of time spent in callbacks since the start."""
        return min(1.0, self._callbacks.seconds / max(self._clock.seconds, 1e-9))

    def _tick(self) -> None:
        self._watch()  # in case the run started after the display
        if self._show_safely():
            self._timer = self._loop.call_later(self._interval_s, self._tick)

    def _show_safely(self, *, final: bool = False) -> bool:
        try:
            self._show(final)
        except Exception:  # a failing display must not end the run
            logger.warning("the display of %s failed and is off from now on", self._scheduler.name, exc_info=True)
            self._clear()
            self._shows = False
            return False
        return True

    def _show(self, final: bool) -> None:
        raise NotImplementedError

    def _clear(self) -> None:
        """Remove what could not be shown."""


class LiveView(_Display):
    """The view on a terminal or in a notebook, drawn by rich.

    Args:
        scheduler: The scheduler to show.
        extra: Renderables to show below it.
        stream: Where to write.
    """

    def __init__(self, scheduler: Scheduler, extra: Iterable[RenderableType], stream: TextIO) -> None:
        super().__init__(scheduler, REFRESH_S)
        import_extra("rich.console", "run(display=True) on a terminal", "rich", "experiments")
        from rich.console import Console
        from rich.live import Live

        self._extra = tuple(extra)
        self._live = Live(console=Console(file=stream), auto_refresh=False)

    def __enter__(self) -> object:
        super().__enter__()
        self._live.start()
        self._show_safely()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._live.stop()

    def _show(self, final: bool) -> None:
        from rich.console import Group

        view = _view(self._scheduler, self._workers, self._clock, self._share)
        used = [_plain(text)] if final and (text := _used(self._scheduler)) else []
        self._live.update(Group(view, *self._extra, *used), refresh=True)

    def _clear(self) -> None:
        self._live.update("")


class PlainLines(_Display):
    """Writes a line every few seconds if something has changed, and one at the end.

    Args:
        scheduler: The scheduler to show.
        stream: Where to write.
    """

    def __init__(self, scheduler: Scheduler, stream: TextIO) -> None:
        super().__init__(scheduler, LINE_S)
        self._stream = stream
        self._shown: tuple[Counts, str] | None = None

    def _show(self, final: bool) -> None:
        now = self._workers.now
        counts = Counts.of(self._scheduler, self._workers.number)
        missing = f"; {now}" if are_missing(now, counts) else ""
        if (counts, missing) == self._shown and not final:
            return
        self._shown = counts, missing
        rate = f"{self._clock.rate(counts.ended):.3g}/s, callbacks {self._share:.0%}"
        if estimate := _time_left(self._scheduler):
            rate += f", {estimate}"
        line = f"{self._clock.seconds:.0f} s: {counts}, {rate}{missing}\n"
        if final and (used := _used(self._scheduler)):
            line += f"{used}\n"
        self._stream.write(printable(line, self._stream))
        self._stream.flush()


class Clock:
    """Measures the duration of the run and the rate of calls.

    Args:
        now: The seconds by which the calls take time.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun = now()
        self._seen = deque([(self._begun, 0)])

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._now() - self._begun

    def rate(self, ended: int) -> float:
        """Calls per second, over the last ten seconds."""
        now = self._now()
        while len(self._seen) > 1 and now - self._seen[0][0] > _RATE_OVER_S:
            self._seen.popleft()
        then, had_ended = self._seen[0]
        self._seen.append((now, ended))
        return (ended - had_ended) / max(now - then, 1e-9)


class Counts(NamedTuple):
    """The numbers of a run's calls by state."""

    submitted: int
    running: int
    queued: int
    results: int
    exceptions: int
    cancelled: int

    @classmethod
    def of(cls, scheduler: Scheduler, workers: int | None) -> Counts:
        """The counts of a scheduler with this number of workers; `None` if that is unknown."""
        results, exceptions = scheduler.on_future_result.count, scheduler.on_future_exception.count
        cancelled = scheduler.on_future_cancelled.count
        submitted = scheduler.on_future_submitted.count
        left = submitted - scheduler.on_future_done.count - cancelled
        running = left if workers is None else min(left, workers)
        return cls(submitted, running, left - running, results, exceptions, cancelled)

    @property
    def ended(self) -> int:
        """The number of finished calls, including cancelled ones."""
        return self.results + self.exceptions + self.cancelled

    def __str__(self) -> str:
        counts = self._asdict().items()
        return ", ".join(f"{value} {name.removesuffix('s') if value == 1 else name}" for name, value in counts)


class Workers:
    """The workers of an executor.

    Args:
        executor: The executor; `None` if there is none.
    """

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor

    @property
    def now(self) -> WorkersNow | None:
        """The present numbers of workers, if the executor reports them."""
        return workers_now(self._executor) if self._executor is not None else None

    @property
    def number(self) -> int | None:
        """How many calls can run now, if known."""
        return None if self._executor is None else running_at_once(self._executor)

    def __str__(self) -> str:
        if self._executor is None:
            return "no workers"
        name, now, number = type(self._executor).__name__, self.now, self.number
        if now is not None:
            return f"{name}, {now._replace(instead=())}"
        return name if number is None else f"{name}, {counted(number, 'worker')}"


def are_missing(now: WorkersNow | None, counts: Counts) -> TypeGuard[WorkersNow]:
    """Whether calls wait for missing workers."""
    return now is not None and now.here < now.wanted and counts.submitted > counts.ended


def scheduler_view(scheduler: Scheduler) -> RenderableType:
    """The view of a scheduler for rich: workers, queue, tasks, and what was added by `add_renderable`."""
    executor = scheduler._executor  # pyright: ignore[reportPrivateUsage]  (the property would create one)
    return _view(scheduler, Workers(executor), None)


def as_html(view: RenderableType) -> str | None:
    """The view as HTML for a notebook; `None` if rich is not installed, so that the notebook shows the text."""
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        return None
    console = Console(record=True, file=io.StringIO(), width=_HTML_WIDTH, force_jupyter=False)
    console.print(view)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def _view(scheduler: Scheduler, workers: Workers, clock: Clock | None, share: float = 0.0) -> RenderableType:
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    counts = Counts.of(scheduler, workers.number)
    head = Text("running" if scheduler.running() else "not running", style="green" if scheduler.running() else "")
    if clock is not None:
        head.append(
            f"  {clock.seconds:.1f} s  {clock.rate(counts.ended):.3g} calls/s  callbacks {share:.0%}", style="default"
        )
    if clock is not None and (estimate := _time_left(scheduler)):
        head.append(f"  {estimate}", style="default")
    head.append(f"  {workers}", style="default")
    table = _task_table()
    for task in scheduler.tasks:
        _add_task(table, task)
    numbers = Text(str(counts))
    numbers.highlight_regex(r"\b[1-9]\d* results?", "green")
    numbers.highlight_regex(r"\b[1-9]\d* exceptions?", "bold red")
    parts: list[Any] = [head, numbers]
    if are_missing(now := workers.now, counts):
        parts += (Text(f"  {line}", style="yellow") for line in now.instead)
    if table.row_count:
        parts.append(table)
    return Panel(Group(*parts, *scheduler.renderables), title="Scheduler", title_align="left")


def _time_left(scheduler: Scheduler) -> str:
    """How long a run still takes; empty if that is not estimated, not known, or nothing is left."""
    if not scheduler.estimates or scheduler.empty():
        return ""
    return str(scheduler.estimator.shown() or "")


def _used(scheduler: Scheduler) -> str:
    """What calls used and had requested, as a table; empty if they requested nothing, or it is not measured."""
    if not scheduler.estimates or not any(task.requests_resources for task in scheduler.tasks):
        return ""
    return str(scheduler.learned())


def _task_table() -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("task", overflow="fold")
    for name in ("submitted", "unfinished", "results", "exceptions", "cancelled"):
        table.add_column(name, justify="right")
    return table


def _add_task(table: Table, task: Task[..., Any]) -> None:
    from rich.padding import Padding

    numbers = (task.n_submitted, task.n_running, task.on_result.count, task.on_exception.count, task.on_cancelled.count)
    table.add_row(_plain(task.name.removeprefix("task ")), *map(str, numbers))
    for plugin in task.plugins:
        table.add_row(_plugin_view(plugin))
        for event in plugin.events():
            if count := task.event_counts[event]:
                table.add_row(Padding(_plain(f"{event} {count}"), (0, 0, 0, 4)))  # which keeps wrapped lines indented


def _plugin_view(plugin: Plugin) -> RenderableType:
    if hasattr(plugin, "__rich__"):
        return cast("RenderableType", plugin)
    return _plain(f"  {plugin.name if type(plugin).__str__ is object.__str__ else plugin}")


def _plain(text: str) -> RenderableType:
    """Plain text: names and arguments may contain brackets, which rich would interpret as markup."""
    from rich.text import Text

    return Text(text)
