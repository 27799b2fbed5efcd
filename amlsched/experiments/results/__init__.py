"""Results: what a results folder holds, as a survey, as a table and as plots."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from amlsched._surroundings import import_extra
from amlsched.experiments.results import survey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import pandas as pd

    from amlsched.experiments.results.survey import Found
    from amlsched.experiments.results.table import Results

logger = logging.getLogger(__name__)

__all__ = ["iterations", "load"]


def load(results: str | Path) -> Results:
    """Load the repetitions in a folder of results, one per row.

    Returns:
        A `pandas.DataFrame` with the index `(name, r)`: name of the experiment and index of the repetition. Columns:
        `run`, `state`; the parameters, nested ones joined by `_` as in `opt_lr` (by a dot if that name is taken); the
        last value of each metric (`metric_last` if a parameter of any run has that name); `seconds`, `seed`, `folder`.
        Missing values are NaN or None. See `Results` for methods beyond those of pandas.

    Raises:
        ExperimentError: There is no such folder, or it contains no results of amlsched.
        MissingExtraError: pandas is not installed.
    """
    import_extra("pandas", "experiments.load", "pandas", "results")
    from amlsched.experiments.results.table import table_of

    return table_of(_without_problems(survey.survey(results)))


def _without_problems(found: Iterable[Found]) -> Iterator[Found]:
    """Pass repetitions on, with a warning for each record that cannot be read."""
    for one in found:
        if one.record.problem:
            logger.warning("%s", one.record.problem)
        yield one


def iterations(results: str | Path) -> pd.DataFrame:
    """Load all rows that the repetitions in a folder of results logged; the same as `load(results).iterations()`.

    Raises:
        ExperimentError: There is no such folder, it contains no results of amlsched, or nothing was logged.
        MissingExtraError: pandas is not installed.
    """
    return load(results).iterations()
