"""What would twice as many GPUs bring? A simulation answers before anything is bought or queued for.

The minutes come from a table here; take them from receipts, or from the results of an earlier experiment.
"""

from amlsched import Scheduler
from amlsched.executors.simulation import VirtualCall
from amlsched.policies import ArrivalOrder, LongestFirst, Policy
from amlsched.resources import Pool, Resources

MINUTES = {"digits": 2, "adult": 9, "covertype": 35, "higgs": 240}
FOLDS = 10


def train(dataset: str, fold: int) -> float:
    """What the real program would run; a simulation does not."""
    raise NotImplementedError


def needs(dataset: str, fold: int) -> Resources:
    minutes = MINUTES[dataset]
    if minutes < 5:
        return Resources(cpus=2, memory="4 GB", time=f"{minutes} min")
    return Resources(cpus=4, memory="24 GB", gpus=0.5 if minutes < 60 else 1, time=f"{minutes} min")


def duration(call: VirtualCall) -> float:
    """Seconds: as expected, give or take a third."""
    return MINUTES[call.args[0]] * 60 * call.random.lognormvariate(0, 0.3)


def hours(pool: list[Pool], policy: type[Policy]) -> float:
    scheduler = Scheduler.with_simulation(duration=duration, failures=0.02, pool=pool, policy=policy)
    task = scheduler.task(train, resources=needs)

    @scheduler.on_start
    def start() -> None:
        for dataset in MINUTES:
            for fold in range(FOLDS):
                task.submit(dataset, fold)

    scheduler.run()
    return scheduler.elapsed_s / 3600


def main() -> None:
    machines = {
        "one node, 2 GPUs": [Pool(32, "256 GB", gpus=2)],
        "one node, 4 GPUs": [Pool(32, "256 GB", gpus=4)],
        "one node, 4 GPUs, half the CPUs": [Pool(16, "256 GB", gpus=4)],
        "two nodes, 4 GPUs each": [Pool(32, "256 GB", gpus=4, name=name) for name in ("a", "b")],
    }
    print(f"{'':32}  as submitted  the longest first")
    for name, pool in machines.items():
        print(f"{name:32}  {hours(pool, ArrivalOrder):10.1f} h  {hours(pool, LongestFirst):15.1f} h")


if __name__ == "__main__":
    main()
