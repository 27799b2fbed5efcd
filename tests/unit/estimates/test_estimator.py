"""A scheduler that learns how long its calls take, mostly on a virtual clock."""

from __future__ import annotations

import io
import itertools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amlsched import Future, Scheduler, Task
from amlsched.estimates import Estimate
from amlsched.executors.simulation import VirtualCall
from amlsched.plugins import Retry
from amlsched.resources import Pool, Resources


def train(x: float) -> float:
    return x


def other(x: float) -> float:
    return x


def seconds(call: VirtualCall) -> float:
    return float(call.args[0])


def asked(
    scheduler: Scheduler, calls: list[tuple[Callable[..., Any], float]], *after: int, **options: Any
) -> list[tuple[Estimate | None, float]]:
    """The estimates after so many calls, and the time that then was left."""
    tasks = {function: scheduler.task(function) for function, _ in calls}
    found: list[tuple[Estimate | None, float]] = []

    @scheduler.on_start
    def start() -> None:
        for function, x in calls:
            tasks[function].submit(x)
        if 0 in after:
            found.append((scheduler.estimate(), scheduler.elapsed_s))

    @scheduler.on_future_done
    def done(_: Future[Any]) -> None:
        if scheduler.on_future_done.count in after:
            found.append((scheduler.estimate(), scheduler.elapsed_s))

    scheduler.run(**options)
    return [(estimate, scheduler.elapsed_s - at) for estimate, at in found]


def test_calls_that_all_take_as_long_are_known_when_some_have_finished() -> None:
    scheduler = Scheduler.with_simulation(2, 10, estimates=True)
    ((before, _), (half, left)) = asked(scheduler, [(train, 1.0)] * 40, 0, 20)
    assert before is None
    assert half is not None
    assert left == 100
    assert half.n_calls == 20
    assert half.low <= 100 <= half.high
    assert half.seconds == pytest.approx(100, rel=0.1)
    assert half.high - half.low < 30


def test_nothing_is_left_at_the_end_and_without_a_run() -> None:
    scheduler = Scheduler.with_simulation(1, 10, estimates=True)
    assert scheduler.estimate() == Estimate(0, 0, 0, 0)
    ((end, left),) = asked(scheduler, [(train, 1.0)] * 3, 3)
    assert (end, left) == (Estimate(0, 0, 0, 0), 0)


@pytest.mark.parametrize("arguments", ["equal", "different"])
def test_calls_that_run_correct_what_the_first_ones_to_end_say(arguments: str) -> None:
    """As those are the short ones. In the mean of some runs, to be no matter of luck."""
    found: list[float] = []
    for seed in range(12):
        scheduler = Scheduler.with_simulation(
            40, lambda call: call.random.lognormvariate(3, 0.5), estimates=True, seed=seed
        )
        calls = [(train, float(number) if arguments == "different" else 1.0) for number in range(200)]
        ((estimate, left),) = asked(scheduler, calls, 20)
        assert estimate is not None
        at = scheduler.elapsed_s - left
        found.append((at + estimate.seconds) / scheduler.elapsed_s)
    assert sum(found) / 12 == pytest.approx(1.0, abs=0.12)


def test_each_function_is_a_group() -> None:
    scheduler = Scheduler.with_simulation(1, seconds, estimates=True)
    calls = [*[(train, 1.0)] * 10, *[(other, 100.0)] * 2, *[(other, 100.0)] * 8]
    first, two, seven = asked(scheduler, calls, 10, 12, 17)
    assert first[0] is not None  # nothing is known of the others but what is known of these
    assert first[0].high > 4 * first[0].low
    assert two[0] is not None
    assert two[0].low < 800 < two[0].high
    assert seven[0] is not None
    assert seven[0].seconds == pytest.approx(300, rel=0.15)
    assert {name.rpartition(".")[2]: known.n_calls for name, known in scheduler.learned().items()} == {
        "train": 10,
        "other": 10,
    }


@pytest.mark.parametrize("group", ["trees", lambda model, seed: f"{model} trees"], ids=["a name", "a function"])
def test_calls_of_several_tasks_may_be_one_group(group: Any) -> None:
    scheduler = Scheduler.with_simulation(2, 5, estimates=True)
    first, second = scheduler.task(print, group=group), scheduler.task(getattr, group=group)

    @scheduler.on_start
    def start() -> None:
        for seed in range(4):
            first.submit("forest", seed)
            second.submit("tree", str(seed))

    scheduler.run()
    learned = {name: each.n_calls for name, each in scheduler.learned().items()}
    assert learned == ({"trees": 8} if group == "trees" else {"forest trees": 4, "tree trees": 4})


def test_an_expected_time_of_one_second_is_one() -> None:
    """Its logarithm is 0, as if none was expected."""
    scheduler = Scheduler.with_simulation(1, 5, estimates=True)
    task = scheduler.task(train, resources=Resources(time="1 s"))
    scheduler.on_start(lambda: task.submit(1.0))
    scheduler.run()
    assert [name.endswith("train, over its expected time") for name in scheduler.learned()] == [True]


def test_equal_arguments_are_told_apart_once_they_come_again() -> None:
    scheduler = Scheduler.with_simulation(1, seconds, estimates=True)
    short_then_long = [*[(train, 1.0), (train, 50.0)] * 5, *[(train, 1.0)] * 5, *[(train, 50.0)] * 5]
    ((at_ten, left),) = asked(scheduler, short_then_long, 15)
    assert left == 250
    assert at_ten is not None
    assert at_ten.seconds == pytest.approx(250, rel=0.1)


def test_what_a_running_call_has_run_for_is_known_without_its_receipt() -> None:
    scheduler = Scheduler.with_simulation(2, seconds, estimates=True)
    calls = [(train, 10.0)] * 9 + [(train, 10.0), (train, 500.0)]
    scheduler.on_start(lambda: scheduler.call_later(400, look))
    looked: list[Estimate | None] = []

    def look() -> None:
        looked.append(scheduler.estimate())

    asked(scheduler, calls)
    assert looked[0] is not None
    assert looked[0].n_calls == 1
    # The call has run for 350 s, which is far beyond the others: what is left may be long.
    assert looked[0].high > 20


def test_held_back_calls_have_finished() -> None:
    scheduler = Scheduler.with_simulation(2, seconds, estimates=True)
    scheduler.on_start(lambda: scheduler.call_later(95, look))
    looked: list[Estimate | None] = []

    def look() -> None:
        looked.append(scheduler.estimate())

    # The first call runs, and holds back 9 that have finished; one has been reported before.
    asked(scheduler, [(other, 1.0), (train, 500.0), *[(train, 10.0)] * 9], order="submission")
    assert looked[0] is not None
    assert looked[0].n_calls == 1 + 9 - 9


def test_a_call_of_a_scheduler_without_tasks_counts_too() -> None:
    scheduler = Scheduler.with_simulation(1, 5, estimates=True)
    scheduler.on_start(lambda: [scheduler.submit(train, x) for x in range(3)])
    scheduler.run()
    assert [(known.n_calls, known.seconds) for known in scheduler.learned().values()] == [(3, pytest.approx(5))]


def test_calls_that_fail_teach_nothing() -> None:
    def fails(call: VirtualCall) -> Exception | None:
        return OSError("no") if call.number > 2 else None

    scheduler = Scheduler.with_simulation(1, 5, failures=fails, estimates=True)
    asked(scheduler, [(train, 1.0)] * 10, on_exception="continue")
    assert [known.n_calls for known in scheduler.learned().values()] == [2]


def test_intervals_hold_as_often_as_they_say() -> None:
    """A small part of what `python -m benchmarks.estimates` measures: with these seeds, 80 % within the noise."""
    from benchmarks.estimates import one_run

    found = [asked for seed in range(40) for asked in one_run(seed, [4, 8])]
    assert len(found) == 120
    assert 0.66 <= sum(each.covered for each in found) / 120 <= 0.92
    assert sorted(each.error for each in found)[60] < 0.2


# ------------------------------------------------------------------------------------------------- the next run


def test_a_file_makes_the_next_run_know_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    asked(Scheduler.with_simulation(1, 10, estimates=path), [(train, 1.0)] * 20)
    ((known, left),) = asked(Scheduler.with_simulation(4, 10, estimates=str(path)), [(train, 1.0)] * 20, 0)
    assert left == 50
    assert known is not None
    assert known.low <= 50 <= known.high
    assert known.seconds == pytest.approx(50, rel=0.1)


def test_what_was_learned_is_saved_during_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amlsched.estimates.estimator._SAVE_S", 0.0)
    path = tmp_path / "times.json"
    scheduler = Scheduler.with_simulation(1, 10, estimates=path)
    seen: list[bool] = []
    scheduler.on_future_result(lambda *_: seen.append(path.exists()))
    asked(scheduler, [(train, 1.0)] * 3)
    assert seen == [True, True, True]


# ---------------------------------------------------------------------------------------- calls that request resources


def halfway(scheduler: Scheduler, task: Task[[float], Any], *submitted: float) -> tuple[Estimate | None, float]:
    """The estimate when half of the calls have finished, and the time that then was left."""
    scheduler.on_start(lambda: [task.submit(x) for x in submitted])
    found: list[tuple[Estimate | None, float]] = []

    @scheduler.on_future_done
    def done(_: Future[Any]) -> None:
        if scheduler.on_future_done.count == len(submitted) // 2:
            found.append((scheduler.estimate(), scheduler.elapsed_s))

    scheduler.run()
    ((estimate, at),) = found
    return estimate, scheduler.elapsed_s - at


def test_the_policy_is_run_forward_over_what_fits_together() -> None:
    scheduler = Scheduler.with_simulation(duration=10, pool=Pool(4, "8 GiB"), estimates=True)
    task = scheduler.task(train, resources=Resources(memory="3 GiB"))  # two at a time, on four CPUs
    half, left = halfway(scheduler, task, *[1.0] * 40)
    assert left == 100
    assert half is not None
    assert half.low <= 100 <= half.high
    assert half.seconds == pytest.approx(100, rel=0.15)


def test_calls_that_run_from_the_beginning_correct_what_the_first_ones_say() -> None:
    """As the first ones to end are the short ones. In the mean of some runs, to be no matter of luck."""
    errors: list[float] = []
    for seed in range(12):
        scheduler = Scheduler.with_simulation(
            duration=lambda call: call.random.lognormvariate(3, 0.5), pool=Pool(40), estimates=True, seed=seed
        )
        scheduler.on_future_done(lambda _, scheduler=scheduler, errors=errors: look(scheduler, errors))
        task = scheduler.task(train, resources=Resources())
        scheduler.on_start(lambda task=task: [task.submit(1.0) for _ in range(200)])
        scheduler.run()
        errors[-1] /= scheduler.elapsed_s
    assert sum(errors) / 12 == pytest.approx(1.0, abs=0.12)


def look(scheduler: Scheduler, found: list[float]) -> None:
    """Note when the run will probably end, if 20 calls have finished."""
    if scheduler.on_future_done.count == 20 and (estimate := scheduler.estimate()) is not None:
        found.append(scheduler.elapsed_s + estimate.seconds)


def test_an_expected_time_is_corrected_by_what_was_learned_of_it() -> None:
    pools = [Pool(2, name="a"), Pool(2, name="b")]
    scheduler = Scheduler.with_simulation(duration=lambda call: 3 * call.args[0], pool=pools, estimates=True)
    task = scheduler.task(train, resources=lambda x: Resources(time=f"{x} s"))
    half, left = halfway(scheduler, task, *(float(x) for x in range(10, 50)))
    assert half is not None
    assert half.low <= left <= half.high
    assert half.seconds == pytest.approx(left, rel=0.2)
    (known,) = scheduler.learned().values()
    assert known.seconds == pytest.approx(3.0)


def test_an_expected_time_is_an_estimate_before_anything_has_finished() -> None:
    scheduler = Scheduler.with_simulation(duration=10, pool=Pool(2), estimates=True)
    task = scheduler.task(train, resources=Resources(time="10 s"))
    found: list[Estimate | None] = []

    @scheduler.on_start
    def start() -> None:
        for _ in range(20):
            task.submit(1.0)
        found.append(scheduler.estimate())

    scheduler.run()
    assert found[0] is not None
    assert found[0].low < 100 < found[0].high


def test_a_call_that_waits_to_be_tried_again_counts() -> None:
    scheduler = Scheduler.with_simulation(
        duration=10, pool=Pool(1), estimates=True, failures=lambda call: OSError("busy") if call.number == 2 else None
    )
    task = scheduler.task(train, resources=Resources(), plugins=Retry(2, backoff=1000.0))
    scheduler.on_start(lambda: [task.submit(1.0) for _ in range(3)])
    scheduler.on_start(lambda: scheduler.call_later(45, lambda: looked.append(scheduler.estimate())))
    looked: list[Estimate | None] = []
    scheduler.run(on_exception="continue")
    assert looked[0] is not None
    assert looked[0].n_calls == 1


def test_times_of_a_former_run_decide_which_call_goes_first(tmp_path: Path) -> None:
    """Nothing is declared: the longest calls go first, by what was learned of equal arguments."""
    path, submitted = tmp_path / "times.json", [3.0, 50.0, 20.0, 90.0, 7.0]

    def order() -> list[float]:
        scheduler = Scheduler.with_simulation(duration=lambda call: call.args[0], pool=Pool(1), estimates=path)
        task, ended = scheduler.task(train), list[float]()
        scheduler.on_start(lambda: [task.submit(x) for x in submitted])
        task.on_result(lambda future, _: ended.append(future.args[0]))
        scheduler.run()
        return ended

    assert order() == submitted
    assert order() == sorted(submitted, reverse=True)


# ------------------------------------------------------------------------------------------------ real executors


@pytest.mark.parametrize("name", ["sequential", "threads", "processes"])
def test_real_calls_are_measured_and_learned(name: str) -> None:
    options = {} if name == "sequential" else {"max_workers": 2}
    scheduler = Scheduler.from_name(name, **options, estimates=True)
    ((half, _),) = asked(scheduler, [(train, 1.0)] * 20, 10)
    assert half is not None
    assert half.n_calls == 10
    assert half.low <= half.seconds <= half.high
    (known,) = scheduler.learned().values()
    assert known.n_calls == 20
    assert 0 < known.seconds < 1
    assert known.cpus is not None


def test_a_call_that_waits_for_a_signal_is_seen_running() -> None:
    scheduler = Scheduler.with_threads(1, estimates=True)
    opened = threading.Event()
    looked: list[Estimate | None] = []

    def look() -> None:
        looked.append(scheduler.estimate())
        opened.set()

    task = scheduler.task(opened.wait)
    quick = scheduler.task(train)
    scheduler.on_start(lambda: (quick.submit(1.0), task.submit(60)))
    quick.on_result(lambda *_: scheduler.call_later(0.05, look))
    scheduler.run()
    assert looked[0] is not None
    assert looked[0].n_calls == 1


# ---------------------------------------------------------------------------------------------------- the display


def test_a_display_shows_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = threading.Event()

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            if "left" in text:
                seen.set()  # which ends the call that waits
            return super().write(text)

    monkeypatch.setattr("amlsched.display.live.LINE_S", 0.0)
    monkeypatch.setattr("amlsched.estimates.estimator._SHARE_OF_A_CORE", 1e9)  # ask for each line
    monkeypatch.setattr("sys.stdout", shown := Stream())
    scheduler = Scheduler.with_threads(1, estimates=True)
    quick, slow = scheduler.task(train), scheduler.task(seen.wait)
    scheduler.on_start(lambda: (quick.submit(1.0), slow.submit(60)))
    scheduler.run(display=True)
    lines = shown.getvalue().splitlines()
    left = re.compile(r"callbacks \d+%, [\d.e-]+ \w+ left \([\d.e-]+ to [\d.e-]+\)$")
    assert any(left.search(line) for line in lines[:-1])
    assert "2 results" in lines[-1]
    assert "left" not in lines[-1]


@pytest.mark.parametrize("resources", [Resources(memory="1 GiB"), None])
def test_a_display_ends_with_what_calls_used_and_had_requested(
    resources: Resources | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", shown := io.StringIO())
    scheduler = Scheduler.with_sequential(estimates=True, pool=Pool(1, "2 GiB"))
    task = scheduler.task(train, resources=resources, group="trees")
    scheduler.on_start(lambda: task.submit(1.0))
    scheduler.run(display=True)
    starts = [line.split()[0] for line in shown.getvalue().splitlines()[-2:]]
    assert (starts == ["group", "trees"]) == (resources is not None)


def test_displays_take_one_percent_of_a_core_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler.with_sequential(estimates=True)
    now, asked_at = 100.0, list[float]()
    monkeypatch.setattr("amlsched.estimates.estimator.time.perf_counter", lambda: now)

    def takes_20_ms() -> Estimate:
        nonlocal now
        asked_at.append(now)
        now += 0.02
        return Estimate(len(asked_at), 1, 1, 1)

    monkeypatch.setattr(scheduler.estimator, "estimate", takes_20_ms)
    shown: set[Estimate | None] = set()
    while now < 120:
        shown.add(scheduler.estimator.shown())
        now += 0.25
    assert len(asked_at) == len(shown) == 10
    assert min(later - sooner for sooner, later in itertools.pairwise(asked_at)) >= 2.0


def test_without_estimates_a_display_shows_none_and_a_question_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("sys.stdout", shown)
    scheduler = Scheduler.with_threads(1)
    scheduler.run(display=True)
    assert "left" not in shown.getvalue()
    for question in (scheduler.estimate, scheduler.learned):
        with pytest.raises(RuntimeError, match=r"estimates=True, or estimates='times\.json'"):
            question()


@pytest.mark.parametrize("wrong", [None, 3, b"times", ["a"]])
def test_a_wrong_value_of_estimates_is_an_error_that_says_what_is_right(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be True, False or the path of a file"):
        Scheduler.with_sequential(estimates=wrong)
