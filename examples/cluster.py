"""Calls on a cluster, or on this machine if there is none: `python cluster.py slurm`, `python cluster.py dask`."""

import sys
from typing import Any

from amlsched import Future, Scheduler

OPTIONS: dict[str, dict[str, Any]] = {
    "dask": {"n_workers": 2},
    "slurm": {"n_workers": 2, "cores": 1, "memory": "1 GB", "walltime": "00:10:00"},
    "sge": {"n_workers": 2, "cores": 1, "memory": "1 GB", "walltime": "00:10:00"},
    "htcondor": {"n_workers": 2, "cores": 1, "memory": "1 GB", "disk": "100 MB"},
}


def simulate(seed: int) -> float:
    state = seed
    for _ in range(10_000):
        state = (1103515245 * state + 12345) % 2**31
    return state / 2**31


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "dask"
    scheduler = Scheduler.from_name(name, **OPTIONS[name])
    task = scheduler.task(simulate)

    @scheduler.on_start
    def start() -> None:
        for seed in range(20):
            task.submit(seed)

    @task.on_result
    def show(future: Future[float], value: float) -> None:
        print(f"seed {future.args[0]}: {value:.4f}")

    scheduler.run()
