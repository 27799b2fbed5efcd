"""The old name of `amlsched.batch_systems`, for one version."""

import warnings

from amlsched.batch_systems import SYSTEMS, ArrayJob, Element, Stage, System

__all__ = ["ArrayJob", "Element", "SYSTEMS", "Stage", "System"]

warnings.warn("amlsched.arrays is called amlsched.batch_systems now", DeprecationWarning, stacklevel=2)
