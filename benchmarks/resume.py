"""A large results folder in which nearly all repetitions are done."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.clock import used_by
from benchmarks.frame import Bar, Numbers, Workload

COUNT, LEFT = 100_000, 10

EXPERIMENT = """
import os, resource
from pathlib import Path


def experiment(params, rep, log):
    used = resource.getrusage(resource.RUSAGE_SELF)
    if not Path("first").exists():
        Path("first").write_text(f"{used.ru_utime + used.ru_stime} {used.ru_maxrss}")
    log(accuracy=0.5)
"""
CONFIG = f"""
name: large
path: results
repetitions: 100
params: {{optimizer: sgd, layers: [100, 50], dropout: 0.1}}
grid: {{a: {list(range(COUNT // 100))}}}
"""


def fill(folder: Path) -> None:
    """Write the records of all repetitions except the last ones."""
    from amlsched.experiments import Plan
    from amlsched.experiments._planning.config_changes import config_hash, settings
    from amlsched.experiments._storage import layout
    from amlsched.experiments._storage.record import Attempt, Process, Record, State, encoded, now

    plan = Plan(folder / "config.yml", results=folder / "results")
    layout.write_resolved(folder / "results", plan.experiments[0], plan.config)
    process, time = Process.this(), now()
    attempt = Attempt("earlier", process, process, "processes", time, ended=time, outcome=State.COMPLETED, rows=10)
    left = COUNT
    seeds: dict[int, int] = {}
    for path, run in plan.runs():
        made_of = settings(run)
        rest = {key: value for key, value in made_of.items() if key != "params"}
        one = Record(
            run.experiment_name, run.name, 0, State.COMPLETED, params=run.params, config=rest, attempts=(attempt,),
            config_hash=config_hash(made_of), last={"loss": 0.125, "accuracy": 0.5, "iter": 9},
        )  # fmt: skip
        text = json.dumps(encoded(one) | {"rep": "REP", "seed": "SEED"}, indent=1)
        for index in range(run.repetitions):
            left -= 1
            if left < LEFT:
                return
            place = layout.repetition_folder(path, run, index)
            place.mkdir(parents=True)
            if index not in seeds:
                seeds[index] = layout.repetition_seed(run, index)  # the same in every run
            record = text.replace('"REP"', str(index)).replace('"SEED"', str(seeds[index]))
            (place / layout.RECORD).write_text(record)


@contextmanager
def filled() -> Iterator[Path]:
    """A folder with the experiment, its config and its results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "experiment.py").write_text(EXPERIMENT)
        (folder / "config.yml").write_text(CONFIG)
        fill(folder)
        yield folder


def status() -> Numbers:
    """CPU time and memory of `amlsched status`."""
    with filled() as folder:
        numbers, output = used_by(folder, "status", "results")
        assert f"{COUNT - LEFT} completed" in output, output[-500:]
        return numbers


def run() -> Numbers:
    """CPU time and memory of `amlsched run`, until the first remaining repetition starts."""
    with filled() as folder:
        _, output = used_by(folder, "run", "experiment.py:experiment", "config.yml", "--executor", "sequential", "-q")
        assert f"{LEFT} run in" in output, output[-500:]
        seconds, kibibytes = map(float, (folder / "first").read_text().split())
        return {"CPU_s": seconds, "memory_MiB": kibibytes / 1024}


BARS = (Bar("CPU_s", None, 30), Bar("memory_MiB", None, 1024))
WHERE = f"a folder of {COUNT:,} repetitions of which {LEFT} are left"


def _workload(name: str, what: str, measure: Callable[[], Numbers]) -> Workload:
    return Workload(name, f"{WHERE}: {what}", {"amlsched": measure}, BARS, rounds=1, times_limit=5)


WORKLOADS = [
    _workload("resume-status", "`amlsched status`", status),
    _workload("resume-run", "`amlsched run` until the first of them begins", run),
]
