"""cw2's PandasLogger: rows in a CSV file, loaded as a DataFrame."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.experiments import layout
from amlsched.experiments.loggers import CsvLogger

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PandasLogger"]


class PandasLogger(CsvLogger):
    """Keeps rows in `rep_N.csv`, and loads them as a DataFrame.

    This file is always written. This logger selects its columns, and adds a column `PandasLogger`, with a DataFrame for
    each repetition, to what `ClusterWork.load` returns. Rows are appended, without rewriting the file.
    """

    def at(self, rep: int, rep_log_path: str) -> PandasLogger:
        """Open the file of a repetition for `load`, without changing it.

        Args:
            rep: Its index.
            rep_log_path: Its folder.
        """
        self.path = Path(rep_log_path) / layout.csv_name(rep)
        return self

    def load(self) -> pd.DataFrame | None:
        """The rows as a DataFrame; `None` if there are none. As in cw2, `ts` is in local time, without a time zone."""
        frame: pd.DataFrame | None = super().load()
        if frame is not None and "ts" in frame.columns:
            frame["ts"] = _local(frame["ts"])
        return frame


def _local(times: pd.Series[Any]) -> pd.Series[Any]:
    """Times with a time zone as local times; a column with other values, which is the user's own, is unchanged."""
    import pandas as pd

    local: list[datetime | None] = []
    for value in times.tolist():
        if value is None or value != value:  # missing in this row
            local.append(None)
            continue
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        except ValueError:
            return times
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            return times
        local.append(moment.astimezone().replace(tzinfo=None))
    found: pd.Series[Any] = pd.Series(local, index=times.index, dtype="datetime64[us]")
    return found
