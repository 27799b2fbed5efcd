"""How long calls take and how much they use, learned from those that have finished; and how long a run still takes."""

from amlsched.estimates.forecast import Estimate
from amlsched.estimates.store import Learned, LearnedGroups

__all__ = ["Estimate", "Learned", "LearnedGroups"]
