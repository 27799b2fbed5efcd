"""What this process may use of its machine, and how it is divided among workers."""

from amlsched.resources.detect import cpus, devices
from amlsched.resources.slots import Request, Slot, slots
from amlsched.resources.threads import thread_environment

__all__ = ["Request", "Slot", "cpus", "devices", "slots", "thread_environment"]
