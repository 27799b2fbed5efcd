"""cw2's PandasLogger: the rows as a CSV file, and read back as a DataFrame."""

from __future__ import annotations

from pathlib import Path

from amlsched.experiments import layout
from amlsched.experiments.loggers import CsvLogger

__all__ = ["PandasLogger"]


class PandasLogger(CsvLogger):
    """Keeps the rows in `rep_N.csv`, and reads them back as a DataFrame.

    There is such a file in any case. This logger chooses its columns, and adds a column `PandasLogger`, with a
    DataFrame for each repetition, to what `ClusterWork.load` returns. A row is appended; nothing is written anew.
    """

    def at(self, rep: int, rep_log_path: str) -> PandasLogger:
        """Look at what a repetition has logged, without changing it.

        Args:
            rep: Its index.
            rep_log_path: Its folder.
        """
        self.path = Path(rep_log_path) / layout.csv_name(rep)
        return self
