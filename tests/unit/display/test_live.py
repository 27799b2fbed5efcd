"""The live display of a scheduler."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from amlsched import MissingExtraError, Plugin, Scheduler, SequentialExecutor
from amlsched.display import live as module
from amlsched.display.live import LiveView, PlainLines, live, scheduler_view
from amlsched.executors.capabilities import WorkersNow
from amlsched.plugins import Limiter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def a_capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name in ("REFRESH_S", "LINE_S"):
        monkeypatch.setattr(module, name, 0.001)


def fail() -> None:
    raise ValueError("no")


def show(scheduler: Scheduler, display: Any, stream: io.StringIO) -> str:
    async def run() -> None:
        with live(scheduler, display, stream=stream):
            await scheduler.async_run(on_exception="continue")

    asyncio.run(run())
    return stream.getvalue()


def rendered(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def scheduler_with_calls(**plugins: Any) -> Scheduler:
    scheduler = Scheduler.with_sequential()
    good = scheduler.task(abs, **plugins)
    bad = scheduler.task(fail)

    @scheduler.on_start
    def start() -> None:
        for x in range(3):
            good.submit(x)
        bad.submit()

    return scheduler


@pytest.mark.parametrize("display", [True, "auto"])
def test_a_terminal_shows_workers_queue_and_tasks(display: Any) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", show(scheduler_with_calls(), display, Terminal()))
    assert "SequentialExecutor, 1 worker" in text
    assert "4 submitted, 0 running, 0 queued, 3 results, 1 exception, 0 cancelled" in text
    assert "calls/s" in text
    words = [line.strip(" │").split() for line in text.splitlines() if line.strip(" │").startswith(("abs", "fail"))]
    assert words[-2:] == [["abs", "3", "0", "3", "0", "0"], ["fail", "1", "0", "0", "1", "0"]]


def test_a_terminal_shows_plugins_and_their_events() -> None:
    text = show(scheduler_with_calls(plugins=Limiter(max_calls=2)), True, Terminal())
    assert "limiter: calls 2/2" in text
    assert "call-limit-reached 1" in text


def test_a_count_stands_beside_its_event_on_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = show(scheduler_with_calls(plugins=Limiter(max_calls=2)), True, Terminal())
    assert "│     call-limit-reached 1 " in text


def test_what_else_is_given_is_shown_below() -> None:
    text = show(scheduler_with_calls(), [Text("best so far: 0.93")], Terminal())
    assert text.rindex("best so far: 0.93") > text.rindex("Scheduler")


def test_it_is_drawn_anew_while_the_run_goes_on() -> None:
    scheduler = Scheduler.with_sequential()
    stream = Terminal()
    states: list[bool] = []

    @scheduler.on_start
    async def wait_until_drawn() -> None:
        for _ in range(2000):
            if stream.getvalue().count("Scheduler") >= 4:
                states.append(True)
                return
            await asyncio.sleep(0.005)

    show(scheduler, True, stream)
    assert states == [True]


def test_elsewhere_lines_are_written() -> None:
    lines = show(scheduler_with_calls(), True, io.StringIO()).splitlines()
    assert lines[-1].startswith("0 s: 4 submitted, 0 running, 0 queued, 3 results, 1 exception, 0 cancelled, ")
    assert "\x1b" not in "".join(lines)


def test_no_line_is_written_twice_while_nothing_changes() -> None:
    scheduler = Scheduler.with_sequential()

    @scheduler.on_start
    async def idle() -> None:
        await asyncio.sleep(0.05)  # many times the interval

    assert len(show(scheduler, True, io.StringIO()).splitlines()) <= 2


@pytest.mark.parametrize(
    ("display", "stream"), [(False, Terminal()), ("auto", io.StringIO())], ids=["False", "auto elsewhere"]
)
def test_nothing_is_shown_where_it_is_off(display: Any, stream: io.StringIO) -> None:
    assert show(scheduler_with_calls(), display, stream) == ""


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(live(Scheduler.with_sequential(), True, stream=Terminal()), PlainLines)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(live(Scheduler.with_sequential(), True, stream=Terminal()), LiveView)
    monkeypatch.setenv("CI", "true")  # a log, even where a terminal is made for it
    assert isinstance(live(Scheduler.with_sequential(), True, stream=Terminal()), PlainLines)


@pytest.mark.parametrize("display", ["yes", 3, None])
def test_another_value_is_refused(display: Any) -> None:
    with pytest.raises(ValueError, match="display=.*must be True, False, 'auto' or a list"):
        live(Scheduler.with_sequential(), display)


def test_a_program_without_a_console_runs_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    scheduler = scheduler_with_calls()

    async def run() -> None:
        with live(scheduler, True):
            await scheduler.async_run(on_exception="continue")

    asyncio.run(run())
    assert scheduler.on_future_result.count == 3


def test_rich_is_named_with_its_extra_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(MissingExtraError, match=r"needs rich: pip install 'amlsched\[experiments\]'"):
        live(Scheduler.with_sequential(), True, stream=Terminal())


class Broken:
    def __rich__(self) -> str:
        raise RuntimeError("cannot be drawn")


def test_a_display_that_fails_is_told_of_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = scheduler_with_calls()
    with caplog.at_level(logging.WARNING):
        show(scheduler, [Broken()], Terminal())
    assert scheduler.on_future_result.count == 3
    assert "the display of scheduler failed and is off from now on" in caplog.text


def test_the_display_is_put_away_when_the_run_raises() -> None:
    scheduler = Scheduler.with_sequential()
    stream = Terminal()

    @scheduler.on_start
    def start() -> None:
        raise ValueError("no")

    async def run() -> None:
        with live(scheduler, True, stream=stream):
            await scheduler.async_run()

    with pytest.raises(ValueError, match="no"):
        asyncio.run(run())
    hidden, shown = stream.getvalue().rfind("\x1b[?25l"), stream.getvalue().rfind("\x1b[?25h")
    assert 0 <= hidden < shown  # the cursor is back


def test_a_scheduler_and_its_tasks_can_be_shown_outside_a_run() -> None:
    scheduler = Scheduler.with_threads(2)
    scheduler.task(abs, plugins=[Plugin(), Limiter(max_calls=2)])
    text = rendered(scheduler_view(scheduler))
    assert "not running" in text
    assert "2 workers" in text
    assert "limiter: calls 0/2" in text
    with scheduler:
        pass


def test_a_plugin_may_say_how_it_is_shown() -> None:
    class Boxed(Plugin):
        def __rich__(self) -> str:
            return "[bold]boxed[/bold]"

    scheduler = Scheduler.with_sequential()
    scheduler.task(abs, plugins=Boxed())
    text = rendered(scheduler_view(scheduler))
    assert "boxed" in text
    assert "[bold]" not in text


def test_names_are_not_read_as_markup() -> None:
    def function() -> None: ...

    function.__name__ = "[red]x"
    scheduler = Scheduler.with_sequential()
    scheduler.task(function)
    assert "[red]x" in rendered(scheduler_view(scheduler))


def test_what_was_added_to_the_scheduler_is_shown() -> None:
    scheduler = Scheduler.with_sequential()
    renderables: Iterable[Any] = [Text("added")]
    for renderable in renderables:
        scheduler.add_renderable(renderable)
    assert "added" in rendered(scheduler_view(scheduler))


def test_run_takes_display(capsys: pytest.CaptureFixture[str]) -> None:
    scheduler_with_calls().run(on_exception="continue", display=True)
    assert "4 submitted" in capsys.readouterr().out


def test_rich_is_not_imported_where_the_display_is_off() -> None:
    import subprocess

    program = (
        "import sys; from amlsched import Scheduler; scheduler = Scheduler.with_sequential();"
        "scheduler.run(display=False); print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --------------------------------------------------------------------------------------- workers that come and go


class Reporting(Executor):
    """An executor that tells of its workers, and whose one call ends when a test says so."""

    def __init__(self) -> None:
        self.status = WorkersNow(0, 3, ("2 jobs PENDING (Resources)", "1 job RUNNING"))
        self.work: Future[Any] = Future()

    def submit(self, fn: Any, /, *_: Any, **__: Any) -> Future[Any]:
        return self.work


def waiting_scheduler(stream: io.StringIO) -> Scheduler:
    """Its call waits until the display has shown why."""
    executor = Reporting()
    scheduler = Scheduler(executor)
    task = scheduler.task(abs)
    scheduler.on_start(lambda: task.submit(-1))

    @task.on_submitted
    async def _then(*_: Any) -> None:
        deadline = time.monotonic() + 20
        while "1 job RUNNING" not in stream.getvalue() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        executor.status = WorkersNow(3, 3)
        executor.work.set_result(1)

    return scheduler


def test_a_terminal_shows_why_there_are_no_workers() -> None:
    stream = Terminal()
    text = show(waiting_scheduler(stream), True, stream)
    waiting, _, done = text.rpartition("1 job RUNNING")
    assert "Reporting, 0 of 3 workers" in waiting
    assert "1 submitted, 0 running, 1 queued" in waiting
    assert "  2 jobs PENDING (Resources)" in waiting
    assert "Reporting, 3 of 3 workers" in done
    assert "PENDING" not in done


def test_lines_tell_why_there_are_no_workers() -> None:
    stream = io.StringIO()
    lines = show(waiting_scheduler(stream), True, stream).splitlines()
    told = [line for line in lines if line.endswith("; 0 of 3 workers: 2 jobs PENDING (Resources), 1 job RUNNING")]
    assert len(told) == 1
    assert "1 submitted, 0 running, 1 queued" in told[0]
    assert "workers" not in lines[-1]


def test_a_status_of_another_kind_is_not_shown() -> None:
    class Other(SequentialExecutor):
        status = "mine"

    assert "mine" not in show(Scheduler(Other()), True, Terminal())


# Notebooks


def test_a_display_shows_the_share_of_the_time_that_callbacks_take(monkeypatch) -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(abs)
    scheduler.on_start(lambda: task.submit(1))
    task.on_result(lambda *_: time.sleep(0.2))
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stdout", stream)
        scheduler.run(display=True)
        assert int(stream.getvalue().rpartition("callbacks ")[2].partition("%")[0]) > 10
    assert "callbacks" not in rendered(scheduler_view(scheduler))


def test_a_notebook_shows_a_scheduler_as_html(monkeypatch, capsys) -> None:
    scheduler = scheduler_with_calls(plugins=[Limiter(max_calls=2)])
    scheduler.task(lambda: None)
    scheduler.run(on_exception="end")
    html = scheduler._repr_html_()
    assert html is not None
    assert html.startswith("<pre>")
    assert "&lt;lambda&gt;" in html
    assert "3 results" in html or "2 results" in html
    assert capsys.readouterr().out == ""
    assert scheduler._executor is None  # none is made to be shown
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert scheduler._repr_html_() is None
