"""Jobs written for pytabkit's scheduler: one is killed, one fits nowhere, and the others run, the longest first.

python examples/pytabkit_jobs.py [processes|ray|dask]
"""

import os
import signal
import sys
import time

from amlsched.pytabkit import AbstractJob, NodeResources, RayJobManager, RequiredResources, SimpleJobScheduler


class Fit(AbstractJob):
    """Pretends to fit a model."""

    def __init__(self, number: int, seconds: float, memory_gb: float = 0.05) -> None:
        self.number, self.seconds, self.memory_gb = number, seconds, memory_gb

    def get_group(self) -> str:
        """All jobs take the same multiple of their expected time."""
        return "fit"

    def get_desc(self) -> str:
        """The name in reports."""
        return f"fit {self.number}"

    def get_required_resources(self) -> RequiredResources:
        """The expected time is twice as long as it should be, which is learned."""
        return RequiredResources(time_s=2 * self.seconds, n_threads=1, cpu_ram_gb=self.memory_gb)

    def __call__(self, assigned_resources: NodeResources) -> bool:
        """Sleep, or die."""
        time.sleep(self.seconds)
        if self.number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        print(f"{self.get_desc()} had {assigned_resources.get_n_threads()} threads", flush=True)
        return True


def main(executor: str = "processes") -> None:
    """Run the jobs, and print which have failed."""
    scheduler = SimpleJobScheduler(RayJobManager(executor=executor))
    jobs = [Fit(number, 0.02 * (1 + number % 5)) for number in range(20)]
    scheduler.add_jobs([*jobs, Fit(20, 0.1, memory_gb=1e6)])
    scheduler.run()
    print("failed:", *(info.job.get_desc() for info in scheduler.job_infos if info.is_failed()))


if __name__ == "__main__":
    main(*sys.argv[1:])
