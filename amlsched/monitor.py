"""Records the length of a scheduler's queue over time, for a table or a plot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from amlsched._checks import check_whole
from amlsched._surroundings import import_extra
from amlsched.executors.capabilities import most_at_once
from amlsched.scheduler import Scheduler

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["QueueMonitor", "QueueMonitorRecord"]


class QueueMonitorRecord(NamedTuple):
    """The queue at one point in time. `queued`, `finished` and `cancelled` add up to `queue_size`, as in amltk."""

    time: int
    """Nanoseconds since 1970."""
    queue_size: int
    """Calls in the queue: all that no event has reported as finished."""
    queued: int
    """Unfinished calls of the queue: those that wait for a worker and those that are running."""
    finished: int
    """Calls of the queue that finished with a result or an exception: 0, unless `order="submission"` delays their
    events until all calls submitted before have finished."""
    cancelled: int
    """Calls of the queue that were cancelled, and whose events are delayed likewise."""


class QueueMonitor:
    """Records the queue of a scheduler whenever a call is submitted or finishes.

    Records are computed from the counts of the scheduler's events, at a small cost that does not depend on the length
    of the queue.

    Args:
        scheduler: The scheduler to monitor, in all of its runs.
        max_records: How many records to keep, at least 10. When there are this many, every second one is dropped, and
            from then on half as many are recorded; so they always cover the whole time, but more coarsely.

    Attributes:
        data: The records, oldest first.

    Raises:
        TypeError: `scheduler` is not a `Scheduler`, or `max_records` not a whole number.
        ValueError: `max_records` is too small.
    """

    def __init__(self, scheduler: Scheduler, *, max_records: int = 10_000) -> None:
        if not isinstance(scheduler, Scheduler):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"QueueMonitor needs a Scheduler, not {scheduler!r}")
        check_whole("max_records", max_records, 10)
        self.scheduler = scheduler
        self.max_records = max_records
        self.data: list[QueueMonitorRecord] = []
        self._every = 1  # grows by powers of two
        self._skipped = 0
        self._n_workers: int | None = None
        scheduler.on_start(self._start, hidden=True)
        for subscriber in (scheduler.on_future_submitted, scheduler.on_future_done, scheduler.on_future_cancelled):
            subscriber(self._changed, hidden=True)
        scheduler.on_finishing(self.update, hidden=True)
        scheduler.on_finished(self.update, hidden=True)

    def update(self, *_: Any) -> None:
        """Record the queue now."""
        scheduler = self.scheduler
        ended = scheduler.on_future_done.count + scheduler.on_future_cancelled.count
        size = scheduler.on_future_submitted.count - ended
        finished, cancelled = scheduler.held_back
        queued = size - finished - cancelled
        self.data.append(QueueMonitorRecord(time.time_ns(), size, queued, finished, cancelled))
        if len(self.data) >= self.max_records:
            del self.data[1::2]
            self._every *= 2

    def df(self, *, n_workers: int | None = None) -> pd.DataFrame:
        """The records as a table, indexed by time (UTC).

        It has two more columns: `running`, the calls of `queued` that have a worker (the smaller of `queued` and the
        number of workers); and `idle`, the workers without a call.

        Args:
            n_workers: Number of workers; `None` for the executor's number, or if it has none, the largest `queued`.

        Raises:
            MissingExtraError: pandas is not installed.
            TypeError: `n_workers` is not a whole number.
            ValueError: `n_workers` is below 1.
        """
        if n_workers is not None:
            check_whole("n_workers", n_workers, 1, ", or None")
        import_extra("pandas", "QueueMonitor.df", "pandas", "results")
        import pandas as pd

        table = pd.DataFrame(self.data, columns=list(QueueMonitorRecord._fields)).astype("int64")
        workers = n_workers or self._n_workers or (0 if table.empty else int(table["queued"].max()))
        table["running"] = table["queued"].clip(upper=workers)
        table["idle"] = workers - table["running"]
        table["time"] = pd.to_datetime(table["time"], unit="ns")
        return table.set_index("time")

    def plot(
        self,
        *,
        ax: Axes | None = None,
        interval: tuple[float, str] = (1, "s"),
        n_workers: int | None = None,
        **kwargs: Any,
    ) -> Axes:
        """Plot a stacked bar for each interval of time: running calls, waiting calls, and idle workers.

        Args:
            ax: Where to draw; `None` for a new figure.
            interval: The time that one bar covers: a number and a unit of `pandas.Timedelta`.
            n_workers: As for `df`.
            **kwargs: Passed on to `pandas.DataFrame.plot.barh`.

        Raises:
            MissingExtraError: pandas or matplotlib is not installed.
            ValueError: There are no records.
        """
        if not self.data:
            raise ValueError("there are no records to plot: create the QueueMonitor before scheduler.run()")
        table = self.df(n_workers=n_workers)
        table["waiting"] = table["queued"] - table["running"]
        import_extra("matplotlib.pyplot", "QueueMonitor.plot", "matplotlib", "results")
        import pandas as pd
        from matplotlib import pyplot
        from matplotlib.ticker import MaxNLocator

        axes: Any = ax if ax is not None else pyplot.subplots()[1]
        bins = table[["running", "waiting", "idle"]].resample(pd.Timedelta(f"{interval[0]}{interval[1]}"))
        bars = bins.mean().fillna(bins.last().ffill())  # without an event the queue stayed the same
        bars.index = pd.Index([f"{seconds:g}" for seconds in (bars.index - bars.index[0]).total_seconds()])
        bars[::-1].plot.barh(stacked=True, ax=axes, width=1, **kwargs)
        axes.set_xlabel("Calls and idle workers")
        axes.set_ylabel("Time (s)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
        return cast("Axes", axes)

    def _start(self) -> None:
        executor = self.scheduler.executor
        self._n_workers = most_at_once(executor)
        self.update()

    def _changed(self, _: Any) -> None:
        self._skipped += 1
        if self._skipped >= self._every:
            self._skipped = 0
            self.update()
