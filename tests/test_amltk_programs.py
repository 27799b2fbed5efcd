"""Programs in the shapes of amltk's documentation: they run once their import lines are changed as the page says."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "migrating" / "amltk.md").read_text("utf-8")
_IMPORT = re.compile(r"from (amltk[\w.]*) import ([\w, ]+)")


def homes() -> dict[tuple[str, str], str]:
    """The module of ours for each name of a module of amltk, as the table of the page has it."""
    found: dict[tuple[str, str], str] = {}
    for row in re.findall(r"^\| `from amltk.*\|$", PAGE, flags=re.MULTILINE):
        theirs, ours = row.strip("| ").split(" | ")
        (line,) = re.findall(r"from (amlsched[\w.]*) import ([\w, ]+)", ours)
        (module, names), *_ = _IMPORT.findall(theirs)
        for also in (module, *re.findall(r"`(amltk[\w.]*)`", theirs)):
            for name in names.split(", "):
                assert name in line[1].split(", ")
                found[also, name] = line[0]
    return found


def migrated(program: str) -> str:
    known = homes()

    def changed(line: re.Match[str]) -> str:
        module, names = line.groups()
        return "; ".join(f"from {known[module, name]} import {name}" for name in names.split(", "))

    return _IMPORT.sub(changed, program)


PROGRAMS = {
    "a chain": (
        """
from amltk import Scheduler

def halve(n):
    return n // 2 if n % 2 == 0 else n - 1

scheduler = Scheduler.with_processes(1)
task = scheduler.task(halve)
seen = [10]

@scheduler.on_start
def begin():
    task.submit(10)

@task.on_result
def go_on(_, n):
    seen.append(n)
    if scheduler.running() and n != 0:
        task.submit(n)

scheduler.run(timeout=30)
print(seen)
""",
        "[10, 5, 4, 2, 1, 0]",
    ),
    "calls of no task": (
        """
from amltk.scheduling import Scheduler

scheduler = Scheduler.with_threads(1)

@scheduler.on_start
def begin():
    scheduler.submit(pow, 2, 2)

@scheduler.on_future_result
def again(_, result):
    print(result)
    if result < 100:
        scheduler.submit(pow, result, 2)

scheduler.run()
print(scheduler.event_counts[scheduler.FUTURE_SUBMITTED], scheduler.event_counts["on_future_result"])
""",
        "4 16 256 3 3",
    ),
    "gates": (
        """
from amltk.scheduling import Scheduler

scheduler = Scheduler.with_sequential()
language = "German"

@scheduler.on_start(repeat=3)
def thrice():
    print("hello")

@scheduler.on_start(when=lambda: language == "English")
def english():
    print("good day")

@scheduler.on_start(when=lambda: language == "German")
def german():
    print("guten Tag")

@scheduler.on_start(every=2)
def every_second_run():
    print("second")

def at_last():
    print("last")

scheduler.on_start(at_last, max_calls=1)
for _ in range(3):
    scheduler.run()
""",
        "hello hello hello guten Tag last hello hello hello guten Tag second hello hello hello guten Tag",
    ),
    "stopped at once": (
        """
import time
from amltk.scheduling import Scheduler, ExitState

scheduler = Scheduler.with_processes(1)

@scheduler.on_start
def begin():
    scheduler.submit(time.sleep, 60)

@scheduler.on_future_submitted
def stop(_):
    scheduler.stop()

end = scheduler.run(wait=False)
print(end == ExitState(code=ExitState.Code.STOPPED), scheduler.event_counts[scheduler.FUTURE_CANCELLED])
print(scheduler.empty())
""",
        "True 1 True",
    ),
    "until the time is over": (
        """
import time
from amltk.scheduling import Scheduler, ExitState

scheduler = Scheduler.with_threads(1)
told = []

@scheduler.on_start
def begin():
    scheduler.submit(time.sleep, 0.01)

@scheduler.on_future_done
def again(future):
    if scheduler.running():
        scheduler.submit(time.sleep, 0.01)

@scheduler.on_timeout
def over():
    told.append("over")

end = scheduler.run(timeout=0.2)
print(end.code is ExitState.Code.TIMEOUT, told, str(end.code))
""",
        "True ['over'] Code.TIMEOUT",
    ),
    "exceptions": (
        """
from amltk.scheduling import Scheduler, ExitState

def fail(text):
    raise ValueError(text)

for mode in ("raise", "end", "continue", {KeyError: "raise", ValueError: "end"}):
    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(fail)

    @scheduler.on_start
    def begin():
        task.submit("no luck")

    @scheduler.on_future_exception
    def heard(future, exception):
        print(exception)

    try:
        end = scheduler.run(on_exception=mode)
    except ValueError as error:
        print("raised")
    else:
        print(end.code.name)
""",
        "no luck raised no luck EXCEPTION no luck EXHAUSTED no luck EXCEPTION",
    ),
    "not before the run": (
        """
from amltk.scheduling import Scheduler
from amltk.exceptions import SchedulerNotRunningError, EventNotKnownError

task = Scheduler.with_sequential().task(abs)
try:
    task.submit(-5)
except SchedulerNotRunningError as error:
    print(type(error).__name__)
try:
    task.on("on-resutl")
except EventNotKnownError as error:
    print(type(error).__name__)
""",
        "SchedulerNotRunningError EventNotKnownError",
    ),
    "two tasks": (
        """
from amltk import Scheduler

scheduler = Scheduler.with_threads(1)
first = scheduler.task(lambda x: 2 * x)
second = scheduler.task(lambda x: 1 // (x - 4))
items = iter([1, 2, 3])

@scheduler.on_start
def begin():
    first.submit(next(items))

@first.on_result
def feed(_, result):
    second.submit(result)

@first.on_result
def next_one(_, result):
    item = next(items, None)
    if item is not None:
        first.submit(item)
        return
    print("done")

@first.on_exception
@second.on_exception
def failed(_, exception):
    print(type(exception).__name__)

@second.on_result
@second.on_cancelled
def never_both(*args):
    print(args[1])

scheduler.run(on_exception="continue")
""",
        "-1 ZeroDivisionError done 0",
    ),
    "a limit, and a queue of one's own": (
        """
from collections import deque
from amltk.scheduling import Scheduler, Limiter, Task

scheduler = Scheduler.with_threads(2)
task = scheduler.task(abs, plugins=Limiter(max_concurrent=2))
items = deque(range(6))
results = []

@scheduler.on_start(repeat=4)
def begin():
    task.submit(items.popleft())

@task.on("concurrent-limit-reached")
def put_back(task: Task, x):
    items.appendleft(x)

@task.on_result
def keep(_, result):
    results.append(result)

@task.on_result
def another(_, result):
    if items:
        task.submit(items.popleft())

scheduler.run()
print(sorted(results), task.event_counts["concurrent-limit-reached"])
""",
        "[0, 1, 2, 3, 4, 5] 2",
    ),
    "a plugin of one's own": (
        """
from amltk.scheduling import Scheduler, Task
from amltk.scheduling.plugins import Plugin
from amltk.scheduling.events import Event

class Announces(Plugin):
    name = "announces"
    SAID: Event[str] = Event("announces-said")

    def __init__(self, words):
        self.words, self.times = words, 0

    def attach_task(self, task):
        self.task = task
        task.add_event(self.SAID)
        task.on_submitted(self.submitted, hidden=True)

    def pre_submit(self, fn, *args, **kwargs):
        self.times += 1
        return fn, args, kwargs

    def submitted(self, future, *args, **kwargs):
        self.task.emit(self.SAID, f"{self.words} {args}")

scheduler = Scheduler.with_sequential()
plugin = Announces("hello")
task = Task(abs, scheduler=scheduler, plugins=[plugin])

@task.on("announces-said")
def say(words):
    print(words)

@scheduler.on_start
def begin():
    task.submit(-15)

scheduler.run()
scheduler.run()
print(plugin.times, task.event_counts[task.RESULT])
""",
        "hello (-15,) hello (-15,) 2 1",
    ),
    "events without a scheduler": (
        """
from amltk.scheduling.events import Event, Emitter

rung: Event[[int, str]] = Event("rung")
emitter = Emitter("bell")
subscribe = emitter.subscriber(rung)

@subscribe
def heard(times, tone):
    print(times, tone)

subscribe(heard)
emitter.emit(rung, 2, "c")
subscribe.emit(3, "d")
print(emitter.event_counts[rung], rung == "rung", hash(rung) == hash("rung"))
""",
        "2 c 2 c 3 d 3 d 2 True True",
    ),
    "calls that talk": (
        """
from amltk.scheduling import Scheduler
from amltk.scheduling.plugins import Comm

def asks(comm, n):
    with comm.open():
        for number in range(n):
            comm.send(comm.request(number))

def powers(start, n, *, comm):
    with comm.open("begins"):
        for i in range(n):
            comm.send(start ** (i + 1))

def may_say(x, comm=None):
    comm.send(x)

scheduler = Scheduler.with_threads(1)
results = []
for function, args, kwargs in ((asks, (3,), {}), (asks, (), {"n": 1}), (powers, (2, 3), {}), (may_say, (7,), {})):
    task = scheduler.task(function, plugins=Comm.Plugin())

    @scheduler.on_start
    def begin(task=task, args=args, kwargs=kwargs):
        task.submit(*args, **kwargs)

    @task.on("comm-open")
    def opened(msg: Comm.Msg):
        results.append(msg.data)

    @task.on("comm-request")
    def answer(msg: Comm.Msg):
        msg.respond("ABC"[msg.data])

    @task.on("comm-message")
    def said(msg: Comm.Msg):
        results.append(msg.data)

scheduler.run()
print(results)
""",
        "[None, 'A', 'B', 'C', None, 'A', 'begins', 2, 4, 8, None, 7]",
    ),
    "other plugins": (
        """
import warnings
from amltk.scheduling import Scheduler
from amltk.scheduling.plugins import Limiter
from amltk.scheduling.plugins.pynisher import PynisherPlugin
from amltk.scheduling.plugins.threadpoolctl import ThreadPoolCTLPlugin
from amltk.scheduling.plugins.warning_filter import WarningFilter
from amltk.scheduling.queue_monitor import QueueMonitor

def warns(x):
    warnings.warn("never seen")
    return x

scheduler = Scheduler.with_sequential()
monitor = QueueMonitor(scheduler)
plugins = [Limiter(max_calls=2), WarningFilter("ignore"), ThreadPoolCTLPlugin(max_threads=1)]
task = scheduler.task(warns, plugins=plugins)
scheduler.task(warns, plugins=PynisherPlugin(walltime_limit=(1, "s"), memory_limit=(1, "GB")))

@scheduler.on_start(repeat=3)
def begin():
    task.submit(1)

@task.on("call-limit-reached")
def enough(task, *args, **kwargs):
    print("enough", args)

scheduler.run()
df = monitor.df()
print((df["queued"] + df["finished"] + df["cancelled"] == df["queue_size"]).all(), df["queue_size"].max())
""",
        "enough (1,) True 2",
    ),
    "executors that are given": (
        """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from amltk.scheduling import Scheduler, SequentialExecutor

for executor in (ThreadPoolExecutor(max_workers=2), SequentialExecutor()):
    scheduler = Scheduler(executor=executor)
    task = scheduler.task(abs)

    @scheduler.on_start
    def begin():
        task.submit(-3)

    @task.on_submitted
    def submitted(future, *args, **kwargs):
        print(args)

    @task.on_result
    def result(future, value):
        print(future.result() == value, task.queue, scheduler.queue)

    print(asyncio.run(scheduler.async_run()).code.name)
    executor.shutdown()
""",
        "(-3,) True [] {} EXHAUSTED (-3,) True [] {} EXHAUSTED",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_for_amltk_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, printed = PROGRAMS[name]
    with warnings.catch_warnings():
        exec(compile(migrated(program), f"<{name}>", "exec"), {"__name__": "a_program_for_amltk"})
    assert capsys.readouterr().out.split() == printed.split()
