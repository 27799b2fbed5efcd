"""Who dies, when, and where: in each cell the guilty alone fail, in the right way, and nothing is left.

`docs/reliability.md` shows the cells as a table, which a test here holds to be this one.
"""

from __future__ import annotations

import re
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from amlsched import (
    ExitState,
    MemoryLimitError,
    NotPicklableError,
    Scheduler,
    WalltimeLimitError,
    WorkerExitedError,
    WorkerKilledError,
    WorkerLostError,
    WorkerStartError,
)
from amlsched.plugins import Limits
from tests.backends import THOROUGH
from tests.faults.guilty import WAYS, AtLoad, Unloadable, die_as_argument, guilty, innocent
from tests.processes import alive, serves_this_process, until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CALLS = 50
GUILTY = (7, 23, 31, 3, 11, 13, 17, 19, 29, 33, 37, 41, 43, 44, 46, 47)
"""The calls that may be guilty: those of the first faults of a cell."""
LIMIT_S = 200
"""Far more than the 20 s that a run may take: other tests may have the cores."""


@dataclass(frozen=True)
class Place:
    """An executor, and what a lost worker is there."""

    name: str
    options: Mapping[str, Any] = field(default_factory=lambda: {"max_workers": 2})
    in_child: bool = False
    """The function shares a process with the scheduler, unless `Limits` gives it one of its own."""
    needs: str = ""
    gives_up_late: bool = False
    """It gives a call to four workers before it gives it up, and each takes a second to start."""

    def scheduler(self) -> Scheduler:
        if self.needs:
            pytest.importorskip(self.needs)
        return Scheduler.from_name(self.name, **self.options)


PLACES = (
    Place("sequential", {}, in_child=True),
    Place("threads", in_child=True),
    Place("processes"),
    Place("loky", needs="loky"),
    Place("dask", {"n_workers": 2}, needs="distributed", gives_up_late=True),
)
DEATHS: dict[str, type[BaseException]] = {
    "SIGKILL": WorkerKilledError,
    "SIGSEGV": WorkerKilledError,
    "os._exit": WorkerExitedError,
}
MOMENTS = ("before", "during", "after", "on its way")


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: In the table.
        arguments: Of the guilty call.
        error: How it ends; `None` where it returns.
        function: The guilty call.
        limits: Of its task.
        pickles: Only where calls are pickled.
        may_return: It may have been quicker than its death.
        shares: It is safe for a process that it shares with the scheduler.
    """

    name: str
    arguments: tuple[Any, ...]
    error: type[BaseException] | None
    function: Callable[..., Any] = guilty
    limits: Mapping[str, Any] = field(default_factory=dict)
    pickles: bool = False
    may_return: bool = False
    shares: bool = False

    @property
    def lost(self) -> bool:
        return self.error is not None and issubclass(self.error, WorkerLostError)


def _death(way: str, moment: str) -> Fault:
    if moment == "before":
        return Fault(f"{way} before the function", (0, AtLoad(way)), DEATHS[way], die_as_argument)
    where = f"{moment} the function" if moment != "on its way" else "while the result travels"
    return Fault(f"{way} {where}", (moment, way), DEATHS[way], may_return=moment == "on its way")


_DEATHS = {(way, moment): _death(way, moment) for way in WAYS for moment in MOMENTS}
FAULTS = (
    *_DEATHS.values(),
    Fault("more memory than its limit", ("memory",), MemoryLimitError, limits={"memory": "64 MiB"}),
    Fault("never returns, under a limit", ("sleeps",), WalltimeLimitError, limits={"walltime": "0.5 s"}),
    Fault("the result does not pickle", ("result",), NotPicklableError, pickles=True),
    Fault("the exception does not load", ("exception",), Unloadable, pickles=True),
    Fault("the function raises BrokenExecutor", ("BrokenExecutor",), BrokenExecutor),
    Fault("a pool inside breaks", ("a pool inside",), BrokenProcessPool),
    Fault("forks and both return", ("forks",), None, shares=True),
    Fault("forks and both return, under a limit", ("forks",), None, limits={"walltime": "10 min"}),
)


def cells() -> list[Any]:
    """Places, each with faults that are committed in one run of it: by a call each, or by two calls of one fault.

    A worker dies in all three ways in one run, where that takes no longer than three runs. dask does not tell the ways
    apart, and its runs are the slowest: there a worker dies in one way at each moment, and in all with
    `AMLSCHED_THOROUGH`. The faults that no worker dies of are committed in one run.
    """
    deaths = [[_DEATHS[way, moment] for way in WAYS] for moment in MOMENTS]
    one_way = [[together[number % len(together)]] for number, together in enumerate(deaths)]
    one_by_one = [[death] for together in deaths for death in together] if THOROUGH else one_way
    found: list[Any] = []
    for place in PLACES:
        for faults in one_by_one if place.gives_up_late else deaths:
            first, last = faults[0].name, faults[-1].name
            name = first if first == last else f"dies {first.partition(' ')[2]}"
            found.append(pytest.param(place, faults, id=f"{name}-{place.name}".replace(" ", "_")))
        others = [fault for fault in FAULTS if not fault.lost and not (fault.pickles and place.in_child)]
        found.append(pytest.param(place, others * 2, id=f"nothing_dies-{place.name}"))
    return found


def _descendants() -> list[psutil.Process]:
    """What this process has started, but for what serves it and ends with it."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children(recursive=True):
        if alive(child.pid) and not serves_this_process(child.pid):
            found.append(child)
    return found


def _run(place: Place, faults: Mapping[int, Fault]) -> tuple[dict[int, BaseException], list[Any]]:
    """What the guilty ended with, by their numbers, and what was returned."""
    scheduler = place.scheduler()
    good = scheduler.task(innocent)

    def bad(fault: Fault) -> Any:
        limits = dict(fault.limits)
        if place.in_child and not limits and not fault.shares:
            limits = {"walltime": "10 min"}
        return scheduler.task(fault.function, plugins=[Limits(**limits)] if limits else [])

    guilty = {number: bad(fault) for number, fault in faults.items()}
    numbers: dict[Any, int] = {}
    errors: dict[int, BaseException] = {}
    results: list[Any] = []
    ended: list[Any] = []

    @scheduler.on_start
    def start() -> None:
        for number in range(CALLS):
            fault = faults.get(number)
            future = guilty[number].submit(*fault.arguments) if fault else good.submit(number)
            numbers[future] = number

    @scheduler.on_future_exception
    def failed(future: Any, error: BaseException) -> None:
        errors[numbers[future]] = error

    scheduler.on_future_result(lambda _, result: results.append(result))
    scheduler.on_future_done(ended.append)
    state = scheduler.run(on_exception="continue", timeout=LIMIT_S)
    assert state == ExitState(ExitState.Code.EXHAUSTED)
    assert len(ended) == len(set(ended)) == CALLS
    return errors, results


@pytest.mark.parametrize(("place", "faults"), cells())
def test_the_guilty_alone_fail_and_nothing_is_left(place: Place, faults: list[Fault]) -> None:
    before = {process.pid for process in _descendants()}
    guilty = dict(zip(GUILTY, faults, strict=False))
    errors, results = _run(place, guilty)
    assert set(errors) <= set(guilty)
    assert {number for number, fault in guilty.items() if fault.error and not fault.may_return} <= set(errors)
    for number, error in errors.items():
        # dask knows that a worker is gone, and not of what: its nanny started another before it told.
        wanted = WorkerLostError if place.name == "dask" and guilty[number].lost else guilty[number].error
        assert wanted is not None
        assert isinstance(error, wanted), (number, error)
    assert len(results) == CALLS - len(errors)
    assert sum(result for result in results if isinstance(result, int)) == sum(range(CALLS)) - sum(guilty)
    until(lambda: {process.pid for process in _descendants()} <= before, 30)


@pytest.mark.parametrize("place", [place for place in PLACES if not place.in_child], ids=lambda place: place.name)
def test_an_argument_that_does_not_pickle_is_refused_and_named(place: Place) -> None:
    scheduler = place.scheduler()
    task = scheduler.task(die_as_argument)
    results: list[int] = []
    refused: list[NotPicklableError] = []

    @scheduler.on_start
    def start() -> None:
        for number in range(CALLS):
            try:
                task.submit(number, (None for _ in ()) if number in GUILTY else None)
            except NotPicklableError as error:
                refused.append(error)

    task.on_result(lambda _, result: results.append(result))
    assert scheduler.run(timeout=LIMIT_S) == ExitState(ExitState.Code.EXHAUSTED)
    assert [error.what for error in refused] == ["argument '_'"] * len(GUILTY)
    assert sum(results) == sum(range(CALLS)) - sum(GUILTY)


@pytest.mark.parametrize("place", [place for place in PLACES if place.name in ("threads", "processes", "loky")])
def test_an_initializer_that_raises_fails_every_call_and_the_run_ends(place: Place) -> None:
    if place.needs:
        pytest.importorskip(place.needs)
    scheduler = Scheduler.from_name(place.name, **place.options, initializer=divmod, initargs=(1, 0))
    task = scheduler.task(innocent)
    errors: list[BaseException] = []

    @scheduler.on_start
    def start() -> None:
        for number in range(CALLS):
            try:
                task.submit(number)
            except WorkerLostError as error:  # a pool that is known to be broken takes no call
                errors.append(error)

    task.on_exception(lambda _, error: errors.append(error))
    assert scheduler.run(on_exception="continue", timeout=LIMIT_S) == ExitState(ExitState.Code.EXHAUSTED)
    assert len(errors) == CALLS
    assert all(isinstance(error, WorkerStartError if place.name != "loky" else WorkerLostError) for error in errors)


# ------------------------------------------------------------------------------------------------------- the table


def table() -> str:
    """The cells, as they stand in the documentation."""
    places = [place.name for place in PLACES]
    lines = ["| the guilty call | " + " | ".join(places) + " |", "|---" * (len(places) + 1) + "|"]
    for fault in FAULTS:
        row = []
        for place in PLACES:
            if fault.pickles and place.in_child:
                row.append("–")
            else:
                error = WorkerLostError if fault.lost and place.name == "dask" else fault.error
                own_child = place.in_child and not fault.limits and not fault.shares
                row.append((f"`{error.__name__}`" if error else "returns") + (" ¹" if own_child else ""))
        lines.append(f"| {fault.name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def test_the_documentation_shows_these_cells() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text("utf-8")
    shown = re.search(r"<!-- faults: begin -->\n+(.*?)\n+<!-- faults: end -->", page, re.DOTALL)
    assert shown is not None
    assert shown[1] == table()
