"""What people see while calls run. A display only subscribes to events, or looks on."""

from amlsched.display.table import table

__all__ = ["table"]
