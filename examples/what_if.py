"""What would twice as many workers bring? A simulation answers before anything is bought or queued for.

The durations come from a list here; take them from receipts, or from the results of an earlier experiment.
"""

import random

from amlsched import Scheduler
from amlsched.executors.simulation import VirtualCall


def train(dataset: str, fold: int) -> float:
    """What the real program would run; a simulation does not."""
    raise NotImplementedError


MINUTES = {"digits": 2, "adult": 9, "covertype": 35, "higgs": 240}
FOLDS = 10


def duration(call: VirtualCall) -> float:
    """Seconds: as measured before, give or take a third."""
    dataset, _ = call.args
    return MINUTES[dataset] * 60 * call.random.lognormvariate(0, 0.3)


def hours(workers: int, order: list[str]) -> float:
    scheduler = Scheduler.with_simulation(workers, duration, failures=0.02)
    task = scheduler.task(train)

    @scheduler.on_start
    def start() -> None:
        for dataset in order:
            for fold in range(FOLDS):
                task.submit(dataset, fold)

    scheduler.run()
    return scheduler.elapsed_s / 3600


def main() -> None:
    shortest_first = sorted(MINUTES, key=MINUTES.__getitem__)
    longest_first = shortest_first[::-1]
    shuffled = random.Random(0).sample(shortest_first, len(shortest_first))
    print("workers  shortest first  shuffled  longest first")
    for workers in (2, 4, 8, 16):
        row = [hours(workers, order) for order in (shortest_first, shuffled, longest_first)]
        print(f"{workers:7}  {row[0]:12.1f} h  {row[1]:6.1f} h  {row[2]:11.1f} h")


if __name__ == "__main__":
    main()
