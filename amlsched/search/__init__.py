"""Searches: a searcher proposes trials, the workers of a scheduler run them, the searcher learns from the values."""

from amlsched.search.halving import HalvingSearcher, asha, hyperband, successive_halving
from amlsched.search.search import Search
from amlsched.search.space import Choice, Float, GridSearcher, Int, RandomSearcher, grid, random
from amlsched.search.trial import Failure, Searcher, Trial, TrialResult

__all__ = [
    "Choice",
    "Failure",
    "Float",
    "GridSearcher",
    "HalvingSearcher",
    "Int",
    "RandomSearcher",
    "Search",
    "Searcher",
    "Trial",
    "TrialResult",
    "asha",
    "grid",
    "hyperband",
    "random",
    "successive_halving",
]
