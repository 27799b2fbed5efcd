"""Loading the results of many repetitions as tables."""

import json
import resource
import tempfile
from pathlib import Path

from benchmarks.frame import Bar, Numbers, Workload

COUNT, ROWS = 10_000, 100

CONFIG = f"""
name: large
path: results
repetitions: 10
params: {{optimizer: sgd, layers: [100, 50]}}
grid: {{a: {list(range(COUNT // 10))}}}
"""
LOGGED = "loss,accuracy,ts,rep,iter\n" + "".join(
    f"{1 / (i + 3)},{i / 3},2026-01-01T00:00:00+00:00,0,{i}\n" for i in range(ROWS)
)


def fill(folder: Path) -> None:
    """Write the records and rows of all repetitions."""
    from amlsched.experiments import Plan
    from amlsched.experiments._storage import layout
    from amlsched.experiments._storage.record import Attempt, Process, Record, State, encoded, now

    (folder / "config.yml").write_text(CONFIG)
    plan = Plan(folder / "config.yml", results=folder / "results")
    layout.write_resolved(folder / "results", plan.experiments[0], plan.config)
    process, time = Process.this(), now()
    attempt = Attempt("earlier", process, process, "processes", time, ended=time, outcome=State.COMPLETED, rows=ROWS)
    last = {"loss": 0.125, "accuracy": 0.5, "iter": ROWS - 1}
    for path, run in plan.runs():
        for index in range(run.repetitions):
            place = layout.repetition_folder(path, run, index)
            place.mkdir(parents=True)
            record = Record(
                "large", run.name, index, State.COMPLETED, params=run.params, attempts=(attempt,), last=last
            )
            (place / layout.RECORD).write_text(json.dumps(encoded(record)))
            (place / layout.csv_name(index)).write_text(LOGGED)


def load() -> Numbers:
    """CPU time and memory of `load` and of all rows in long form, with pandas."""
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name))
        before = resource.getrusage(resource.RUSAGE_SELF)
        from amlsched.experiments import load

        found = load(Path(name, "results"))
        rows = found.iterations()
        assert (len(found), len(rows)) == (COUNT, COUNT * ROWS)
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        return {"CPU_s": seconds, "memory_MiB": used.ru_maxrss / 1024}


WORKLOADS = [
    Workload(
        "load",
        f"{COUNT:,} repetitions of {ROWS} rows are loaded (`load(…)` and its `.iterations()`)",
        {"amlsched": load},
        (Bar("CPU_s", None, 20),),
        rounds=2,
    ),
]
