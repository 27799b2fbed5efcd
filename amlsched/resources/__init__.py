"""The CPUs, memory and GPUs that this process may use, and how to divide them between workers."""

from amlsched.resources.binding import thread_environment
from amlsched.resources.detect import Gpu, Gpus, cpus, devices, free_memory, gpus, memory
from amlsched.resources.slots import Request, Slot, slots

__all__ = [
    "Gpu",
    "Gpus",
    "Request",
    "Slot",
    "cpus",
    "devices",
    "free_memory",
    "gpus",
    "memory",
    "slots",
    "thread_environment",
]
