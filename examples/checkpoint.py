"""A repetition that saves its state, stops when it gets a signal, and resumes from there in the next run."""

import os
import random
import signal
import threading
from pathlib import Path

from amlsched.experiments import ExperimentRun

CONFIG = """
name: walk
path: results
params: {steps: 200}
"""


def walk(params, rep, log):
    """A random walk; its state is its place and that of its random numbers."""
    step, place, dice = log.restore() or (0, 0, random.Random(log.seed))
    for n in range(step, params["steps"]):
        place += dice.choice((-1, 1))
        log(place=place)
        log.save((n + 1, place, dice))
        if log.should_stop():
            print(f"stopped after step {n}")
            return
        if n == 50:
            send_sigterm()


def send_sigterm():
    """Send the signal, as a batch system does shortly before a job times out."""
    threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM)).start()


if __name__ == "__main__":
    Path("walk.yml").write_text(CONFIG)
    try:
        ExperimentRun(walk, "walk.yml", executor="sequential").run()
    except SystemExit as ending:
        print("the first run ended with exit code", ending.code)
    summary = ExperimentRun(walk, "walk.yml", executor="sequential").run()
    rows = Path("results/walk/log/rep_00/rep_0.csv").read_text().splitlines()
    print(f"the second run has completed {summary.done} of {summary.total} repetitions; {len(rows) - 1} rows")
    assert summary.complete
    assert [row.split(",")[-1] for row in rows[1:]] == [str(n) for n in range(200)]
