"""Read by mypy and pyright in strict mode, and never run: experiments as users write them."""

from pathlib import Path
from typing import Any

from amlsched.cw2.cluster_work import ClusterWork
from amlsched.experiments import (
    AbstractLogger,
    Experiment,
    ExperimentRun,
    IterativeExperiment,
    LoggerArray,
    Plan,
    RepetitionLog,
)
from amlsched.experiments._running.repetition import Repetition
from amlsched.experiments._running.summary import Ended


class WithLog(Experiment):
    def initialize(self, cw_config: dict[str, Any], rep: int, logger: RepetitionLog) -> None: ...

    def run(self, cw_config: dict[str, Any], rep: int, logger: RepetitionLog) -> None:
        logger(loss=0.5)


class WithArray(Experiment):
    def initialize(self, cw_config: dict[str, Any], rep: int, logger: AbstractLogger) -> None: ...

    def run(self, cw_config: dict[str, Any], rep: int, logger: LoggerArray) -> dict[str, float]:
        return {"loss": 0.5}


class Awaits(IterativeExperiment):
    async def initialize(self, cw_config: dict[str, Any], rep: int, logger: RepetitionLog) -> None: ...

    async def iterate(self, cw_config: dict[str, Any], rep: int, n: int) -> dict[str, Any]:
        return {"loss": 0.5}

    async def load_state(self, cw_config: dict[str, Any], rep: int) -> int | None:
        return None


class Number(IterativeExperiment):
    def iterate(self, cw_config: dict[str, Any], rep: int, n: int) -> float:
        return 0.5


class NoRow(IterativeExperiment):
    def iterate(self, cw_config: dict[str, Any], rep: int, n: int) -> str:  # type: ignore[override]
        return "done"


# Configs

Plan("config.yml", select="digits")
Plan(Path("config.yml"), select=["digits"])
Plan({"name": "digits", "path": "results", "params": {"lr": 0.1}})
Plan([{"name": "DEFAULT", "path": Path("results")}, {"name": "digits"}])
Plan(3)  # type: ignore[arg-type]
run = ExperimentRun(WithLog, ({"name": "digits"},), max_workers=2)


@run.on_results
def thinks(results: list[tuple[Repetition, Ended]]) -> None: ...


@run.on_results(every=2)
def thinks_seldom(results: list[tuple[Repetition, Ended]]) -> None: ...


@run.on_results  # type: ignore[arg-type]
def wants_one(repetition: Repetition, ended: Ended) -> None: ...


work = ClusterWork(WithLog, argv=["config.yml"])
if not work.args["slurm"]:
    for config in work.config.exp_configs or ():
        config["params"] = {"lr": 0.1}
work.config.to_yaml("copies", relpath=False)
