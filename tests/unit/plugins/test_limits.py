"""What Limits accepts, how amounts are read, and what its errors say; that limits hold is in tests/faults."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from amlsched import CpuTimeLimitError, LimitError, MemoryLimitError, Scheduler, WalltimeLimitError
from amlsched.plugins import Limits, PynisherPlugin
from amlsched.units import parse_memory, parse_seconds
from tests.faults import greedy

linux = pytest.mark.skipif(sys.platform != "linux", reason="Limits needs Linux")


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1 B", 1),
        ("6 GB", 6 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("512MiB", 2**29),
        (" 2 kb ", 2000),
        (".5 KiB", 512),
        ("1 TiB", 2**40),
    ],
)
def test_an_amount_of_memory_is_read_with_its_unit(text: str, amount: int) -> None:
    assert parse_memory(text) == amount


@pytest.mark.parametrize(
    "text", ["", "6", "6 G", "6 K", "GB", "6 GB 5 MB", "-6 GB", "1e9 B", "0 GB", "0.1 B", "6 s", 6]
)
def test_an_amount_of_memory_that_is_not_clear_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="amount of memory|less than one byte"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90 s", 90),
        ("1.5s", 1.5),
        ("250 ms", 0.25),
        ("10 min", 600),
        ("2 hours", 7200),
        ("1 day", 86400),
        ("1 h 30 min", 5400),
        ("1h30min", 5400),
        ("1:30:00", 5400),
        ("0:00:01.5", 1.5),
        ("1-12:00:00", 129600),
        ("100:00:00", 360000),
        ("0 s", 0),
    ],
)
def test_a_length_of_time_is_read_with_its_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "1:30", "1:60:00", "10 m", "10 GB", "-1 s", "ten s", "5 s 3", "s", 10, None]
)
def test_a_length_of_time_that_is_not_clear_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="is not a duration: write number and unit"):
        parse_seconds(text)


@linux
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"walltime": 10}, r"walltime: 10 is not a duration.*; or walltime_s=10"),
        ({"memory": 6e9}, r"memory: 6000000000.0 is not an amount.*; or memory_bytes=6"),
        ({"cputime": "3 parsecs"}, "cputime: '3 parsecs' is not a duration"),
        ({"address_space": "8"}, "address_space: '8' is not an amount"),
        ({"grace": "soon"}, "grace: 'soon' is not a duration"),
        ({"walltime": "0 s"}, "walltime='0 s': must be more than 0"),
        ({"walltime_s": 0}, "walltime_s=0: must be more than 0"),
        ({"walltime_s": -1}, "walltime_s=-1: must be more than 0"),
        ({"walltime_s": float("nan")}, "walltime_s=nan: must be more than 0"),
        ({"walltime_s": float("inf")}, "walltime_s=inf: must be more than 0, or None for no limit"),
        ({"walltime_s": "10"}, "walltime_s='10': must be more than 0"),
        ({"cputime_s": True}, "cputime_s=True: must"),
        ({"memory_bytes": 0}, "memory_bytes=0: must be more than 0"),
        ({"grace_s": -1}, "grace_s=-1: must be more than 0"),
        ({"memory": "1 GB", "memory_bytes": 5}, "memory='1 GB' and memory_bytes=5: give only one of them"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**options)


@linux
@pytest.mark.parametrize(
    ("limits", "shown"),
    [
        (lambda: Limits(), "limits: none"),
        (lambda: Limits("10 min", "2 GiB", "1 h"), "limits: walltime 600 s, memory 2048 MiB, CPU time 3600 s"),
        (lambda: Limits(walltime_s=1.5, grace_s=0), "limits: walltime 1.5 s"),
        (lambda: Limits(address_space="4 GiB"), "limits: address space 4096 MiB"),
        (
            lambda: PynisherPlugin(memory_limit=(1, "KB"), cputime_limit=3, walltime_limit=(2, "m")),
            "pynisher-plugin: walltime 120 s, memory 0 MiB, CPU time 3 s",
        ),
    ],
)
def test_limits_are_shown(limits: Any, shown: str) -> None:
    assert str(limits()) == shown


@linux
def test_a_plugin_without_a_limit_changes_no_call() -> None:
    scheduler = Scheduler.with_sequential()
    plugin = Limits()
    scheduler.task(greedy.double, plugins=plugin)
    assert plugin.pre_submit(greedy.double, 1, a=2) == (greedy.double, (1,), {"a": 2})


@pytest.mark.parametrize(
    ("error", "parent", "text"),
    [
        (
            WalltimeLimitError("fit", 60.0, 61.5),
            TimeoutError,
            "fit was terminated: it ran for 61.50 s, its limit is 60 s",
        ),
        (
            CpuTimeLimitError("fit", 60.0, 61.5),
            TimeoutError,
            "fit was terminated: it used 61.50 s of CPU time, its limit is 60 s",
        ),
        (
            MemoryLimitError("fit", 2**30, 2**30 + 2**19),
            MemoryError,
            "fit was terminated: it used 1024.5 MiB of memory, its limit is 1024.0 MiB",
        ),
    ],
)
def test_an_error_says_limit_and_use_and_has_a_parent_that_callers_catch(
    error: Any, parent: type[Exception], text: str
) -> None:
    assert str(error) == text
    assert isinstance(error, parent)
    assert isinstance(error, LimitError)


@linux
@pytest.mark.parametrize(
    ("options", "function", "argument", "events"),
    [
        ({"walltime_limit": (0.2, "s")}, greedy.sleep, 60, ["pynisher-timeout", "pynisher-walltime-limit"]),
        ({"cputime_limit": 0.2}, greedy.burn, 60, ["pynisher-timeout", "pynisher-cputime-limit"]),
        ({"memory_limit": (64, "MB")}, greedy.grow, 200, ["pynisher-memory-limit"]),
    ],
)
def test_amltks_names_and_events(options: dict[str, Any], function: Any, argument: int, events: list[str]) -> None:
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(function, plugins=PynisherPlugin(**options))
    told: list[tuple[str, type[BaseException]]] = []
    for name in (
        "pynisher-timeout",
        "pynisher-memory-limit",
        "pynisher-cputime-limit",
        "pynisher-walltime-limit",
    ):
        task.on(name, lambda error, name=name: told.append((name, type(error))))
    scheduler.on_start(lambda: task.submit(argument))
    scheduler.run(on_exception="continue")
    assert sorted(name for name, _ in told) == sorted(events)
    assert all(issubclass(kind, PynisherPlugin.PynisherException) for _, kind in told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_limit": (1, "XB")}, "memory_limit=.*the unit must be one of B, KB, MB, GB"),
        ({"walltime_limit": (1, "d")}, "walltime_limit=.*the unit must be one of s, m, h"),
        ({"cputime_limit": (0, "s")}, "cputime_limit=.*must be more than 0"),
    ],
)
@linux
def test_amltks_units_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PynisherPlugin(**options)


def test_what_is_supported_is_told_by_amltks_names() -> None:
    assert PynisherPlugin.supports("memory") == (sys.platform == "linux")
    assert not PynisherPlugin.supports("disk")
