"""Displays of a run's progress. They only subscribe to events and read counters."""

from amlsched.display.table import table

__all__ = ["table"]
