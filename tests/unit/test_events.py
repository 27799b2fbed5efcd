"""Events, emitters and subscribers, without a scheduler."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any

import pytest

from amlsched import CallbackError, Emitter, Event, EventNotKnownError

PING: Event[[int], Any] = Event("ping", ("number",))
FREE: Event[..., Any] = Event("free")


@pytest.fixture
def emitter() -> Emitter:
    return Emitter("the emitter")


# Event


def test_an_event_is_equal_to_its_name_and_has_its_hash() -> None:
    event: Event[[], Any] = Event("on-result")
    assert event == "on-result"
    assert hash(event) == hash("on-result")
    assert {event: 1}["on-result"] == 1
    assert {"on-result": 1}[event] == 1
    assert len({event, Event("on-result"), "on-result"}) == 1
    assert event.name == "on-result"
    assert event != Event("on-done")


def test_an_event_survives_a_copy_and_a_pickle() -> None:
    import copy
    import pickle

    assert copy.deepcopy(PING) == pickle.loads(pickle.dumps(PING)) == PING


# Emitting


def test_callbacks_get_the_arguments_in_the_order_of_registration(emitter: Emitter) -> None:
    told: list[Any] = []
    for name in "abc":
        emitter.on(FREE, partial(lambda name, *args, **kwargs: told.append((name, args, kwargs)), name))
    emitter.emit(FREE, 1, key=2)
    assert told == [(name, (1,), {"key": 2}) for name in "abc"]


def test_without_callbacks_an_event_is_counted_and_nothing_else(emitter: Emitter) -> None:
    emitter.emit(FREE)
    assert emitter.event_counts[FREE] == 1
    assert emitter.subscriber(FREE).count == emitter.subscriber(FREE).event_counts == 1


def test_emit_formats_nothing_compares_nothing_and_copies_nothing(emitter: Emitter) -> None:
    class Awkward:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"somebody asked for {name}")

        __bool__ = __eq__ = __repr__ = __str__ = lambda self: self.anything  # type: ignore[assignment]
        __hash__ = None  # type: ignore[assignment]

    value, told = Awkward(), []
    emitter.on(FREE, lambda got: told.append(got is value))
    emitter.emit(FREE, value)
    assert told == [True]


def test_an_event_costs_no_more_calls_than_its_callbacks_and_a_handful(emitter: Emitter) -> None:
    def cost(callbacks: int) -> int:
        fresh = Emitter()
        for _ in range(callbacks):
            fresh.on(FREE, lambda: None)
        subscriber, entered = fresh.subscriber(FREE), 0

        def count(_frame: Any, event: str, _arg: Any) -> None:
            nonlocal entered
            entered += event == "call"

        sys.setprofile(count)
        try:
            subscriber.emit()
        finally:
            sys.setprofile(None)
        return entered

    assert cost(0) <= 1
    assert cost(1) <= 4
    assert cost(11) - cost(1) == 10


def test_registering_while_the_event_is_emitted_is_for_the_next_time(emitter: Emitter) -> None:
    told: list[str] = []

    @emitter.on(FREE)
    def register_another() -> None:
        told.append("first")
        emitter.on(FREE, lambda: told.append("another"))

    emitter.emit(FREE)
    assert told == ["first"]
    emitter.emit(FREE)
    assert told == ["first", "first", "another"]


def test_unregister_removes_a_callback_and_leaves_the_others(emitter: Emitter) -> None:
    told: list[str] = []

    def gone() -> None:
        told.append("gone")

    def kept() -> None:
        told.append("kept")

    subscriber = emitter.subscriber(FREE)
    for callback in (gone, kept, gone):
        subscriber(callback)
    subscriber.unregister(gone)
    subscriber.unregister(print)
    subscriber.emit()
    assert told == ["kept"]


def test_every_callback_runs_though_one_raises_and_the_first_exception_is_raised(emitter: Emitter) -> None:
    told: list[str] = []

    def fails(message: str) -> None:
        raise ValueError(message)

    emitter.on(FREE, partial(fails, "first"))
    emitter.on(FREE, partial(fails, "second"))
    emitter.on(FREE, lambda: told.append("the other"))
    with pytest.raises(ValueError, match="first") as caught:
        emitter.emit(FREE)
    assert told == ["the other"]
    (note,) = caught.value.__notes__
    assert "fails" in note
    assert "free" in note
    assert "the emitter" in note


# Registering


def test_a_subscriber_is_called_with_the_callback_or_used_as_a_decorator_with_or_without_gates(
    emitter: Emitter,
) -> None:
    told: list[str] = []
    subscribe = emitter.subscriber(FREE)

    def plain() -> None:
        told.append("plain")

    assert subscribe(plain) is plain

    @subscribe
    def decorated() -> None:
        told.append("decorated")

    @subscribe(every=2)
    def gated() -> None:
        told.append("gated")

    assert callable(decorated)
    assert callable(gated)
    subscribe.emit()
    subscribe.emit()
    assert told == ["plain", "decorated", "plain", "decorated", "gated"]


@pytest.mark.parametrize("how", ["event", "name", "register by event", "register by name"])
def test_a_callback_is_registered_by_the_event_or_by_its_name(emitter: Emitter, how: str) -> None:
    told: list[int] = []
    emitter.add_event(PING)
    register = emitter.register if how.startswith("register") else emitter.on
    register("ping" if "name" in how else PING, told.append, every=2)
    for number in range(4):
        emitter.emit("ping" if "name" in how else PING, number)
    assert told == [1, 3]


def test_a_name_that_is_not_known_is_refused_with_those_that_are(emitter: Emitter) -> None:
    emitter.add_event(PING, FREE)
    for use in (lambda: emitter.on("pong"), lambda: emitter.register("pong", print), lambda: emitter.emit("pong")):
        with pytest.raises(EventNotKnownError, match=r"the emitter has no event 'pong'; it has: ping, free"):
            use()
    assert emitter.events == [PING, FREE]


def test_an_event_object_becomes_known_by_its_use(emitter: Emitter) -> None:
    emitter.emit(PING, 1)
    emitter.on("ping", print)
    assert emitter.events == [PING]


@pytest.mark.parametrize(
    ("callback", "problem"),
    [
        pytest.param(lambda: None, "too many positional", id="takes nothing"),
        pytest.param(lambda a, b: None, "missing a required argument: 'b'", id="takes more"),
        pytest.param(lambda a, *, key: None, "missing a required", id="needs a keyword"),
        pytest.param("print", "not callable", id="no function"),
        pytest.param(lambda a: (yield a), "a generator function", id="yields"),
    ],
)
def test_a_callback_that_cannot_take_the_arguments_is_refused_when_registered(
    emitter: Emitter, callback: Any, problem: str
) -> None:
    with pytest.raises(CallbackError, match="cannot be a callback of ping: ") as caught:
        emitter.on(PING, callback)
    assert problem in str(caught.value)
    assert emitter.subscriber(PING).handlers == ()


@pytest.mark.parametrize(
    "callback",
    [
        pytest.param(lambda number: None, id="its argument"),
        pytest.param(lambda *args: None, id="any"),
        pytest.param(lambda number, more=None: None, id="a default"),
        pytest.param(print, id="a builtin"),
        pytest.param(partial(lambda name, number: None, "name"), id="partial"),
        pytest.param([].append, id="a method of a builtin"),
        pytest.param(type("Listens", (), {"__call__": lambda self, number: None})(), id="an object"),
    ],
)
def test_a_callback_that_can_take_the_arguments_is_accepted(emitter: Emitter, callback: Any) -> None:
    emitter.on(PING, callback)
    emitter.emit(PING, 1)
    assert emitter.event_counts[PING] == 1


# Gates


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"every": 2}, [1, 3, 5]),
        ({"every": 7}, []),
        ({"max_calls": 2}, [0, 1]),
        ({"repeat": 2, "max_calls": 2}, [0, 0, 1, 1]),
        ({"every": 2, "max_calls": 2}, [1, 3]),
        ({"every": 3, "repeat": 3}, [2, 2, 2, 5, 5, 5]),
        ({"hidden": True}, [0, 1, 2, 3, 4, 5]),
    ],
    ids=str,
)
def test_gates_choose_when_a_callback_is_called(emitter: Emitter, gates: dict[str, Any], expected: list[int]) -> None:
    told: list[int] = []
    emitter.on(PING, told.append, **gates)
    for number in range(6):
        emitter.emit(PING, number)
    assert told == expected


def test_when_is_asked_before_each_call_and_refusals_do_not_use_up_max_calls(emitter: Emitter) -> None:
    told: list[int] = []
    open_at = {2, 3, 5}
    current = 0
    emitter.on(PING, told.append, when=lambda: current in open_at, max_calls=2)
    for current in range(6):
        emitter.emit(PING, current)
    assert told == [2, 3]


@pytest.mark.parametrize("gates", [{"every": 0}, {"repeat": 0}, {"max_calls": 0}, {"every": -1}], ids=str)
def test_a_count_below_one_is_refused(emitter: Emitter, gates: dict[str, Any]) -> None:
    (name,) = gates
    with pytest.raises(ValueError, match=rf"{name}=.*at least 1"):
        emitter.on(PING, print, **gates)


def test_hidden_callbacks_say_so_to_displays(emitter: Emitter) -> None:
    emitter.on(FREE, print, hidden=True)
    emitter.on(FREE, repr)
    assert [handler.hidden for handler in emitter.subscriber(FREE).handlers] == [True, False]


# Async callbacks without a scheduler


def test_an_async_callback_runs_as_a_task_of_the_running_loop(emitter: Emitter) -> None:
    told: list[int] = []

    @emitter.on(PING)
    async def later(number: int) -> None:
        await asyncio.sleep(0)
        told.append(number)

    async def main() -> None:
        emitter.emit(PING, 1)
        assert told == []
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert told == [1]


def test_an_async_callback_without_any_loop_is_an_error_where_it_is_emitted(emitter: Emitter) -> None:
    @emitter.on(FREE)
    async def later() -> None: ...

    with pytest.raises(RuntimeError, match="loop"):
        emitter.emit(FREE)


@pytest.mark.parametrize("parameters", [[int, str], str, ...])
def test_the_return_type_of_callbacks_may_be_left_out(parameters: Any) -> None:
    types = parameters if isinstance(parameters, list) or parameters is ... else [parameters]
    assert Event[parameters] == Event[types, Any]
