"""Messages between calls and their driver, over every executor."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import CommError, ExitState, NotPicklableError, Scheduler
from amlsched.plugins import Comm

if TYPE_CHECKING:
    from amlsched import Task
    from tests.backends import Backend, MakesScheduler

EVENTS = (Comm.OPEN, Comm.MESSAGE, Comm.REQUEST, Comm.CLOSE)


class Told:
    """What a task tells by its events, in this order: name of the event, data."""

    def __init__(self, task: Task[..., Any]) -> None:
        self.events: list[tuple[str, Any]] = []
        self.closes: list[BaseException | None] = []
        for event in EVENTS:
            task.on(event, self.take)
        task.on_done(lambda _: self.events.append(("done", None)))
        task.on_result(lambda _, result: self.events.append(("result", result)))
        task.on_exception(lambda _, error: self.events.append(("exception", error)))
        task.on_cancelled(lambda _: self.events.append(("cancelled", None)))

    def take(self, msg: Comm.Msg[Any]) -> None:
        self.events.append((str(msg.kind), msg.data))
        if msg.kind is Comm.Msg.Kind.CLOSE:
            self.closes.append(msg.exception)

    def of(self, kind: str) -> list[Any]:
        return [data for name, data in self.events if name == kind]

    @property
    def kinds(self) -> list[str]:
        return [name for name, _ in self.events]


def run(scheduler: Scheduler, function: Any, *args: Any, n: int = 1, **options: Any) -> tuple[Told, ExitState]:
    """Submit a task `n` times and run; a request is answered with its double."""
    task = scheduler.task(function, plugins=Comm.Plugin())
    told = Told(task)
    task.on(Comm.REQUEST, lambda msg: msg.respond(2 * msg.data))
    scheduler.on_start(lambda: [task.submit(*args) for _ in range(n)])
    return told, scheduler.run(**options)


# ------------------------------------------------------------------------------------------------------- messages


def talk(n: int, *, comm: Comm) -> str:
    with comm.open("hello"):
        for i in range(n):
            comm.send(i)
        answer = comm.request("over", timeout=30)
        comm.send("last")
    return answer


def test_events_come_in_the_order_sent_and_before_those_of_the_end(scheduler: Scheduler) -> None:
    told, state = run(scheduler, talk, 3)
    assert told.events == [
        ("open", "hello"),
        ("message", 0),
        ("message", 1),
        ("message", 2),
        ("request", "over"),
        ("message", "last"),
        ("close", None),
        ("done", None),
        ("result", "overover"),
    ]
    assert told.closes == [None]
    assert state.code is ExitState.Code.EXHAUSTED


def test_a_thousand_messages_come_in_order(scheduler: Scheduler) -> None:
    told, _ = run(scheduler, talk, 1000)
    assert told.of("message") == [*range(1000), "last"]


def begins_with_comm(comm: Comm, first: int, *others: int) -> int:
    comm.send(first)
    return sum(others)


def test_positional_arguments_begin_behind_a_first_parameter_for_the_comm(scheduler: Scheduler) -> None:
    told, _ = run(scheduler, begins_with_comm, 1, 2, 3)
    assert (told.of("message"), told.of("result")) == ([1], [5])


def flood(n: int, *, comm: Comm) -> None:
    for i in range(n):
        comm.send(i)


def test_a_call_that_sends_faster_than_callbacks_take_is_held_back_and_loses_nothing(scheduler: Scheduler) -> None:
    task = scheduler.task(flood, plugins=Comm.Plugin())
    told = Told(task)
    task.on(Comm.MESSAGE, lambda msg: time.sleep(0.0005) if msg.data < 200 else None)
    scheduler.on_start(lambda: task.submit(5000))
    scheduler.run()
    assert told.of("message") == list(range(5000))
    assert told.kinds[-2:] == ["done", "result"]


def unopened(*, comm: Comm) -> int:
    comm.send("a")
    return comm.request(21, timeout=30)


def test_a_channel_opens_with_its_first_use_and_closes_with_the_call(scheduler: Scheduler) -> None:
    told, _ = run(scheduler, unopened)
    assert told.kinds == ["open", "message", "request", "close", "done", "result"]
    assert told.of("result") == [42]


def silent(*, comm: Comm) -> str:
    return repr(comm)


def test_a_call_that_says_nothing_has_no_events_and_its_comm_shows_no_key(scheduler: Scheduler) -> None:
    told, _ = run(scheduler, silent)
    assert told.events == [("done", None), ("result", "<Comm 1 of silent>")]


def large(size: int, *, comm: Comm) -> bool:
    data = os.urandom(size)
    return bool(comm.request(data, timeout=30) == 2 * data)


def test_large_messages_arrive_whole(scheduler: Scheduler) -> None:
    told, _ = run(scheduler, large, 3_000_000, n=2)
    assert told.of("result") == [True, True]


def close_by_hand(*, comm: Comm) -> str:
    comm.send(1)
    comm.close("bye")
    comm.close()
    try:
        comm.send(2)
    except CommError as error:
        return str(error)
    return "sent"


def test_a_closed_channel_stays_closed(scheduler: Scheduler) -> None:
    told, _ = run(scheduler, close_by_hand)
    assert told.of("close") == ["bye"]
    assert told.of("message") == [1]
    assert told.of("result") == ["close_by_hand: the channel cannot be used: it was closed"]


def fail_inside(*, comm: Comm) -> None:
    with comm.open():
        comm.send(1)
        raise ValueError("no luck")


def test_a_function_that_raises_closes_its_channel_and_keeps_its_exception(scheduler: Scheduler) -> None:
    told, state = run(scheduler, fail_inside, on_exception="end")
    assert told.kinds == ["open", "message", "close", "done", "exception"]
    assert told.closes == [None]
    assert isinstance(state.exception, ValueError)


def count(start: int, n: int, *, channel: Comm) -> None:
    with channel.open(start):
        for i in range(n):
            channel.send(start + i)


def test_two_tasks_and_several_calls_have_their_own_channels(scheduler: Scheduler) -> None:
    tasks = [scheduler.task(count, plugins=Comm.Plugin("channel")) for _ in range(2)]
    received: dict[Any, list[int]] = {}
    for task in tasks:
        task.on(Comm.OPEN, lambda msg: received.setdefault((msg.task, msg.future), []).append(msg.data))
        task.on(Comm.MESSAGE, lambda msg: received[msg.task, msg.future].append(msg.data))

    @scheduler.on_start
    def start() -> None:
        for i, task in enumerate(tasks):
            for j in range(3):
                task.submit(100 * i + 10 * j, 5)

    scheduler.run()
    assert sorted(received.values()) == [[start, *range(start, start + 5)] for start in (0, 10, 20, 100, 110, 120)]
    assert all(future.task is task for task, future in received)


def test_a_scheduler_can_be_run_again(scheduler: Scheduler) -> None:
    task = scheduler.task(talk, plugins=Comm.Plugin())
    told = Told(task)
    task.on(Comm.REQUEST, lambda msg: msg.respond("yes"))
    scheduler.on_start(lambda: task.submit(2))
    for _ in range(2):
        scheduler.run()
    assert told.events[: len(told.events) // 2] == told.events[len(told.events) // 2 :]
    assert task.event_counts[Comm.MESSAGE] == 3


def test_callbacks_may_submit_and_stop(scheduler: Scheduler) -> None:
    task = scheduler.task(flood, plugins=Comm.Plugin())
    told = Told(task)

    @task.on(Comm.MESSAGE)
    def on_message(msg: Comm.Msg[Any]) -> None:
        if msg.future.number < 3:
            task.submit(1)
        else:
            scheduler.stop()

    scheduler.on_start(lambda: task.submit(1))
    assert scheduler.run().code is ExitState.Code.STOPPED
    assert told.of("message") == [0, 0, 0]


# ------------------------------------------------------------------------------------------------------- requests


def ask(value: Any, timeout: float | None = 30, *, comm: Comm) -> Any:
    try:
        answer = comm.request(value, timeout=timeout)
    except Exception as error:
        answer = error
    comm.send("still here")
    return answer


def test_an_answer_may_come_later_from_another_callback(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(ask, plugins=Comm.Plugin())
    told = Told(task)
    asked: list[Comm.Msg[Any]] = []

    @task.on(Comm.REQUEST)
    def on_request(msg: Comm.Msg[Any]) -> None:
        asked.append(msg)
        if len(asked) == 2:
            asked[1].respond("second")
            scheduler.call_later(0.05, asked[0].respond, "first")

    scheduler.on_start(lambda: [task.submit(i) for i in range(2)])
    scheduler.run()
    assert sorted(told.of("result")) == ["first", "second"]


def test_an_async_callback_may_answer(concurrent_backend: Backend, shared_scheduler: MakesScheduler) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(ask, plugins=Comm.Plugin())
    told = Told(task)

    @task.on(Comm.REQUEST)
    async def on_request(msg: Comm.Msg[Any]) -> None:
        await asyncio.sleep(0.01)
        msg.respond(msg.data + 1)

    scheduler.on_start(lambda: task.submit(1))
    scheduler.run()
    assert told.of("result") == [2]


def test_an_answer_may_come_from_a_thread(concurrent_backend: Backend, shared_scheduler: MakesScheduler) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(ask, plugins=Comm.Plugin())
    told = Told(task)
    task.on(Comm.REQUEST, lambda msg: threading.Thread(target=msg.respond, args=(7,)).start())
    scheduler.on_start(lambda: task.submit(1))
    scheduler.run()
    assert told.of("result") == [7]


def test_a_request_that_nobody_answers_in_time_is_a_timeout(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(ask, plugins=Comm.Plugin())
    told = Told(task)
    kept: list[Comm.Msg[Any]] = []
    task.on(Comm.REQUEST, kept.append)
    task.on(Comm.MESSAGE, lambda _: kept[0].respond("too late"))
    scheduler.on_start(lambda: task.submit("what?", 0.05))
    scheduler.run()
    (error,) = told.of("result")
    assert isinstance(error, Comm.TimeoutError)
    assert str(error) == "ask: no answer within 0.05 s to the request 'what?'"
    assert told.of("message") == ["still here"]


def ask_twice(*, comm: Comm) -> list[Any]:
    answers: list[Any] = []
    for timeout in (0.05, 30):
        try:
            answers.append(comm.request(timeout, timeout=timeout))
        except TimeoutError:
            answers.append("time-out")
    return answers


def test_a_late_answer_is_not_taken_for_the_next_request(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(ask_twice, plugins=Comm.Plugin())
    told = Told(task)
    kept: list[Comm.Msg[Any]] = []

    @task.on(Comm.REQUEST)
    def on_request(msg: Comm.Msg[Any]) -> None:
        kept.append(msg)
        if len(kept) == 2:
            for asked in kept:
                asked.respond(asked.data)

    scheduler.on_start(lambda: task.submit())
    scheduler.run()
    assert told.of("result") == [["time-out", 30]]


def fail(msg: Comm.Msg[Any]) -> None:
    raise ZeroDivisionError("no luck")


async def fail_later(msg: Comm.Msg[Any]) -> None:
    await asyncio.sleep(0.01)
    raise ZeroDivisionError("no luck")


def ignore(msg: Comm.Msg[Any]) -> None:
    pass


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        (None, "has no callback of 'comm-request'"),
        (fail, "the callback of comm-request raised ZeroDivisionError: no luck"),
        (ignore, "no callback of comm-request answered the request"),
        (fail_later, "the callback of comm-request raised ZeroDivisionError: no luck"),
    ],
)
def test_a_request_that_will_not_be_answered_ends_at_once(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler, callback: Any, says: str
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(ask, plugins=Comm.Plugin())
    if callback is not None:
        task.on(Comm.REQUEST, callback)
    results: list[Any] = []
    told: list[Any] = []
    task.on_result(lambda _, result: results.append(result))
    task.on(Comm.MESSAGE, lambda msg: told.append(msg.data))
    scheduler.on_start(lambda: task.submit(1, None))
    scheduler.run(on_exception="continue")
    (error,) = results
    assert isinstance(error, Comm.CloseRequestError)
    assert says in str(error)
    assert told == ["still here"], "the channel can still be used"


def test_an_exception_in_a_request_callback_reaches_the_run_and_the_call(scheduler: Scheduler) -> None:
    task = scheduler.task(ask, plugins=Comm.Plugin())
    told = Told(task)
    task.on(Comm.REQUEST, fail)
    scheduler.on_start(lambda: task.submit(1, None))
    with pytest.raises(ZeroDivisionError, match="no luck"):
        scheduler.run()
    (error,) = told.of("result")
    assert isinstance(error, CommError)


def respond_twice(msg: Comm.Msg[Any]) -> None:
    msg.respond(1)
    msg.respond(2)


def test_a_second_answer_is_an_error_of_the_callback(scheduler: Scheduler) -> None:
    task = scheduler.task(ask, plugins=Comm.Plugin())
    told = Told(task)
    task.on(Comm.REQUEST, respond_twice)
    scheduler.on_start(lambda: task.submit(1))
    with pytest.raises(RuntimeError, match="call 1 of task ask: this request was already answered"):
        scheduler.run()
    assert told.of("result") == [1]


def test_only_a_request_can_be_answered(scheduler: Scheduler) -> None:
    task = scheduler.task(flood, plugins=Comm.Plugin())
    task.on(Comm.MESSAGE, lambda msg: msg.respond(1))
    scheduler.on_start(lambda: task.submit(1))
    with pytest.raises(RuntimeError, match="cannot respond to a message"):
        scheduler.run()


def respond_with_lock(msg: Comm.Msg[Any]) -> None:
    msg.respond(threading.Lock())


def test_an_answer_that_cannot_be_sent_is_an_error_of_the_callback_and_told_to_the_call(scheduler: Scheduler) -> None:
    task = scheduler.task(ask, plugins=Comm.Plugin())
    told = Told(task)
    task.on(Comm.REQUEST, respond_with_lock)
    scheduler.on_start(lambda: task.submit(1))
    with pytest.raises(NotPicklableError, match="the answer <unlocked"):
        scheduler.run()
    (error,) = told.of("result")
    assert "NotPicklableError" in str(error)


# --------------------------------------------------------------------------------------- what cannot be sent or loaded


def send_lock(*, comm: Comm) -> list[Any]:
    errors: list[Any] = []
    for say in (comm.send, comm.request):
        try:
            say(threading.Lock())
        except NotPicklableError as error:
            errors.append((error.call, error.what.split(" <")[0]))
    comm.send("still here")
    return errors


def test_a_message_that_cannot_be_sent_is_an_error_where_it_is_sent(scheduler: Scheduler) -> None:
    told, _ = run(scheduler, send_lock)
    assert told.of("result") == [[("send_lock", "the message"), ("send_lock", "the request")]]
    assert told.of("message") == ["still here"]


class Explodes:
    """Arrives nowhere."""

    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise ImportError("no module of this name")


def send_explosive(*, comm: Comm) -> Any:
    comm.send(Explodes())
    try:
        comm.request(Explodes(), timeout=30)
    except CommError as error:
        comm.send("still here")
        return str(error)


def test_a_message_that_cannot_be_loaded_is_treated_as_a_failed_callback(scheduler: Scheduler) -> None:
    told, state = run(scheduler, send_explosive, on_exception="end")
    assert told.of("message") == ["still here"]
    assert "ImportError: no module of this name" in told.of("result")[0]
    assert isinstance(state.exception, NotPicklableError)
    assert "a message of its channel" in str(state.exception)


# ---------------------------------------------------------------------------------------------------- ends of a run


def wait_for_answer(*, comm: Comm) -> str:
    with comm.open():
        try:
            comm.request("wait")
        except CommError as error:
            return str(error)
    return "answered"


def test_a_request_that_waits_ends_when_the_run_is_stopped(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(wait_for_answer, plugins=Comm.Plugin())
    told = Told(task)
    kept: list[Comm.Msg[Any]] = []

    @task.on(Comm.REQUEST)
    def on_request(msg: Comm.Msg[Any]) -> None:
        kept.append(msg)
        scheduler.call_later(0.01, scheduler.stop)

    scheduler.on_start(lambda: task.submit())
    assert scheduler.run().code is ExitState.Code.STOPPED
    (error,) = told.of("result")
    assert "the run is ending" in error
    assert told.closes == [None]
    kept[0].respond("nobody hears this")


def ask_after_stop(*, comm: Comm) -> Any:
    comm.send("stop")
    answers: list[Any] = []
    for question in ("now", "later"):
        try:
            answers.append(comm.request(question))
        except CommError as error:
            answers.append(str(error).split(": ")[-1])
    return answers


def test_while_the_run_ends_only_the_callback_itself_can_answer(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(ask_after_stop, plugins=Comm.Plugin())
    told = Told(task)
    finishing: list[None] = []
    kept: list[Comm.Msg[Any]] = []
    scheduler.on_finishing(lambda: finishing.append(None))
    task.on(Comm.MESSAGE, scheduler.stop)

    @task.on(Comm.REQUEST)
    def on_request(msg: Comm.Msg[Any]) -> None:
        kept.append(msg)
        if msg.data == "now":
            msg.respond("at once")

    scheduler.on_start(lambda: task.submit())
    scheduler.run()
    assert told.of("result") == [["at once", "the run is ending"]]


def test_a_request_that_waits_ends_when_a_run_does_not_wait(concurrent_backend: Backend) -> None:
    scheduler = concurrent_backend.scheduler()
    task = scheduler.task(wait_for_answer, plugins=Comm.Plugin())
    told = Told(task)
    kept: list[Comm.Msg[Any]] = []
    task.on(Comm.REQUEST, kept.append)
    task.on(Comm.REQUEST, lambda _: scheduler.stop())
    scheduler.on_start(lambda: task.submit())
    state = scheduler.run(wait=False)
    assert state.code is ExitState.Code.STOPPED
    assert "cancelled" in told.kinds
    assert len(told.closes) == 1


def test_a_call_that_is_cancelled_while_it_asks_is_told_so(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(wait_for_answer, plugins=Comm.Plugin())
    told = Told(task)
    kept: list[Comm.Msg[Any]] = []

    @task.on(Comm.REQUEST)
    def on_request(msg: Comm.Msg[Any]) -> None:
        kept.append(msg)
        msg.future.cancel()

    scheduler.on_start(lambda: task.submit())
    scheduler.run(on_cancelled="continue")
    assert told.kinds[:2] == ["open", "request"]
    assert sorted(told.kinds[2:]) == ["cancelled", "close"]
    assert isinstance(told.closes[0], asyncio.CancelledError)


# -------------------------------------------------------------------------------------- in the scheduler's own thread


@pytest.mark.parametrize("late", [True, False])
def test_a_call_in_the_schedulers_thread_cannot_wait_for_a_later_answer(inline_backend: Backend, late: bool) -> None:
    scheduler = inline_backend.scheduler()
    task = scheduler.task(ask, plugins=Comm.Plugin())
    told = Told(task)
    kept: list[Comm.Msg[Any]] = []

    async def answer_later(msg: Comm.Msg[Any]) -> None:
        msg.respond("too late")

    task.on(Comm.REQUEST, answer_later if late else kept.append)
    scheduler.on_start(lambda: task.submit(1, None))
    scheduler.run()
    (error,) = told.of("result")
    assert isinstance(error, CommError)
    assert "use with_threads(1) or with_processes(1) instead of with_sequential()" in str(error)


class InSubmit(ThreadPoolExecutor):
    """Runs calls inside `submit`, and does not say so."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_an_executor_that_runs_calls_inside_submit_delivers_after_the_call() -> None:
    scheduler = Scheduler(InSubmit())
    task = scheduler.task(ask, plugins=Comm.Plugin())
    told = Told(task)
    scheduler.on_start(lambda: task.submit(1, None))
    scheduler.run()
    assert told.kinds == ["open", "request", "message", "close", "done", "result"]
    assert isinstance(told.of("result")[0], CommError)


def ask_from_threads(*, comm: Comm) -> list[Any]:
    with comm.open():
        answers: list[Any] = [None] * 4

        def ask_one(i: int) -> None:
            answers[i] = comm.request(i, timeout=30)

        threads = [threading.Thread(target=ask_one, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for i in range(100):
            comm.send(i)
        for thread in threads:
            thread.join()
        return answers


def test_threads_of_a_call_may_ask_at_the_same_time(
    concurrent_backend: Backend, shared_scheduler: MakesScheduler
) -> None:
    scheduler = shared_scheduler(concurrent_backend)
    task = scheduler.task(ask_from_threads, plugins=Comm.Plugin())
    told = Told(task)
    asked: list[Comm.Msg[Any]] = []

    @task.on(Comm.REQUEST)
    def on_request(msg: Comm.Msg[Any]) -> None:
        asked.append(msg)
        if len(asked) == 4:
            for question in reversed(asked):
                question.respond(10 * question.data)

    scheduler.on_start(lambda: task.submit())
    scheduler.run()
    assert told.of("result") == [[0, 10, 20, 30]]
    assert told.of("message") == list(range(100))
