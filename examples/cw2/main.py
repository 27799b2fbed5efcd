"""Gradient descent on a quadratic function, as an iterative experiment of cw2."""

import numpy as np
from amlsched.cw2 import cluster_work, cw_error, experiment
from amlsched.cw2.cw_data import cw_logging, cw_pd_logger


class Descent(experiment.AbstractIterativeExperiment):
    def initialize(self, cw_config: dict, rep: int, logger: cw_logging.LoggerArray) -> None:
        params = cw_config["params"]
        self.optimizer = params["optimizer"]
        rng = np.random.default_rng(rep)
        self.scales = np.linspace(1.0, params["condition"], params["dimensions"])
        self.x = rng.normal(size=params["dimensions"])
        self.momentum = np.zeros_like(self.x)
        cw_logging.getLogger().info("starting at %.3f", self.loss())

    def loss(self) -> float:
        return float(0.5 * np.sum(self.scales * self.x**2))

    def iterate(self, cw_config: dict, rep: int, n: int) -> dict:
        self.momentum = self.optimizer["momentum"] * self.momentum - self.optimizer["lr"] * self.scales * self.x
        self.x = self.x + self.momentum
        if self.loss() > 1e6:
            raise cw_error.ExperimentSurrender({"loss": float("inf"), "diverged": True})
        return {"loss": self.loss(), "diverged": False}

    def save_state(self, cw_config: dict, rep: int, n: int) -> None:
        if n == cw_config["iterations"] - 1:
            np.save(cw_config["_rep_log_path"] + "/x.npy", self.x)

    def finalize(self, surrender: cw_error.ExperimentSurrender = None, crash: bool = False):
        if surrender is not None:
            cw_logging.getLogger().warning("surrendered with %s", surrender.payload)


if __name__ == "__main__":
    cw = cluster_work.ClusterWork(Descent)
    cw.add_logger(cw_pd_logger.PandasLogger())
    cw.run()
