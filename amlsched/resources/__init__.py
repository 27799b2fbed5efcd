"""What calls request, what nodes have, the CPUs, memory and GPUs of this process, and slots of them."""

from amlsched.resources.allocation import Allocation, current_allocation
from amlsched.resources.binding import thread_environment
from amlsched.resources.detect import Gpu, Gpus, cpus, devices, free_memory, gpus, memory
from amlsched.resources.pool import Pool
from amlsched.resources.request import Resources
from amlsched.resources.slots import Request, Slot, slots

__all__ = [
    "Allocation",
    "Gpu",
    "Gpus",
    "Pool",
    "Request",
    "Resources",
    "Slot",
    "cpus",
    "current_allocation",
    "devices",
    "free_memory",
    "gpus",
    "memory",
    "slots",
    "thread_environment",
]
