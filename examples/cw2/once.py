"""A closed form, as an experiment of cw2 that does not iterate, with a logger and a scheduler of its own."""

import json
import os

import numpy as np
from amlsched.cw2 import cluster_work, experiment, scheduler
from amlsched.cw2.cw_data import cw_logging


class Solve(experiment.AbstractExperiment):
    def initialize(self, cw_config: dict, rep: int, logger: cw_logging.LoggerArray) -> None:
        rng = np.random.default_rng(rep)
        size = cw_config["params"]["dimensions"]
        self.a = rng.normal(size=(size, size)) + size * np.eye(size)
        self.b = rng.normal(size=size)

    def run(self, cw_config: dict, rep: int, logger: cw_logging.LoggerArray) -> None:
        x = np.linalg.solve(self.a, self.b)
        logger.process({"residual": float(np.abs(self.a @ x - self.b).max()), "rep": rep})

    def finalize(self, surrender=None, crash: bool = False):
        pass


class JsonLogger(cw_logging.AbstractLogger):
    def initialize(self, config: dict, rep: int, rep_log_path: str) -> None:
        self.file = os.path.join(rep_log_path, "rows.json")
        self.rows = []

    def process(self, data: dict) -> None:
        self.rows.append(self.filter(data))

    def finalize(self) -> None:
        with open(self.file, "w") as file:
            json.dump(self.rows, file)

    def load(self):
        if not os.path.exists(self.file):
            return None
        with open(self.file) as file:
            return json.load(file)


class Backwards(scheduler.AbstractScheduler):
    def run(self, overwrite: bool = False):
        for job in reversed(self.joblist):
            for task in reversed(job.tasks):
                job.run_task(task, overwrite)


if __name__ == "__main__":
    cw = cluster_work.ClusterWork(Solve)
    cw.add_logger(JsonLogger(ignore_keys=["rep"]))
    cw.run(sch=Backwards())
