"""Show the progress of a run by its events: live on a terminal, otherwise as plain lines."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from amlsched._surroundings import is_terminal
from amlsched.display.table import STATE_STYLES, coloured, duration, number
from amlsched.experiments._running.output_capture import outside
from amlsched.experiments._running.summary import Summary, lower_is_better
from amlsched.experiments._storage import cells, layout
from amlsched.experiments._storage.record import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rich.console import RenderableType

    from amlsched.executors.capabilities import WorkersNow
    from amlsched.experiments._running.summary import Ended

__all__ = [
    "LiveProgress",
    "PlainProgress",
    "Progress",
    "Summary",
    "Watched",
    "last_row",
    "lower_is_better",
    "progress_for",
]

_TAIL = 4096
_ALIKE = 3
"""After this many failures with the same error, more of them are only counted."""
FEW = 100
"""Up to this many repetitions, each gets a line."""


class Progress(Protocol):
    """A display of a run, shown within its context."""

    def __enter__(self) -> object: ...
    def __exit__(self, *_: object) -> None: ...


class Shown(Protocol):
    """What a display shows of a repetition; as text, its name."""

    @property
    def folder(self) -> Path:
        """Its folder."""
        ...

    @property
    def index(self) -> int:
        """Its index."""
        ...

    @property
    def iterations(self) -> int | None:
        """Iterations that it is to run, if known."""
        ...


class Watched(Protocol):
    """The part of a run, here or in arrays, that its progress is shown from."""

    @property
    def summary(self) -> Summary:
        """The repetitions that have ended so far."""
        ...

    @property
    def running(self) -> Mapping[Any, Shown]:
        """The repetitions that are running."""
        ...

    @property
    def workers(self) -> WorkersNow | None:
        """How many workers there are, if that number changes."""
        ...

    @property
    def capture(self) -> bool:
        """Whether the output of repetitions is captured."""
        ...

    @property
    def on_repetition_done(self) -> Callable[[Callable[[Shown, Ended], Any]], Any]:
        """Adds a callback for each repetition that has ended."""
        ...


def progress_for(run: Watched, total: int, metrics: list[str], *, quiet: bool = False) -> Progress:
    """The display for standard output: live if it is a terminal, otherwise plain lines.

    Args:
        run: The run to show.
        total: How many repetitions there are.
        metrics: The columns to show; none for the first few.
        quiet: Show nothing.
    """
    if quiet:
        return contextlib.nullcontext()
    stream = sys.stdout
    if run.capture and is_terminal(stream):
        try:
            return LiveProgress(run, total, metrics, stream)
        except ModuleNotFoundError:  # rich is in an extra
            pass
    return PlainProgress(run, total, metrics, stream)


def shown(last: dict[str, Any], metrics: list[str]) -> str:
    """The metrics on one line."""
    names = metrics or [name for name, value in last.items() if isinstance(value, int | float) and name != "iter"][:3]
    values = ((name, last.get(name)) for name in names)
    return "  ".join(f"{name} {number(value)}" for name, value in values if isinstance(value, int | float))


class PlainProgress:
    """Prints a line for each repetition that has ended; with many, one line per second, and each failure."""

    def __init__(self, run: Watched, total: int, metrics: list[str], stream: TextIO) -> None:
        self._run, self._total, self._metrics = run, total, metrics
        self._stream: TextIO | None = stream
        self._last_printed = 0.0
        self._n_skipped = 0
        run.on_repetition_done(self._done)

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None:
        if self._n_skipped:
            self._write(f"and {self._n_skipped} more")

    def _done(self, repetition: Shown, ended: Ended) -> None:
        if self._total > FEW and ended.state.done and time.monotonic() - self._last_printed < 1.0:
            self._n_skipped += 1
            return
        more = f"  (and {self._n_skipped} more)" if self._n_skipped else ""
        about = (ended.error.line if ended.error else "") or shown(ended.last, self._metrics)
        words = (f"{ended.state.value:<11}", str(repetition), duration(ended.seconds), about)
        self._write("  ".join(word for word in words if word) + more)
        self._last_printed, self._n_skipped = time.monotonic(), 0

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        width = len(str(self._total))
        count = self._run.summary.states.total()
        try:
            self._stream.write(f"[{count:>{width}}/{self._total}] {text}\n")
            self._stream.flush()
        except (OSError, ValueError):  # a broken pipe or a full disk must not stop the run
            self._stream = None


class LiveProgress:
    """A progress bar, and a line for each running repetition with what it logged last."""

    def __init__(self, run: Watched, total: int, metrics: list[str], stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._run, self._total, self._metrics = run, total, metrics
        self._begun = time.monotonic()
        self._tails: dict[Path, tuple[int, str]] = {}
        self._alike: Counter[str] = Counter()
        self._console = Console(file=stream)
        self._outside = outside(stream)  # a repetition in this thread redirects the descriptors of the process
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        run.on_repetition_done(self._done)

    def __enter__(self) -> object:
        self._console.file = self._outside.__enter__()
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._outside.__exit__(None, None, None)

    def _done(self, repetition: Shown, ended: Ended) -> None:
        self._tails.pop(repetition.folder, None)
        if ended.state.done:
            return
        error = ended.error.line if ended.error else ""
        self._alike[error] += bool(error)
        if self._alike[error] <= _ALIKE:
            again = "  (more like this one are only counted)" if self._alike[error] == _ALIKE else ""
            self._console.print(coloured(f"{ended.state.value}  {repetition}  {error}{again}"), soft_wrap=True)

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        workers = self._run.workers
        missing = workers.instead if workers is not None and workers.here < workers.wanted else ()
        head = [*self._head(), *([Text(f"{workers}", style="yellow")] if missing else [])]
        lines = Table.grid(padding=(0, 2))
        room = max(1, self._console.size.height - 2 - len(head))
        running = [(repetition, self._tail(repetition)) for repetition in list(self._run.running.values())]
        for repetition, tail in [(repetition, tail) for repetition, tail in running if tail is not None][:room]:
            lines.add_row(Text("running", style=STATE_STYLES["running"]), Text(str(repetition)), Text(tail))
        return Group(*head, lines)

    def _head(self) -> list[RenderableType]:
        """The bar, the times, and the best value of the first metric so far."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        summary = self._run.summary
        ended, seconds = summary.states.total(), time.monotonic() - self._begun
        style = "red" if summary.states[State.FAILED] else "green"
        width = max(6, min(40, self._console.size.width - 56))  # the rest takes up to 50 columns
        bar = ProgressBar(self._total, ended, width=width, complete_style=style, finished_style=style)
        grid = Table.grid(padding=(0, 1))
        times = [duration(seconds)]
        if summary.ran and (remaining := self._total - ended):
            each_s = seconds / summary.ran
            times.append(f"{60 / each_s:.3g}/min" if each_s < 60 else f"{3600 / each_s:.3g}/h")
            if summary.ran > len(self._run.running):  # every worker has finished one
                left_s = each_s * remaining
                times.append(f"about {duration(left_s) if left_s >= 60 else f'{left_s:.0f} s'} left")
        grid.add_row(bar, Text(f"{ended}/{self._total}"), Text(", ".join(times)))
        names = self._metrics or [name for tally in list(summary.tallies.values())[:1] for name in tally.last][:1]
        best = summary.best(names[0]) if names else None
        about = [str(summary.states)] if ended else ["" if self._run.running else "starting workers"]
        if best is not None:
            about.append(f"best {names[0]} {number(best[1])} ({best[0]})")
        return [grid, coloured("   ".join(filter(None, about)))]

    def _tail(self, repetition: Shown) -> str | None:
        """What a repetition logged last, read from its file; `None` if it has not started."""
        path = repetition.folder / layout.csv_name(repetition.index)
        try:
            size = path.stat().st_size
        except OSError:
            return "" if (repetition.folder / layout.RECORD).exists() else None
        known = self._tails.get(repetition.folder)
        if known is None or known[0] != size:
            known = (size, last_row(path, size, self._metrics, repetition.iterations))
            self._tails[repetition.folder] = known
        return known[1]


def last_row(path: Path, size: int, metrics: list[str], iterations: int | None) -> str:
    """The last row of a CSV file as text: the iteration, of how many, and the metrics; empty without a row."""
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        header = next(cells.rows(file), b"")
        begin = file.seek(max(len(header), size - _TAIL))
        _, before, last = file.read().removesuffix(b"\n").rpartition(b"\n")
        if not last or last.count(b'"') % 2 or (not before and begin > len(header)):
            return ""  # there is none, or it starts before the part that was read
        row = dict(zip(cells.names(header), cells.values(last), strict=False))
        row.pop("rep", None)
        place = f"{int(row['iter']) + 1}" if isinstance(row.get("iter"), int | float) else ""
        return f"{place}/{iterations}  {shown(row, metrics)}" if place and iterations else shown(row, metrics)
    return ""
