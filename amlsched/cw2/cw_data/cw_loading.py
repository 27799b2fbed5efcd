"""`cw2.cw_data.cw_loading`: importing it gives each DataFrame an accessor `cw2`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from amlsched.experiments.results.frames import objects
from amlsched.experiments.results.survey import leaves
from amlsched.experiments.results.table import Results, table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amlsched.experiments.loggers.base import AbstractLogger
    from amlsched.experiments.results.survey import Found

__all__ = ["Cw2Accessor", "with_columns"]


def with_columns(found: Sequence[Found], more: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The table of these repetitions, with more columns.

    Args:
        found: The repetitions.
        more: The values of each repetition in these columns.
    """
    frame = table_of(found)
    for name in dict.fromkeys(name for row in more for name in row):
        frame[name] = objects([row.get(name) for row in more])
    return frame


@pd.api.extensions.register_dataframe_accessor("cw2")
class Cw2Accessor:
    """Select rows and columns of what `ClusterWork.load` returns.

    Args:
        frame: The DataFrame.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def filter(self, param_dict: dict[str, Any]) -> pd.DataFrame:
        """The repetitions with these parameters.

        Args:
            param_dict: Parameters and their values, nested as in the config.
        """
        frame: Any = self._frame
        if isinstance(frame, Results):
            return frame.with_params(param_dict)
        for path, value in leaves(param_dict):
            frame = frame[frame["_".join(path)] == value]
        return cast("pd.DataFrame", frame)

    def repetition(self, r: int) -> pd.DataFrame:
        """The repetitions with this index."""
        return self._frame[self._frame.index.get_level_values("r") == r]

    def name(self, name: str) -> pd.DataFrame:
        """The repetitions of this experiment."""
        return self._frame[self._frame.index.get_level_values("name") == name]

    def logger(
        self, l_name: str = "", l_obj: AbstractLogger | None = None, l_cls: type[AbstractLogger] | None = None
    ) -> pd.Series[Any]:
        """The column of what a logger loaded.

        Args:
            l_name: The name of its class.
            l_obj: The logger, instead of a name.
            l_cls: Its class, instead of a name.
        """
        kind = type(l_obj) if l_obj is not None else l_cls
        return self._frame[kind.__name__ if kind is not None else l_name]

    def flatten_pd_log(self) -> pd.DataFrame:
        """All logged rows, each with the other columns of its repetition.

        Returns:
            A DataFrame with the index `(name, r, iter)`.
        """
        column = "PandasLogger"
        if column not in self._frame.columns:
            return self._frame
        frames: list[Any] = []
        rows: Any = self._frame.iterrows()
        for (name, r), row in rows:
            logged: Any = row[column]
            if not isinstance(logged, pd.DataFrame):  # it has logged nothing yet
                continue
            known: dict[str, Any] = dict(row.drop([column, *(key for key in logged.columns if key in row)]))
            values = {key: [value] * len(logged) for key, value in known.items()}
            frames.append(logged.assign(**values, name=name, r=r))
        index = ["name", "r", "iter"]
        if not frames:
            return pd.DataFrame(columns=index).set_index(index)
        joined: Any = pd.concat(frames, ignore_index=True).set_index(index)
        return cast("pd.DataFrame", joined)
