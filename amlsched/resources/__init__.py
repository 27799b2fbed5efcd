"""The CPUs and GPUs that this process may use, and how to divide them between workers."""

from amlsched.resources.binding import thread_environment
from amlsched.resources.detect import cpus, devices
from amlsched.resources.slots import Request, Slot, slots

__all__ = ["Request", "Slot", "cpus", "devices", "slots", "thread_environment"]
