"""A scheduler on a virtual clock: the same run loop, and nothing waits."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from amlsched import Future, Scheduler, WorkerKilledError
from amlsched.executors.simulation import SimulatedExecutor, VirtualCall
from amlsched.exit_state import ExitState
from amlsched.plugins import Comm, Retry
from amlsched.resources import Pool, Resources

Code = ExitState.Code


def square(x: int) -> int:
    return x * x


def talk(x: int, comm: Comm) -> None:
    comm.send(x)


def seconds(call: VirtualCall) -> float:
    return float(call.args[0])


def times_of(scheduler: Scheduler, *submitted: Any, **options: Any) -> list[tuple[int, float | None, float | None]]:
    """Number, start and end of each call that ended, in that order."""
    scheduler.receipts = True
    task = scheduler.task(square)
    times: list[tuple[int, float | None, float | None]] = []

    @scheduler.on_start
    def submit() -> None:
        for x in submitted:
            task.submit(x)

    @scheduler.on_future_done
    def note(future: Future[Any]) -> None:
        receipt = scheduler.outcome(future)
        times.append((future.number, receipt.started, receipt.ended))

    scheduler.run(**options)
    return times


@pytest.fixture(autouse=True)
def nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: float) -> None:
        raise AssertionError("something slept")

    monkeypatch.setattr(time, "sleep", never)


# ---------------------------------------------------------------------------------------------------- the clock


def test_calls_take_virtual_time_on_as_many_workers_as_there_are() -> None:
    scheduler = Scheduler.with_simulation(2, seconds)
    assert times_of(scheduler, 10, 4, 5, 3) == [(2, 0, 4), (3, 4, 9), (1, 0, 10), (4, 9, 12)]
    assert scheduler.elapsed_s == 12


def test_a_day_of_calls_takes_no_time() -> None:
    scheduler = Scheduler.with_simulation(1, "1 h")
    begun = time.process_time()
    assert len(times_of(scheduler, *range(24 * 7))) == 168
    assert scheduler.elapsed_s == 168 * 3600
    assert time.process_time() - begun < 10


def test_each_run_begins_at_zero() -> None:
    with Scheduler.with_simulation(1, seconds) as scheduler:
        assert times_of(scheduler, 5) == [(1, 0, 5)]
        scheduler.run()
        assert scheduler.elapsed_s == 5


def test_timers_callbacks_and_calls_are_on_one_clock() -> None:
    scheduler = Scheduler.with_simulation(1, 10.0)
    task = scheduler.task(square)
    seen: list[tuple[str, float]] = []

    @scheduler.on_start
    def start() -> None:
        scheduler.call_later(25, lambda: seen.append(("timer", scheduler.elapsed_s)))
        for x in range(4):
            task.submit(x)

    @task.on_result
    async def later(future: Future[int], _: object) -> None:
        await asyncio.sleep(3)
        seen.append((f"call {future.number}", scheduler.elapsed_s))

    scheduler.run()
    assert seen == [("call 1", 13), ("call 2", 23), ("timer", 25), ("call 3", 33), ("call 4", 43)]


def test_an_awaited_call_takes_its_time() -> None:
    scheduler = Scheduler.with_simulation(1, seconds, result="call")
    task = scheduler.task(square)
    found: list[tuple[list[int], float]] = []

    @scheduler.on_start
    async def start() -> None:
        found.append((await scheduler.gather(task(x) for x in (3, 4)), scheduler.elapsed_s))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task(100), 2)
        found.append(([], scheduler.elapsed_s))

    scheduler.run(on_cancelled="continue")
    assert found == [([9, 16], 7), ([], 9)]


def test_map_runs_on_the_virtual_clock() -> None:
    scheduler = Scheduler.with_simulation(2, 60, result="call")
    assert list(scheduler.task(square).map(range(10), max_in_flight=2)) == [x * x for x in range(10)]
    assert scheduler.elapsed_s == 300


def test_a_timeout_ends_the_run_at_its_time_and_running_calls_end_at_theirs() -> None:
    scheduler = Scheduler.with_simulation(2, 10)
    assert times_of(scheduler, *range(6), timeout=15, on_cancelled="continue") == [
        (1, 0, 10),
        (2, 0, 10),
        (3, 10, 20),
        (4, 10, 20),
    ]
    assert scheduler.on_future_cancelled.count == 2
    assert scheduler.elapsed_s == 20
    assert scheduler.run(timeout=3, wait=False).code is Code.TIMEOUT
    assert (scheduler.elapsed_s, scheduler.on_future_cancelled.count) == (3, 6)


def test_a_clock_of_many_years_does_not_stand_still() -> None:
    scheduler = Scheduler.with_simulation(1, lambda call: 1e9 + 0.1)
    assert len(times_of(scheduler, *range(50))) == 50
    assert scheduler.elapsed_s == pytest.approx(50 * (1e9 + 0.1), rel=1e-12)


def test_the_clock_jumps_to_a_far_timer_even_if_a_farther_one_was_cancelled() -> None:
    scheduler = Scheduler.with_simulation(1, 5e6)
    seen: list[float] = []

    @scheduler.on_start
    def start() -> None:
        scheduler.call_later(3e6, lambda: None).cancel()
        scheduler.call_later(2e6, lambda: seen.append(scheduler.elapsed_s))
        scheduler.call_later(1e6, lambda: seen.append(scheduler.elapsed_s))

    assert times_of(scheduler, 1) == [(1, 0, 5e6)]
    assert seen == [1e6, 2e6]


# ------------------------------------------------------------------------------------------- results and failures


def test_results_are_none_those_of_a_function_or_those_of_the_call() -> None:
    def results(result: Any) -> list[Any]:
        scheduler = Scheduler.with_simulation(3, 1, result=result)
        return list(scheduler.task(square).map([2, 3]))

    assert results(None) == [None, None]
    assert results(lambda call: (call.function, call.args, dict(call.kwargs), call.number, call.attempt)) == [
        (square, (2,), {}, 1, 1),
        (square, (3,), {}, 2, 1),
    ]
    assert results("call") == [4, 9]


def test_a_function_that_runs_may_have_a_loop_of_its_own_and_may_raise() -> None:
    async def answer() -> int:
        return 42

    def call(x: int) -> int:
        return asyncio.run(answer()) // x

    scheduler = Scheduler.with_simulation(1, 1, result="call")
    task = scheduler.task(call)
    assert list(task.map([1, 2])) == [42, 21]
    with pytest.raises(ZeroDivisionError):
        list(task.map([0]))


def test_failures_are_retried_as_elsewhere_on_the_virtual_clock() -> None:
    def fails(call: VirtualCall) -> Exception | None:
        return OSError("busy") if call.attempt < 3 else None

    scheduler = Scheduler.with_simulation(1, 10, failures=fails, receipts=True)
    task = scheduler.task(square, plugins=Retry(5, backoff=lambda failures: 100.0 * failures))
    done: list[Any] = []
    scheduler.on_start(lambda: task.submit(1))
    task.on_result(lambda future, _: done.append(scheduler.outcome(future)))
    scheduler.run()
    assert (done[0].attempt, done[0].submitted, done[0].started, done[0].ended) == (3, 0, 320, 330)


def test_workers_are_killed_with_a_probability_and_their_calls_run_again() -> None:
    scheduler = Scheduler.with_simulation(4, 10, failures=0.3, retries_on_loss=20)
    assert len(times_of(scheduler, *range(200))) == 200
    assert 50 < scheduler.on_future_retry.count < 130  # 200 · 0.3 / 0.7 = 86 on average
    scheduler = Scheduler.with_simulation(4, 10, failures=1.0, retries_on_loss=2)
    with pytest.raises(WorkerKilledError):
        times_of(scheduler, 1)
    assert scheduler.on_future_retry.count == 2
    assert scheduler.elapsed_s < 30


def test_a_running_call_can_be_cancelled_and_its_worker_is_free() -> None:
    scheduler = Scheduler.with_simulation(1, 10, receipts=True)
    task = scheduler.task(square)
    ends: list[tuple[int, float | None]] = []

    @scheduler.on_start
    def start() -> None:
        calls = [task.submit(x) for x in range(3)]
        scheduler.call_later(4, calls[0].cancel)  # type: ignore[union-attr]
        scheduler.call_later(5, calls[2].cancel)  # type: ignore[union-attr]

    for event in (scheduler.on_future_done, scheduler.on_future_cancelled):
        event(lambda future: ends.append((future.number, scheduler.outcome(future).ended)))
    scheduler.run(on_cancelled="continue")
    assert ends == [(1, 4), (3, 5), (2, 14)]


def test_stop_without_waiting_cancels_what_runs() -> None:
    scheduler = Scheduler.with_simulation(1, 10)
    task = scheduler.task(square)

    @scheduler.on_start
    def start() -> None:
        task.submit(1)
        scheduler.call_later(5, scheduler.stop)

    assert scheduler.run(wait=False).code is Code.STOPPED
    assert (scheduler.elapsed_s, scheduler.on_future_cancelled.count) == (5, 1)


def test_small_calls_are_not_gathered_into_batches() -> None:
    scheduler = Scheduler.with_simulation(2, seconds)
    scheduler.task(square, batch_size=10)
    assert times_of(scheduler, 3, 4) == [(1, 0, 3), (2, 0, 4)]


# ---------------------------------------------------------------------------------------------------- determinism


def search(scheduler: Scheduler, **options: Any) -> list[int]:
    """The decisions of a seeded search, which depend on results and on the order in which they are reported."""
    rng, task = random.Random(7), scheduler.task(square)
    asked: list[int] = []

    def ask(best: int) -> None:
        asked.append(best + rng.randint(-9, 9))
        task.submit(asked[-1])

    scheduler.on_start(lambda: [ask(50) for _ in range(4)])

    @task.on_result
    def tell(future: Future[int], result: int) -> None:
        if len(asked) < 60:
            ask(future.args[0] if result % 3 else round(result**0.5) // 2)

    scheduler.run(**options)
    return asked


def journal(seed: int) -> list[Any]:
    scheduler = Scheduler.with_simulation(
        5, lambda call: call.random.lognormvariate(2, 1), failures=0.05, seed=seed, result="call"
    )
    order: list[Any] = []
    scheduler.on_future_done(lambda future: order.append((future.number, future.attempt, scheduler.elapsed_s)))
    order.append(search(scheduler))
    return order


def test_the_same_seed_gives_the_same_order_ten_times_of_ten() -> None:
    first = journal(1)
    assert all(journal(1) == first for _ in range(9))
    assert journal(2) != first


def placed(seed: int) -> list[tuple[int, float, float]]:
    """Number, start and end of calls that request different amounts, on two nodes."""
    pool = [Pool(4, "8 GiB", name="a"), Pool(2, "16 GiB", 1, name="b")]
    duration = lambda call: call.random.lognormvariate(2, 1)  # noqa: E731
    scheduler = Scheduler.with_simulation(duration=duration, failures=0.05, seed=seed, pool=pool, receipts=True)
    requests = [Resources(1, "1 GiB"), Resources(3, "2 GiB"), Resources(1, "10 GiB"), Resources(0.5, gpus=0.5)]
    task = scheduler.task(square, resources=lambda x: requests[x % 4])
    scheduler.on_start(lambda: [task.submit(x) for x in range(60)])
    times: list[tuple[int, float, float]] = []

    @task.on_result
    def note(future: Future[int], _: object) -> None:
        receipt = scheduler.outcome(future)
        assert receipt.started is not None
        assert receipt.ended is not None
        times.append((future.number, receipt.started, receipt.ended))

    scheduler.run()
    return times


def test_calls_that_request_resources_start_in_the_same_order_and_only_where_they_fit() -> None:
    first = placed(1)
    assert len(first) == 60
    assert all(placed(1) == first for _ in range(9))
    for _, start, _ in first:
        kinds = [(number - 1) % 4 for number, began, ended in first if began <= start < ended]
        assert kinds.count(1) <= 1  # 3 CPUs: on the first node only
        assert kinds.count(2) <= 1  # 10 GiB: on the second one only
        assert kinds.count(3) <= 2  # half of the only GPU


def test_a_search_decides_as_on_processes() -> None:
    simulated = Scheduler.with_simulation(2, lambda call: call.random.random(), result="call")
    with Scheduler.with_processes(2) as real:
        assert search(simulated, order="submission") == search(real, order="submission")


def test_random_numbers_of_a_call_do_not_depend_on_the_number_of_workers() -> None:
    def drawn(workers: int) -> dict[int, float]:
        found: dict[int, float] = {}

        def duration(call: VirtualCall) -> float:
            found[call.number] = call.random.expovariate(1)
            return found[call.number]

        times_of(Scheduler.with_simulation(workers, duration), *range(20))
        return dict(sorted(found.items()))

    assert drawn(1) == drawn(7)


# ------------------------------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scheduler.with_simulation(0, 1), "max_workers=0: must be at least 1"),
        (lambda: Scheduler.with_simulation(2, "10"), "duration: '10' is not a duration"),
        (lambda: Scheduler.with_simulation(2, -1), "duration=-1: must be a number of seconds"),
        (lambda: Scheduler.with_simulation(2, None), "duration=None: must be a number of seconds"),  # type: ignore[arg-type]
        (lambda: Scheduler.with_simulation(2, 1, result="run"), "result='run': must be 'call'"),  # type: ignore[arg-type]
        (lambda: Scheduler.with_simulation(2, 1, failures=1.5), "failures=1.5: must be a probability from 0 to 1"),
        (lambda: Scheduler.with_simulation(2, 1, seed=-1), "seed=-1: must be at least 0"),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_it(make: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message.replace("(", r"\(")):
        make()


def from_the_third(function: Callable[[VirtualCall], Any], before: Any) -> Callable[[VirtualCall], Any]:
    return lambda call: before if call.number < 3 else function(call)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration": lambda call: "long"}, r"duration\(<call 1 of square, attempt 1>\) returned 'long'"),
        ({"duration": lambda call: float("nan")}, r"duration\(<call 1 of square, attempt 1>\) returned nan"),
        ({"duration": lambda call: 1 / 0}, "division by zero"),
        ({"duration": 1, "failures": lambda call: "no"}, r"failures\(<call 1 of square, attempt 1>\) returned 'no'"),
    ],
)
@pytest.mark.parametrize("queued", [False, True])
def test_what_a_function_of_the_simulation_returns_is_checked(
    options: dict[str, Any], message: str, queued: bool
) -> None:
    if queued:  # behind calls that end well
        wrong = next(value for value in reversed(options.values()) if callable(value))
        well = 1 if options["duration"] is wrong else None
        options = {
            name: value if value is not wrong else from_the_third(wrong, well) for name, value in options.items()
        }
        message = message.replace("call 1", "call 3")
    scheduler = Scheduler.with_simulation(1, **options)
    with pytest.raises((ValueError, TypeError, ZeroDivisionError), match=message):
        times_of(scheduler, 1, 2, 3)


def test_a_loop_with_a_real_clock_is_refused_with_a_remedy() -> None:
    scheduler = Scheduler.with_simulation(1, 1)

    async def notebook() -> None:
        with pytest.raises(RuntimeError, match=r"await asyncio\.to_thread\(scheduler\.run\)"):
            await scheduler.async_run()
        assert (await asyncio.to_thread(scheduler.run)).code is Code.EXHAUSTED

    asyncio.run(notebook())


def test_a_plugin_that_needs_a_worker_says_so_instead_of_hanging() -> None:
    scheduler = Scheduler.with_simulation(1, 1, result="call")
    task = scheduler.task(talk, plugins=Comm.Plugin())
    scheduler.on_start(lambda: task.submit(1))
    with pytest.raises(RuntimeError, match="Comm needs a worker that runs the call, and a simulation has none"):
        scheduler.run()


def test_the_executor_alone_has_no_clock() -> None:
    with pytest.raises(RuntimeError, match="Scheduler"):
        SimulatedExecutor(1, 1.0).submit(square, 1)
    assert Scheduler(SimulatedExecutor(1, 1.0)).run().code is Code.EXHAUSTED


def test_a_display_shows_a_simulation_once_at_its_end_in_virtual_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("sys.stdout", shown)
    times_of(Scheduler.with_simulation(1, "10 min"), *range(10), display=True)
    assert shown.getvalue().count("\n") == 1
    assert shown.getvalue().startswith("6000 s: 10 submitted, 0 running, 0 queued, 10 results")
