"""What a search does with the trials of its searcher, on several executors."""

from __future__ import annotations

import asyncio
import logging
import math
import multiprocessing
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import Scheduler, SearcherError, TrialsFailedError
from amlsched.plugins import Limits
from amlsched.search import Failure, Float, Search, Trial, TrialResult, _thinking, grid, random

if TYPE_CHECKING:
    from collections.abc import Sequence

EXECUTORS = ["sequential", "threads", "processes"]
X = {"x": Float(-10, 10)}


def make(name: str, workers: int = 2) -> Scheduler:
    return Scheduler.from_name(name, **({} if name == "sequential" else {"max_workers": workers}))


def parabola(trial: Trial) -> float:
    return float((trial["x"] - 3) ** 2)


def halves(trial: Trial) -> float:
    """Takes a time that differs from trial to trial."""
    time.sleep(0.02 * (trial.number % 3))
    return float(trial["x"])


def raise_below_zero(trial: Trial) -> float:
    if trial["x"] < 0:
        raise ValueError(f"x is {trial['x']}")
    return float(trial["x"])


def reporting(trial: Trial) -> float:
    for step in range(5):
        if trial.report(step, trial["x"] + step):
            return -1.0
    return float(trial["x"])


class Recorder:
    """Proposes x = 0, 1, 2, …, and keeps what happens to it."""

    def __init__(self, n_trials: int = 1000) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.results: list[tuple[Trial, Any]] = []
        self.threads: set[int] = set()
        self.n_trials = n_trials
        self.n_asked = 0

    def ask(self, n: int, /) -> list[Trial]:
        self.threads.add(threading.get_ident())
        n = min(n, self.n_trials - self.n_asked)
        self.calls.append(("ask", n))
        self.n_asked += n
        return [Trial({"x": float(self.n_asked - n + place)}) for place in range(n)]

    def tell(self, results: Sequence[tuple[Trial, Any]], /) -> None:
        self.calls.append(("tell", [trial.number for trial, _ in results]))
        self.results.extend(results)


@pytest.mark.parametrize("name", EXECUTORS)
def test_each_trial_runs_once_and_its_value_is_told(name: str) -> None:
    searcher = Recorder()
    search = Search(searcher, parabola, scheduler=make(name), n_trials=30)
    search.run()
    assert sorted(trial.number for trial, _ in searcher.results) == list(range(30))
    assert all(value == (trial["x"] - 3) ** 2 for trial, value in searcher.results)
    assert search.n_done == len(search.trials) == 30
    assert search.best.value == 0
    assert search.best.trial["x"] == 3


@pytest.mark.parametrize("place", ["thread", "process", "loop"])
def test_the_searcher_thinks_where_it_is_told_to(place: Any) -> None:
    searcher = Recorder()
    search = Search(searcher, parabola, scheduler=make("threads"), n_trials=20, searcher_in=place)
    search.run()
    assert search.n_done == 20
    learned = search.searcher
    assert isinstance(learned, Recorder)
    assert len(learned.results) == 20
    if place == "process":
        assert learned is not searcher
        assert searcher.results == []
    else:
        assert (threading.get_ident() in searcher.threads) == (place == "loop")
        assert len(searcher.threads) == 1


def test_a_searcher_without_further_trials_ends_the_search() -> None:
    search = Search(
        grid({"a": [1, 2, 3], "b": [4, 5]}), lambda trial: trial["a"] * trial["b"], scheduler=make("threads")
    )
    search.run()
    assert sorted(result.value for result in search.trials if result.value is not None) == [4, 5, 8, 10, 12, 15]


def test_a_searcher_that_waits_for_results_is_asked_again_once_it_has_them() -> None:
    class Waves(Recorder):
        def ask(self, n: int, /) -> list[Trial]:
            if len(self.results) < self.n_asked:
                self.calls.append(("ask", 0))
                return []
            return super().ask(min(n, 2))

    searcher = Waves(6)
    search = Search(searcher, parabola, scheduler=make("threads", 4))
    search.run()
    assert search.n_done == 6
    told = [what for what in searcher.calls if what[0] == "tell"]
    empty = [what for what in searcher.calls if what == ("ask", 0)]
    assert len(empty) <= len(told) + 1  # it is not asked again before it has heard more


@pytest.mark.parametrize("workers", [1, 3])
def test_in_the_order_of_submission_the_searcher_hears_the_same_whatever_the_timing(workers: int) -> None:
    searcher = Recorder()
    search = Search(searcher, halves, scheduler=make("threads", workers), n_trials=8, order="submission", in_flight=3)
    search.run()
    asks: list[tuple[str, Any]] = [("ask", 1)] * 3
    for number in range(8):
        asks.append(("tell", [number]))
        if number + 3 < 8:
            asks.append(("ask", 1))
    assert searcher.calls == asks
    assert [trial.n_told for trial, _ in searcher.results] == [0, 0, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("round_s", "wanted"), [(0.0, 4), (0.1, 5), (2.0, 4 + 13), (1000.0, 4 + 16)])
def test_so_many_are_in_stock_as_workers_take_while_the_searcher_thinks(round_s: float, wanted: int) -> None:
    search = Search(Recorder(), parabola, scheduler=make("threads", 4))
    for n in (32, 64, 32, 64):
        search._ask_size.learn(n, 1.0)  # it takes the same time for any number
    vars(search).update(_slots=4, _trial_s=1.0, _round_s=round_s)
    assert search._wanted(0) == wanted


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_trial_that_raises_is_told_as_crashed_and_the_search_goes_on(name: str) -> None:
    searcher = random(X, seed=1)
    search = Search(searcher, raise_below_zero, scheduler=make(name), n_trials=20, keep_going=True)
    search.run()
    failed = [result for result in search.trials if result.failure is not None]
    assert search.n_failed == len(failed) == sum(result.trial["x"] < 0 for result in search.trials) > 3
    for result in failed:
        assert result.failure is not None
        assert result.failure.reason == "crashed"
        assert f"x is {result.trial['x']}" in str(result.failure)
    assert search.best.trial["x"] >= 0


def test_a_search_ends_if_its_first_trials_all_fail_and_names_the_error(caplog: pytest.LogCaptureFixture) -> None:
    def broken(trial: Trial) -> float:
        raise KeyError("lr")

    search = Search(random(X), broken, scheduler=make("threads"), n_trials=500)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(TrialsFailedError, match=r"first 3 trials .* KeyError: 'lr'") as caught,
    ):
        search.run()
    assert isinstance(caught.value.__cause__, KeyError)
    assert search.n_done < 10
    assert len([record for record in caplog.records if "crashed" in record.getMessage()]) == 1


@pytest.mark.parametrize(
    ("result", "kind", "message"),
    [
        (math.nan, ValueError, "returned nan"),
        (None, TypeError, "returned None: must be a number"),
        ("0.5", TypeError, "returned '0.5': must be a number"),
        ({"loss": 1}, TypeError, "must be a number"),
        (True, TypeError, "returned True"),
    ],
)
def test_a_result_that_is_no_number_fails_the_trial_and_says_so(result: Any, kind: type, message: str) -> None:
    search = Search(random(X), lambda _trial: result, scheduler=make("sequential"), n_trials=1)
    search.run()
    failure = search.trials[0].failure
    assert failure is not None
    assert isinstance(failure.error, kind)
    assert message in str(failure)
    with pytest.raises(LookupError, match="no trial has a value yet: 1 have ended, 1 of them failed"):
        search.best  # noqa: B018


def test_several_objectives_are_told_as_they_are_and_have_no_best() -> None:
    searcher = Recorder()
    search = Search(searcher, lambda trial: [trial["x"], -trial["x"]], scheduler=make("sequential"), n_trials=3)
    search.run()
    assert [value for _, value in searcher.results] == [(0.0, 0.0), (1.0, -1.0), (2.0, -2.0)]
    with pytest.raises(LookupError, match="several objectives"):
        search.best  # noqa: B018


def use_memory(trial: Trial) -> float:
    if trial["x"] == 1:
        held = bytearray(400_000_000)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(60)
    if trial["x"] == 2:
        time.sleep(60)
    if trial["x"] == 3 and trial.params:
        os.kill(os.getpid(), 9)
    return float(trial["x"])


def test_limits_and_lost_workers_are_failures_of_their_own_kind() -> None:
    search = Search(
        Recorder(5),
        use_memory,
        scheduler=Scheduler.with_processes(2, retries_on_loss=0),
        plugins=Limits(memory="300 MiB", walltime="10 s"),
    )
    search.run()
    reasons = {result.trial["x"]: result.failure.reason for result in search.trials if result.failure is not None}
    assert reasons == {1: "memory", 2: "timeout", 3: "lost"}


@pytest.mark.parametrize("method", ["ask", "tell"])
def test_a_searcher_that_raises_ends_the_run_with_its_exception(method: str) -> None:
    class Broken(Recorder):
        def ask(self, n: int, /) -> list[Trial]:
            if method == "ask" and self.n_asked >= 4:
                raise ZeroDivisionError("the model is singular")
            return super().ask(n)

        def tell(self, results: Sequence[tuple[Trial, Any]], /) -> None:
            super().tell(results)
            if method == "tell" and len(self.results) >= 4:
                raise ZeroDivisionError("the model is singular")

    searcher = Broken()
    search = Search(searcher, parabola, scheduler=make("threads"), n_trials=100)
    with pytest.raises(
        SearcherError, match=rf"Broken\.{method} after .*ZeroDivisionError: the model is singular"
    ) as caught:
        search.run()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert searcher.results  # what it was told is kept
    assert search.n_done < 20


def test_a_searcher_that_proposes_something_else_is_named() -> None:
    class Dicts(Recorder):
        def ask(self, n: int, /) -> list[Any]:
            return [{"x": 1}]

    search = Search(Dicts(), parabola, scheduler=make("sequential"), n_trials=3)
    with pytest.raises(SearcherError, match=r"it proposed \{'x': 1\}: must be a Trial"):
        search.run()


def test_a_lost_process_of_the_searcher_ends_the_run() -> None:
    class Dies(Recorder):
        def ask(self, n: int, /) -> list[Trial]:
            if self.n_asked >= 2:
                os._exit(3)
            return super().ask(n)

    search = Search(Dies(), parabola, scheduler=make("threads"), n_trials=10, searcher_in="process")
    with pytest.raises(SearcherError, match="its process was lost"):
        search.run()


@pytest.mark.parametrize("place", ["thread", "process"])
def test_a_searcher_that_does_not_stop_thinking_does_not_hold_up_the_end(
    place: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_thinking, "_LAST_S", 0.2)
    ended = [False]  # an event cannot be sent to a process

    class Hangs(Recorder):
        def ask(self, n: int, /) -> list[Trial]:
            while self.n_asked >= 1 and not ended[0]:
                time.sleep(0.01)
            return super().ask(1)

    search = Search(Hangs(), parabola, scheduler=make("threads"), n_trials=3, timeout=3, searcher_in=place)
    with caplog.at_level(logging.WARNING):
        search.run()
    ended[0] = True
    assert search.n_done <= 1
    for child in multiprocessing.active_children():
        child.join(60)
        assert child.exitcode is not None
    assert "is still thinking" in caplog.text or "cannot be returned" in caplog.text


class Pruner(Recorder):
    """Stops trials with an odd x at step 2."""

    def __init__(self, n_trials: int = 1000) -> None:
        super().__init__(n_trials)
        self.reports: list[tuple[float, int, float]] = []

    def report(self, trial: Trial, step: int, value: float) -> bool:
        self.reports.append((trial["x"], step, value))
        return trial["x"] % 2 == 1 and step == 2


@pytest.mark.parametrize("name", EXECUTORS)
def test_reports_reach_the_searcher_and_a_stopped_trial_is_told_as_pruned(name: str) -> None:
    searcher = Pruner()
    search = Search(searcher, reporting, scheduler=make(name), n_trials=6)
    search.run()
    expected = [(float(x), step, float(x + step)) for x in range(6) for step in range(3 if x % 2 else 5)]
    assert sorted(searcher.reports) == expected
    told = {trial["x"]: value for trial, value in searcher.results}
    assert [told[x] for x in (0, 2, 4)] == [0, 2, 4]
    assert [told[x] for x in (1, 3, 5)] == [Failure("pruned", None, -1.0)] * 3
    assert search.best.value == 0


def test_a_report_to_a_searcher_that_does_not_decide_is_never_a_reason_to_stop() -> None:
    search = Search(Recorder(3), reporting, scheduler=make("processes"))
    search.run()
    assert [result.failure for result in search.trials] == [None] * 3


def test_the_best_value_is_the_smallest_or_the_largest() -> None:
    def best(**options: Any) -> float:
        search = Search(Recorder(5), lambda trial: trial["x"], scheduler=make("sequential"), **options)
        search.run()
        return search.best.trial["x"]

    assert [best(), best(mode="min"), best(mode="max")] == [0, 0, 4]


def test_callbacks_get_each_result_and_can_stop_the_search() -> None:
    search = Search(random(X), parabola, scheduler=make("threads"))
    seen: list[TrialResult] = []

    @search.on_trial
    def note(result: TrialResult) -> None:
        seen.append(result)
        if len(seen) == 10:
            search.stop()

    search.run()
    assert 10 <= len(seen) <= 12
    assert seen == search.trials


def test_a_callback_that_raises_ends_the_run() -> None:
    search = Search(random(X), parabola, scheduler=make("threads"), n_trials=50)

    @search.on_trial
    def fail(result: TrialResult) -> None:
        raise RuntimeError("of the callback")

    with pytest.raises(RuntimeError, match="of the callback"):
        search.run()


def test_after_the_timeout_no_trial_starts_and_what_ran_is_told() -> None:
    searcher = Recorder()
    search = Search(searcher, halves, scheduler=make("threads"), timeout=0.3)
    search.run()
    assert len(searcher.results) == search.n_done > 0


def test_without_kept_trials_only_the_best_is_known() -> None:
    search = Search(Recorder(20), parabola, scheduler=make("sequential"), keep_trials=False)
    search.run()
    assert search.trials == []
    assert search.n_done == 20
    assert search.best.trial["x"] == 3


def test_batches_of_fast_trials_are_chosen_by_their_duration() -> None:
    search = Search(random(X), parabola, scheduler=make("processes"), n_trials=6000, batch_size="auto")
    search.run()
    assert search.n_done == 6000
    assert {result.trial.number for result in search.trials} == set(range(6000))
    assert search.task.batch_size > 1


def test_the_table_has_a_row_for_each_trial_in_the_order_of_their_numbers() -> None:
    search = Search(random(X, seed=2), raise_below_zero, scheduler=make("threads"), n_trials=8, keep_going=True)
    search.run()
    table = search.df()
    assert list(table.index) == list(range(8))
    assert list(table["params.x"]) == [dict(trial.params)["x"] for trial in random(X, seed=2).ask(8)]
    assert list(table["failure"].notna()) == [x < 0 for x in table["params.x"]]


def test_a_search_runs_in_a_loop_that_is_running() -> None:
    search = Search(random(X), parabola, scheduler=make("threads"), n_trials=10)
    asyncio.run(search.async_run())
    assert search.n_done == 10


def test_a_search_that_runs_again_goes_on_with_its_searcher() -> None:
    searcher = Recorder()
    search = Search(searcher, parabola, scheduler=make("threads"), n_trials=5)
    search.run()
    search.run()
    assert sorted(trial["x"] for trial, _ in searcher.results) == list(range(10))
    assert search.n_done == 10


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"n_trials": 0}, ValueError, "n_trials=0"),
        ({"n_trials": "5"}, TypeError, "n_trials='5'"),
        ({"n_workers": -1}, ValueError, "n_workers=-1"),
        ({"order": "random"}, ValueError, "order='random': must be 'completion' or 'submission'"),
        ({"in_flight": 2}, ValueError, "in_flight=2: needs order='submission'"),
        ({"searcher_in": "gpu"}, ValueError, "searcher_in='gpu'"),
        ({"mode": "maximize"}, ValueError, "mode='maximize': must be 'min' or 'max'"),
        ({"timeout": -1}, ValueError, "timeout=-1"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Search(random(X), parabola, scheduler=make("sequential"), **options)


def test_an_object_that_is_no_searcher_is_refused() -> None:
    class Half:
        def ask(self, n: int) -> list[Trial]:
            return []

    with pytest.raises(TypeError, match="has no method tell"):
        Search(Half(), parabola, scheduler=make("sequential"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"is a class; create one, as in Recorder\(…\)"):
        Search(Recorder, parabola, scheduler=make("sequential"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        searcher = Recorder()
        searcher.lock = threading.Lock()  # type: ignore[attr-defined]
        search = Search(searcher, parabola, scheduler=make("sequential"), searcher_in="process")
        search.run()
