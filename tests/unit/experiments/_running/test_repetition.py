"""What a worker does with a repetition: its folder, its output, its record."""

from __future__ import annotations

import io
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from amlsched.errors import ExperimentError, ExperimentSurrender
from amlsched.experiments import AbstractLogger, IterativeExperiment, LoggerArray
from amlsched.experiments._running import output_capture
from amlsched.experiments._running.repetition import Repetition, run_repetition
from amlsched.experiments._storage.record import Process, Record, State
from amlsched.experiments._storage.record_file import read
from amlsched.experiments.target import Target


class Told(IterativeExperiment):
    """Does what its settings say."""

    def initialize(self, cw_config: dict[str, Any], rep: int, logger: LoggerArray) -> None:
        print("to out")
        print("to err", file=sys.stderr)

    def iterate(self, cw_config: dict[str, Any], rep: int, n: int) -> dict[str, Any]:
        raised = cw_config["params"].get("raises")
        if raised is not None and n == 1:
            raise raised
        return {"x": n, "y": n / 3}


def quiet(params: dict[str, Any], rep: int, log: Any) -> dict[str, Any] | None:
    for x in params["log"]:
        log(x=x)
    if "surrender" in params:
        raise ExperimentSurrender(params["surrender"])
    return params.get("result")


def chatty(params: dict[str, Any], rep: int, log: Any) -> None:
    """Prints in step with the others, so that all are at it at the same time."""
    for line in range(20):
        params["barrier"].wait(10)
        print(f"{rep} says {line}")

    def child() -> None:
        print(f"child of {rep}")

    if rep == 0 and params["alone"]:
        thread = threading.Thread(target=child)
        thread.start()
        thread.join()


def repetition(
    folder: Path, experiment: Any = Told, *, params: dict[str, Any] | None = None, rep: int = 0, **options: Any
) -> Repetition:
    return Repetition(
        target=Target.of(experiment),
        config={"iterations": 3, "params": params or {}},
        record=Record("exp", "exp__a1", rep, seed=5),
        folder=folder / f"log/rep_{rep:02d}",
        run_id="run",
        driver=Process.this(),
        executor="sequential",
        **options,
    )


def columns(path: Path) -> list[str]:
    return path.read_text().splitlines()[0].split(",")


def test_a_repetition_leaves_rows_output_and_record(tmp_path: Path) -> None:
    one = repetition(tmp_path)
    outcome = run_repetition(one)
    assert (outcome.state, outcome.last) == (State.COMPLETED, {"x": 2, "y": 2 / 3, "iter": 2})
    assert columns(one.folder / "rep_0.csv") == ["x", "y", "ts", "rep", "iter"]
    assert (one.folder / "out.log").read_text() == "to out\n"
    assert (one.folder / "err.log").read_text() == "to err\n"
    record = read(one.folder)
    assert (record.state, record.seed, record.last, record.attempts[0].rows) == (State.COMPLETED, 5, outcome.last, 3)
    assert record.attempts[0].worker == Process.this()


def test_an_exception_is_recorded_traced_and_raised(tmp_path: Path) -> None:
    one = repetition(tmp_path, params={"raises": ValueError("bad luck")})
    with pytest.raises(ValueError, match="bad luck"):
        run_repetition(one)
    record = read(one.folder)
    assert (record.state, str(record.error)) == (State.FAILED, "ValueError: bad luck")
    assert record.last == {"x": 0, "y": 0.0, "iter": 0}
    trace = (one.folder / "err.log").read_text()
    assert "exp__a1 rep 0 failed" in trace
    assert trace.rstrip().endswith("ValueError: bad luck")
    assert "in iterate" in trace
    assert "amlsched/experiments/_running/repetition.py" not in trace


ASKS = """
def settings_of(params, rep, log):
    settings = params
    log(x=settings[params["asks"]])

def batch(params, rep, log):
    log(x=params["batch"])
"""


@pytest.mark.parametrize(
    ("name", "asks", "hint"),
    [
        ("settings_of", "learning_rate", "did you mean learnig_rate? params has: learnig_rate, opt.decay, asks"),
        ("settings_of", "decay", "did you mean opt.decay? params has: learnig_rate, opt.decay, asks"),
        ("batch", "batch", "params has: learnig_rate, opt.decay, asks"),
    ],
)
def test_a_missing_parameter_is_reported_with_those_there_are(tmp_path: Path, name: str, asks: str, hint: str) -> None:
    one = repetition(tmp_path, from_file(tmp_path, ASKS, name), params=MISSPELT | {"asks": asks})
    with pytest.raises(KeyError):
        run_repetition(one)
    assert str(read(one.folder).error) == f"KeyError: {asks!r} ({hint})"
    assert (one.folder / "err.log").read_text().rstrip().endswith(f"KeyError: {asks!r}\n{hint}")


@pytest.mark.parametrize("asks", ["labels_of_something", 7])
def test_a_key_that_may_be_of_anything_gets_no_hint(tmp_path: Path, asks: Any) -> None:
    one = repetition(tmp_path, from_file(tmp_path, ASKS, "settings_of"), params=MISSPELT | {"asks": asks})
    (tmp_path / "asks.py").write_text("\n" * 20)  # its source is not known any more
    with pytest.raises(KeyError):
        run_repetition(one)
    assert str(read(one.folder).error) == f"KeyError: {asks!r}"


MISSPELT: dict[str, Any] = {"learnig_rate": 1, "opt": {"decay": 2}}


def from_file(folder: Path, source: str, name: str) -> Any:
    """A function of a user's file: one in this repository counts as part of amlsched."""
    file = folder / "asks.py"
    file.write_text(source)
    names: dict[str, Any] = {}
    exec(compile(source, file, "exec"), names)
    return names[name]


def test_ctrl_c_cancels_and_is_not_swallowed(tmp_path: Path) -> None:
    """Trap 13 of cw2."""
    one = repetition(tmp_path, params={"raises": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run_repetition(one)
    assert read(one.folder).state is State.CANCELLED


def test_an_experiment_that_calls_exit_fails_as_an_experiment(tmp_path: Path) -> None:
    one = repetition(tmp_path, params={"raises": SystemExit(3)})
    with pytest.raises(ExperimentError, match=r"called exit: SystemExit: 3") as raised:
        run_repetition(one)
    assert isinstance(raised.value.__cause__, SystemExit)
    assert read(one.folder).state is State.FAILED


def test_a_surrender_is_an_end(tmp_path: Path) -> None:
    one = repetition(tmp_path, params={"raises": ExperimentSurrender({"x": -1})})
    outcome = run_repetition(one)
    assert (outcome.state, outcome.last["x"]) == (State.SURRENDERED, -1)
    assert read(one.folder).state is State.SURRENDERED


@pytest.mark.parametrize(
    ("params", "values"),
    [
        ({"log": [1, 2]}, [1, 2]),
        ({"log": [1], "result": {"x": 9}}, [1, 9]),
        ({"log": [], "result": {"x": 9}}, [9]),
        ({"log": [1], "surrender": {"x": 5}}, [1, 5]),
        ({"log": [1], "surrender": None}, [1]),
    ],
)
def test_a_function_logs_what_it_says_and_what_it_returns(
    tmp_path: Path, params: dict[str, Any], values: list[int]
) -> None:
    one = repetition(tmp_path, quiet, params=params)
    run_repetition(one)
    rows = (one.folder / "rep_0.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == values


def test_one_that_another_run_works_on_is_left_alone(tmp_path: Path) -> None:
    from amlsched.experiments._storage.record import Attempt, now
    from amlsched.experiments._storage.record_file import begin

    one = repetition(tmp_path)
    begun = begin(one.folder, one.record, Attempt("other", Process.this(), Process.this(), "threads", now()))
    assert begun.claim is not None
    assert run_repetition(one).state is State.RUNNING
    assert sorted(path.name for path in one.folder.iterdir()) == ["claim.1", "record.json"]


def test_what_travels_to_a_worker_can(tmp_path: Path) -> None:
    one = repetition(tmp_path, params={"a": [1, {"b": 2}]})
    assert pickle.loads(pickle.dumps(one)) == one


class Keeping(AbstractLogger):
    """Keeps its rows; each repetition has to have one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []

    def initialize(self, config: dict[str, Any], rep: int, rep_log_path: str) -> None:
        self.file = Path(rep_log_path) / "kept.txt"

    def process(self, data: dict[str, Any]) -> None:
        self.rows.append(data)

    def finalize(self) -> None:
        self.file.write_text(str(len(self.rows)))


def test_each_repetition_gets_loggers_of_its_own(tmp_path: Path) -> None:
    logger = Keeping()
    for rep in range(2):
        run_repetition(repetition(tmp_path, rep=rep, loggers=(logger,)))
    assert [(tmp_path / f"log/rep_0{rep}/kept.txt").read_text() for rep in range(2)] == ["3", "3"]
    assert logger.rows == []


# ------------------------------------------------------------------------------------------------------------ output


def test_threads_have_output_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = {"barrier": threading.Barrier(3), "alone": False}
    ones = [repetition(tmp_path, chatty, params=params, rep=rep) for rep in range(3)]
    with output_capture.per_thread():
        threads = [threading.Thread(target=run_repetition, args=(one,)) for one in ones]
        for thread in threads:
            thread.start()
        print("meanwhile")
        for thread in threads:
            thread.join()
    for rep, one in enumerate(ones):
        assert (one.folder / "out.log").read_text().splitlines() == [f"{rep} says {line}" for line in range(20)]
    assert capsys.readouterr().out == "meanwhile\n"


def test_a_thread_of_the_only_repetition_prints_where_it_does(tmp_path: Path) -> None:
    params = {"barrier": threading.Barrier(1), "alone": True}
    one = repetition(tmp_path, chatty, params=params)
    with output_capture.per_thread():
        run_repetition(one)
    assert (one.folder / "out.log").read_text().splitlines()[-1] == "child of 0"


def test_the_streams_are_back_afterwards(tmp_path: Path) -> None:
    before = sys.stdout, sys.stderr
    with output_capture.per_thread():
        assert sys.stdout is not before[0]
        with pytest.raises(ValueError, match="no"):
            run_repetition(repetition(tmp_path, params={"raises": ValueError("no")}))
    assert (sys.stdout, sys.stderr) == before


def test_without_capture_all_goes_to_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = repetition(tmp_path, params={"raises": ValueError("no")}, capture=False)
    with pytest.raises(ValueError, match="no"):
        run_repetition(one)
    shown = capsys.readouterr()
    assert shown.out == "to out\n"
    assert shown.err.startswith("to err\n")
    assert "ValueError: no" in shown.err
    assert "ValueError: no" in (one.folder / "err.log").read_text()


def test_what_a_stream_can_do_its_stand_in_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    with output_capture.per_thread():
        assert sys.stdout.encoding == "latin-1"
        assert not sys.stdout.isatty()
        print("x", flush=True)
        assert sys.stdout.buffer.getvalue() == b"x\n"  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------------ targets


def test_a_class_at_hand_is_found_again_by_its_place() -> None:
    target = Target.of(Told)
    assert str(target) == f"{__name__}:Told"
    assert target.load() is Told


def test_a_file_is_imported_once_and_its_neighbours_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour_of_it.py").write_text("VALUE = 3")
    path = tmp_path / "written_here.py"
    path.write_text("import neighbour_of_it\ndef f(params, rep, log):\n    return {'v': neighbour_of_it.VALUE}\n")
    target = Target.parse(f"{path}:f")
    target.load()
    assert sys.modules["written_here"] is target.module()
    one = Repetition(target, {}, Record("f", "f"), tmp_path / "rep", "run", Process.this(), "sequential")
    assert run_repetition(one).last["v"] == 3


def test_a_file_with_the_name_of_a_known_module_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "json.py"
    path.write_text("def f(params, rep, log): pass")
    import json

    Target.parse(f"{path}:f").load()
    assert sys.modules["json"] is json


def test_a_class_inside_a_function_travels_as_it_is() -> None:
    class Inner(Told):
        pass

    target = Target.of(Inner)
    target.check_picklable()
    assert cloudpickle.loads(cloudpickle.dumps(target)).load().__name__ == "Inner"


def test_what_is_no_class_and_no_function_is_refused() -> None:
    with pytest.raises(ExperimentError, match="neither a class nor a function"):
        Target.of(3)
