"""Read by mypy and pyright in strict mode, and never run: experiments as users write them."""

from typing import Any

from amlsched.experiments import AbstractLogger, Experiment, IterativeExperiment, LoggerArray, RepetitionLog


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
