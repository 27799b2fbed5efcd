"""The benchmark framework: workloads, peers, rounds, medians, and a table of ratios.

A workload is measured for several peers (ours, amltk, the raw executor, ...). Each measurement is a function that
returns numbers by name, and runs in a new interpreter, so that no state is left from the previous one. The peers take
turns in each round, so that a busy minute of the machine affects all of them; the result is the median. A bar is the
maximum of one of our numbers, as a multiple of a peer's or as an absolute amount.

To add a workload, write the measurements in a module of `benchmarks/` and append a `Workload` to its `WORKLOADS`.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

OURS = "amlsched"

Numbers = Mapping[str, float]
Measurement = Callable[[], Numbers]


@dataclass(frozen=True)
class Bar:
    """The maximum of one of our numbers.

    Attributes:
        number: Name of the number, which ends with its unit.
        against: The peer to compare with; `None` for an absolute amount.
        at_most: Multiple of the peer's number, or the amount in the number's unit.
        other: Name of the peer's number, if it is a different one.
        plus: Added to the peer's multiple, in the number's unit.
        at_least: Whether the bar is a minimum instead.
    """

    number: str
    against: str | None
    at_most: float
    other: str | None = None
    plus: float = 0.0
    at_least: bool = False


@dataclass(frozen=True)
class Workload:
    """The measurements of each peer, and the bars for ours.

    Attributes:
        name: Short name for the command line.
        title: Title in the table.
        peers: The measurement of each peer; ours is `amlsched`.
        bars: The bars for ours; peers without a bar are measured, too.
        rounds: Maximum number of rounds, for workloads that take long.
        times_limit: Factor of the time limit, for measurements with a long preparation.
    """

    name: str
    title: str
    peers: Mapping[str, Measurement]
    bars: tuple[Bar, ...]
    rounds: int | None = None
    times_limit: int = 1


@dataclass
class Measured:
    """The numbers of a workload by peer and name, with one value per round."""

    workload: Workload
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, peer: str, numbers: Numbers) -> None:
        """Add the numbers of one round."""
        for name, value in numbers.items():
            self.values.setdefault(peer, {}).setdefault(name, []).append(value)

    def median(self, peer: str, number: str) -> float | None:
        """The median of a number; `None` if the peer could not be measured."""
        found = self.values.get(peer, {}).get(number)
        return statistics.median(found) if found else None


MODULES = ("calls", "events", "memory", "startup", "configs", "resume", "loading", "placement")


def workloads() -> dict[str, Workload]:
    """All workloads, by name, in the order of the table."""
    found = [w for name in MODULES for w in importlib.import_module(f"benchmarks.{name}").WORKLOADS]
    return {workload.name: workload for workload in found}


# --------------------------------------------------------------------------------------------------------- measuring


def measure(chosen: Iterable[Workload], rounds: int, limit_s: float, log: Callable[[str], None]) -> list[Measured]:
    """Measure every peer of every workload, in turns.

    Args:
        chosen: The workloads.
        rounds: How often to measure each peer.
        limit_s: Time limit of one measurement, in seconds.
        log: Called with messages about the progress.
    """
    results = [Measured(workload) for workload in chosen]
    for result in results:
        peers = list(result.workload.peers)
        for number in range(min(rounds, result.workload.rounds or rounds)):
            for peer in peers[number % len(peers) :] + peers[: number % len(peers)]:  # each one is first at times
                if peer not in result.failures:
                    _measure_once(result, peer, limit_s * result.workload.times_limit)
        log(f"{result.workload.name}: done" + "".join(f"; {p} failed: {why}" for p, why in result.failures.items()))
    return results


def _measure_once(result: Measured, peer: str, limit_s: float) -> None:
    command = [sys.executable, "-m", "benchmarks", "--measure", result.workload.name, peer]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        result.failures[peer] = f"took longer than {limit_s:g} s"
        return
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        result.failures[peer] = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return
    result.add(peer, json.loads(lines[-1]))


def measure_here(workload: str, peer: str) -> None:
    """Run one measurement in this interpreter, and print its numbers on the last line."""
    numbers = workloads()[workload].peers[peer]()
    print(json.dumps(dict(numbers)), flush=True)


# ------------------------------------------------------------------------------------------------------------- table


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    cells: tuple[str, ...]
    passed: bool | None


def _amount(value: float | None, number: str) -> str:
    """A number with its unit, which is the end of its name."""
    if value is None:
        return "-"
    unit = number.rpartition("_")[2]
    text = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{text} {'µs' if unit == 'us' else '%' if unit == 'percent' else unit}"


def _row(result: Measured, bar: Bar) -> Row:
    ours = result.median(OURS, bar.number)
    head = (result.workload.title, _label(bar.number), _amount(ours, bar.number))
    if bar.against is None:
        wanted = f"{'≥' if bar.at_least else '≤'} {_amount(bar.at_most, bar.number)}"
        passed = None if ours is None else (ours >= bar.at_most if bar.at_least else ours <= bar.at_most)
        return Row((*head, "", "", wanted), passed)
    other = bar.other or bar.number
    theirs = result.median(bar.against, other)
    against = f"{_label(other) if bar.against == OURS else bar.against}: {_amount(theirs, other)}"
    wanted = f"≤ {bar.at_most:.2f}" + (f" and {_amount(bar.plus, bar.number)}" if bar.plus else "")
    if ours is None or theirs is None:
        return Row((*head, against, "-", wanted), None)
    return Row((*head, against, f"{ours / theirs:.2f}", wanted), ours <= bar.at_most * theirs + bar.plus)


def _label(number: str) -> str:
    return number.rpartition("_")[0].replace("_", " ")


def rows(results: Iterable[Measured]) -> list[Row]:
    """One row per bar, in the order of the workloads."""
    return [_row(result, bar) for result in results for bar in result.workload.bars]


def table(results: Iterable[Measured]) -> str:
    """The rows in Markdown."""
    lines = ["| workload | measured | amlsched | compared with | ratio | bar | |", "|---|---|---|---|---|---|---|"]
    before = ""
    for row in rows(results):
        title, *rest = row.cells
        verdict = {True: "holds", False: "**missed**", None: "not measured"}[row.passed]
        lines.append("| " + " | ".join(["" if title == before else title, *rest, verdict]) + " |")
        before = title
    return "\n".join(lines)


def machine() -> str:
    """The machine and the versions, in a line or two."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = []
    for package in ("amlsched", "amltk", "cw2", "loky", "numpy", "pandas"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores ({model}), {platform.system()} {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}; {', '.join(versions)}."
    )
