"""What people see while experiments run. A display only subscribes to events."""

from amlsched.display.progress import LiveProgress, PlainProgress, Progress, progress_for
from amlsched.display.table import table

__all__ = ["LiveProgress", "PlainProgress", "Progress", "progress_for", "table"]
