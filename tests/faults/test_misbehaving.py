"""Exceptions, results and arguments whose own code raises or exits: the call ends once with what can travel, the
worker lives on, and nothing of it ends the driver."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from traceback import extract_tb
from typing import Any

import pytest

from amlsched import (
    CallAbortedError,
    CommError,
    ExitState,
    NotPicklableError,
    Plugin,
    Scheduler,
    WorkerStartError,
)
from amlsched._context import contextmanager
from amlsched.plugins import Comm, Limits, WarningFilter
from tests.faults.misbehaving import (
    RAISED,
    AtDump,
    AtLoad,
    CountsAsFalse,
    ExitsWhenMade,
    ExitsWhenPickled,
    Frozen,
    SetsNothing,
    WantsTwo,
    close,
    leave,
    process,
    raises,
    returns,
)


@dataclass(frozen=True)
class Place:
    name: str
    options: Mapping[str, Any] = field(default_factory=lambda: {"max_workers": 1})
    needs: str = "amlsched"


PLACES = (
    Place("processes"),
    Place("loky", needs="loky"),
    Place("dask", {"n_workers": 1}, needs="distributed"),
)
WHAT_TRAVELS: dict[str, type[BaseException]] = {
    "delegates": NotPicklableError,
    "exits when made": ExitsWhenMade,
    "exits when pickled": ExitsWhenPickled,
    "exits when shown": NotPicklableError,
    "in a group": ExceptionGroup,
    "counts as false": CountsAsFalse,
    "with a lock": ValueError,
    "sets nothing": SetsNothing,
    "hides its trace": NotPicklableError,
    "hides its class": NotPicklableError,
    "frozen": Frozen,
}


@pytest.fixture(params=PLACES, ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.param
    pytest.importorskip(found.needs)
    return found


def ends(place: Place, calls: list[tuple[Callable[..., Any], Any]], **options: Any) -> list[Any]:
    """How calls end, in their order, each once; and nothing ran again."""
    scheduler = Scheduler.from_name(place.name, **place.options)
    seen: dict[Any, Any] = {}
    order: list[Any] = []
    scheduler.on_future_result(lambda future, result: seen.setdefault(future, []).append(result))
    scheduler.on_future_exception(lambda future, error: seen.setdefault(future, []).append(error))
    again: list[BaseException] = []
    scheduler.on_future_retry(lambda future, error, attempt: again.append(error))
    tasks = {function: scheduler.task(function, **options) for function, _ in calls}

    @scheduler.on_start
    def start() -> None:
        order.extend(tasks[function].submit(argument) for function, argument in calls)

    assert scheduler.run(on_exception="continue").code is ExitState.Code.EXHAUSTED
    assert again == []
    assert [len(seen[future]) for future in order] == [1] * len(calls)
    return [seen[future][0] for future in order]


def test_exceptions_end_their_call_with_what_can_travel(place: Place) -> None:
    first, *errors, last = ends(place, [(process, None), *((raises, kind) for kind in RAISED), (process, None)])
    assert first == last  # the worker lives on
    for kind, error in zip(RAISED, errors, strict=True):
        assert type(error) is WHAT_TRAVELS[kind], kind
        if kind != "exits when shown":
            assert "the real reason" in str(error)
        assert "raise RAISED[kind]()" in str(error.__cause__)
    group = errors[list(RAISED).index("in a group")]
    assert [type(one) for one in group.exceptions] == [WantsTwo, ExceptionGroup]
    assert str(group.exceptions[0]) == "x 1"


@pytest.mark.parametrize("receipts", [False, True])
@pytest.mark.parametrize("name", ["sequential", "threads"])
def test_exceptions_that_do_not_travel_end_their_call_as_they_are(name: str, receipts: bool) -> None:
    place = Place(name, {"receipts": receipts})
    errors = ends(place, [(raises, kind) for kind in RAISED])
    for kind, error in zip(RAISED, errors, strict=True):
        wanted = CallAbortedError if kind == "hides its class" else type(RAISED[kind]())
        assert type(error) is wanted, kind


def test_exceptions_come_with_their_receipt(place: Place) -> None:
    kinds = ["frozen", "sets nothing", "hides its trace"]
    receipts = Place(place.name, {**place.options, "receipts": True}, place.needs)
    errors = ends(receipts, [(raises, kind) for kind in kinds])
    assert [type(error) for error in errors] == [WHAT_TRAVELS[kind] for kind in kinds]


@pytest.mark.parametrize("name", ["sequential", "processes"])
@pytest.mark.parametrize("plugin", [lambda: Limits(walltime="10 min"), lambda: WarningFilter("ignore")])
def test_plugins_do_not_hide_what_a_function_raises(name: str, plugin: Callable[[], Plugin]) -> None:
    kinds = ["frozen", "sets nothing"]
    errors = [ends(Place(name, {}), [(raises, kind)], plugins=plugin())[0] for kind in kinds]
    assert [type(error) for error in errors] == [WHAT_TRAVELS[kind] for kind in kinds]


def test_a_run_raises_what_a_function_raised() -> None:
    scheduler = Scheduler.with_sequential(receipts=True)
    scheduler.on_start(lambda: scheduler.submit(raises, "frozen"))
    with pytest.raises(Frozen, match="the real reason"):
        scheduler.run()


def test_a_context_leaves_what_passes_through_it_as_it_is() -> None:
    seen: list[str] = []

    @contextmanager
    def context(swallows: bool) -> Generator[str]:
        try:
            yield "inside"
        except Exception as error:
            seen.append(type(error).__name__)
            if not swallows:
                raise
        finally:
            seen.append("left")

    for raised in (SetsNothing("x"), StopIteration(3), ValueError("x")):
        caught: BaseException | None = None
        try:
            with context(swallows=False) as word:
                seen.append(word)
                raise raised
        except Exception as error:
            caught = error
        assert caught is raised
        assert [frame.name for frame in extract_tb(BaseException.__dict__["__traceback__"].__get__(caught))] == [
            "test_a_context_leaves_what_passes_through_it_as_it_is"
        ]
    with context(swallows=True):
        raise ValueError
    with context(swallows=True):
        pass
    assert seen[:3] == ["inside", "SetsNothing", "left"]
    assert seen[-1] == "left"


def say(what: str, *, comm: Comm) -> str:
    with comm.open():
        try:
            if what == "message":
                comm.send(AtLoad())
            elif what == "request":
                comm.request(AtLoad())
            else:
                comm.send(AtDump())
        except (CommError, NotPicklableError) as error:
            return str(error)
    return "sent"


@pytest.mark.parametrize("name", ["sequential", "threads", "processes"])
def test_messages_that_exit_end_neither_the_call_nor_the_driver(name: str) -> None:
    scheduler = Scheduler.from_name(name)
    task = scheduler.task(say, plugins=Comm.Plugin())
    said: list[str] = []
    task.on_result(lambda _, result: said.append(result))
    task.on(Comm.REQUEST, lambda msg: msg.respond(1))
    scheduler.on_start(lambda: [task.submit(what) for what in ("message", "request", "dump")])
    assert scheduler.run(on_exception="continue", order="submission").code is ExitState.Code.EXHAUSTED
    assert said[0] == "sent"
    assert "cannot be loaded here: SystemExit: at load" in said[1]
    assert "SystemExit: at dump" in said[2]


@pytest.mark.parametrize("kind", ["counts as false", "exits when made"])
def test_exceptions_of_calls_that_travel_in_a_batch(place: Place, kind: str) -> None:
    errors = ends(place, [(raises, kind)] * 3, batch_size=3)
    assert [type(error) for error in errors] == [WHAT_TRAVELS[kind]] * 3


def test_results_that_exit_end_their_call(place: Place) -> None:
    first, *errors, last = ends(place, [(process, None), (returns, "load"), (returns, "dump"), (process, None)])
    assert first == last
    for error, words in zip(errors, ("at load", "at dump"), strict=True):
        assert type(error) is NotPicklableError
        assert words in str(error)


def test_arguments_that_exit_when_they_are_loaded_end_their_call(place: Place) -> None:
    errors = ends(place, [(returns, AtLoad()), (returns, AtLoad(close)), (process, None)])[:2]
    assert [type(error) for error in errors] == [NotPicklableError] * 2
    assert [words in str(error) for words, error in zip(("SystemExit", "GeneratorExit"), errors, strict=True)] == [
        True
    ] * 2
    assert all("at load" in str(error) for error in errors)


@pytest.mark.parametrize("name", ["threads", "processes", "loky"])
def test_an_initializer_that_exits_ends_all_calls(name: str) -> None:
    scheduler = Scheduler.from_name(name, max_workers=1, initializer=leave, initargs=("no data",))
    task = scheduler.task(process)
    errors: list[BaseException] = []
    task.on_exception(lambda _, error: errors.append(error))

    @scheduler.on_start
    def start() -> None:
        task.submit(None)
        try:
            task.submit(None)
        except WorkerStartError as error:  # a thread had begun by then
            errors.append(error)

    scheduler.run(on_exception="continue")
    assert [type(error) for error in errors] == [WorkerStartError] * 2
    assert all("no data" in str(error) for error in errors)


def test_arguments_that_exit_when_they_are_pickled_are_refused_by_submit(place: Place) -> None:
    scheduler = Scheduler.from_name(place.name, **place.options)
    task = scheduler.task(returns)

    @scheduler.on_start
    def start() -> None:
        with pytest.raises(NotPicklableError, match="argument 'value' .*SystemExit: at dump"):
            task.submit(AtDump())

    assert scheduler.run().code is ExitState.Code.EXHAUSTED
