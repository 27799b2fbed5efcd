"""Whatever is asked for: a batch system reads in the script what was meant.

The readers of `tests/readers.py` and the grammars here are the manuals' own, written down again: sbatch, qsub of Grid
Engine (with sge_types) and of PBS and Torque, bsub, oarsub, and the submit file of HTCondor. Where real ones are at
hand, `tests/clusters/test_syntax.py` asks them as well.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amlsched.batch_systems import SYSTEMS, WORKER_SYSTEMS, ArrayJob, System
from amlsched.executors import jobqueue
from tests.backends import needs
from tests.readers import condor_words, directives, submit_file, worker_options
from tests.values import examples

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30).filter(
    lambda text: text.strip()
)
AWKWARD = st.text(st.sampled_from(" \"'\\#%$`:,;&|*?[](){}<>~!=+@-_./aZ0é"), min_size=1, max_size=20)
WORDS = st.one_of(TEXT, AWKWARD, st.sampled_from(["a b", "it's", 'say "hi"', "100%", "$HOME", "$(date)", "a\\b", "#1"]))
WORDS = WORDS.filter(lambda text: text.strip() == text and text != "")
LINES = st.sampled_from(["\n", "\r", "\0"])
PARTS = WORDS.map(lambda text: text.replace("/", "-")).filter(lambda text: text not in (".", ".."))
PATHS = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: Path("/", *parts))
CORES = st.integers(1, 64)
MIB = 2**20


# ---------------------------------------------------------------------------------------------- walltimes, as texts
@st.composite
def _clock(draw: st.DrawFn, *forms: str) -> tuple[str, float]:
    """A walltime in one of these forms, and its seconds. `d`, `h`, `m` and `s` are numbers."""
    form = draw(st.sampled_from(forms))
    values = {unit: draw(st.integers(0, most)) for unit, most in {"d": 9, "h": 99, "m": 99, "s": 99}.items()}
    zeros = draw(st.booleans())
    text = re.sub("[dhms]", lambda unit: f"{values[unit[0]]:0{2 if zeros else 1}d}", form)
    weights = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    return text, float(sum(weights[unit] * values[unit] for unit in re.findall("[dhms]", form)))


WALLTIMES: dict[str, st.SearchStrategy[tuple[str, float]]] = {
    "slurm": _clock("m", "m:s", "h:m:s", "d-h", "d-h:m", "d-h:m:s"),
    "sge": st.one_of(
        _clock("h:m:s", ":m:s", "h::s", "h:m:", "::s"),
        st.integers(1, 10**6).flatmap(lambda n: st.sampled_from([(str(n), n), (hex(n), n), (f"0{n:o}", n)])),
    ),
    "pbs": st.one_of(_clock("s", "m:s", "h:m:s", "d:h:m:s"), st.integers(1, 10**6).map(lambda n: (str(n), float(n)))),
    "lsf": _clock("m", "h:m"),
    "oar": _clock("h", "h:m", "h:m:s"),
}
WALLTIMES["moab"] = WALLTIMES["pbs"]
WRITTEN: dict[str, Callable[[list[str]], str]] = {
    "slurm": lambda words: _after(words, "-t"),
    "sge": lambda words: _resource(words, "h_rt"),
    "pbs": lambda words: _resource(words, "walltime"),
    "moab": lambda words: _resource(words, "walltime"),
    "lsf": lambda words: _after(words, "-W"),
    "oar": lambda words: _resource(words, "walltime"),
}


def _after(words: list[str], *names: str) -> str:
    """The value of an option; the last one counts."""
    return [value for word, value in pairwise(words) if word in names][-1]


def _resource(words: list[str], name: str) -> str:
    """The value of a resource of -l."""
    values = [value for word, value in pairwise(words) if word == "-l"]
    return next(found[1] for value in values if (found := re.search(rf"(?:^|[,:]){name}=([^,]*)", value)))


@needs("dask_jobqueue")
@pytest.mark.parametrize("name", sorted(WALLTIMES))
@given(data=st.data())
@examples(60)
def test_a_walltime_is_what_the_batch_system_reads_and_workers_end_before_it(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text, seconds = data.draw(WALLTIMES[name])
    system = WORKER_SYSTEMS[name]
    assert system.seconds is not None
    found = system.seconds(text)
    options = {**worker_options(name), "walltime": text, "log_directory": str(tmp_path_factory.getbasetemp())}
    if seconds == 0:  # no limit, for Slurm; an error elsewhere
        assert found == (math.inf if text.isdecimal() else None) if name == "slurm" else found is None
        return
    assert found == seconds
    script = jobqueue.job_script(name, **options)
    assert WRITTEN[name](directives(name, script)) == text
    lifetime = re.search(r"--lifetime (\d+)s --lifetime-stagger (\d+)s", script)
    assert lifetime
    assert int(lifetime[1]) + int(lifetime[2]) < seconds


# -------------------------------------------------------------------------------------------------------- scripts
def _holds(system: System, value: str, rejected: str) -> bool:
    return not any(character in value for character in "\n\r\0" + rejected)


@pytest.mark.parametrize("name", sorted(set(SYSTEMS) - {"htcondor"}))
@given(data=st.data())
@examples(60)
def test_an_array_is_read_as_it_was_meant(name: str, data: st.DataObject) -> None:
    system = SYSTEMS[name]
    syntax = system.syntax
    values: dict[str, Any] = {key: data.draw(WORDS, key) for key in ("partition", "account")}
    job_name = syntax.fitting_name(data.draw(WORDS, "name"))
    folder, logs = data.draw(PATHS, "folder"), data.draw(PATHS, "logs")
    seconds, memory = data.draw(st.integers(1, 10**7)), data.draw(st.integers(1, 2**45))
    cpus = data.draw(CORES)
    job = ArrayJob(
        job_name, ("true",), 3, folder, logs, time_s=seconds, memory_bytes=memory, cpus=cpus, warn_s=0, **values
    )
    given_texts = [*values.values(), str(folder)]
    possible = all(_holds(system, text, syntax.rejected) for text in given_texts)
    possible &= _holds(system, str(logs), syntax.rejected + syntax.rejected_in_paths)
    if not possible:
        with pytest.raises(ValueError, match="cannot hold|is one line"):
            system.script(job)
        return
    words = directives(name, system.script(job))
    if name == "slurm":
        options = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
        assert options["job-name"] == job_name
        assert (options["partition"], options["account"]) == (values["partition"], values["account"])
        assert options["chdir"] == str(folder)
        assert options["output"] == str(logs).replace("%", "%%") + "/out_%A_%a.log"
        assert _seconds_of(options["time"]) == seconds
        assert options["mem-per-cpu"] == f"{-(-memory // MIB)}M"
        assert options["cpus-per-task"] == str(cpus)
        return
    assert _after(words, "-N") == job_name
    assert _after(words, "-q") == values["partition"]
    assert _after(words, "-P" if name == "sge" else "-A") == values["account"]
    if name == "sge":
        assert _after(words, "-wd") == str(folder)
        out = _after(words, "-o")
        assert out.removeprefix(":") == f"{logs}/out_$JOB_ID.$TASK_ID.log"
        assert out.startswith(":") == (":" in str(logs))  # else what is before it would be a host
        assert _resource(words, "h_vmem") == f"{-(-memory // MIB)}M"
    else:
        assert _after(words, "-o").rstrip("/") == str(logs)
        whole = f"{-(-memory * cpus // MIB)}mb"
        [mem] = [found[1] for word in words if (found := re.search(r"\bmem=(\w+)$", word))]
        assert mem == whole
    assert _seconds_of(_resource(words, "h_rt" if name == "sge" else "walltime")) == seconds


def _seconds_of(clock: str) -> int:
    hours, minutes, seconds = map(int, clock.split(":"))
    assert minutes < 60 > seconds
    return (hours * 60 + minutes) * 60 + seconds


@given(data=st.data())
@examples(60)
def test_an_array_of_htcondor_is_read_as_it_was_meant(data: st.DataObject) -> None:
    system = SYSTEMS["htcondor"]
    name, account = data.draw(WORDS, "name"), data.draw(WORDS, "account")
    folder, logs = data.draw(PATHS, "folder"), data.draw(PATHS, "logs")
    memory = data.draw(st.integers(1, 2**45))
    job = ArrayJob(name, ("true",), 3, folder, logs, account=account, memory_bytes=memory, cpus=2)
    if any(text.endswith("\\") for text in (name, account, str(folder), str(logs))):
        with pytest.raises(ValueError, match="at the end of a value|does not end with a backslash"):
            system.description(job, Path("/x/part.sh"))
        return
    values = submit_file(system.description(job, Path("/x/part.sh")))
    assert values["batch_name"] == name
    assert values["accounting_group"] == account
    assert values["initialdir"] == str(folder)
    assert values["output"] == f"{logs}/out_$(Cluster)_$(Process).log"
    assert values["request_memory"] == f"{-(-memory * 2 // MIB)}M"


MEMORY = st.tuples(st.integers(MIB, 2**40), st.sampled_from(["B", "kB", "MiB", "GB"]))
FACTORS = {"B": 1, "kB": 1000, "MiB": MIB, "GB": 10**9}


@needs("dask_jobqueue")
@pytest.mark.parametrize("name", sorted(WORKER_SYSTEMS))
@given(data=st.data())
@examples(40)
def test_the_job_of_a_worker_is_read_as_it_was_meant(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    system = WORKER_SYSTEMS[name]
    syntax = system.syntax
    amount, unit = data.draw(MEMORY)
    number = max(1, amount // FACTORS[unit])
    amount = number * FACTORS[unit]
    cores = data.draw(CORES)
    part = data.draw(PARTS, "folder")
    logs = tmp_path_factory.getbasetemp() / part
    options: dict[str, Any] = {
        **worker_options(name),
        "cores": cores,
        "memory": f"{number} {unit}",
        "job_name": syntax.fitting_name(data.draw(WORDS, "name")),
        "local_directory": "/scratch",
        "log_directory": str(logs),
    }
    account = "project" if name in ("lsf", "oar", "sge") else "account"
    if name != "htcondor":
        options |= {"queue": data.draw(WORDS, "queue"), account: data.draw(WORDS, "account")}
    texts = [options["queue"], options[account]] if name != "htcondor" else []
    possible = all(_holds(system, text, syntax.rejected) for text in texts)
    possible &= _holds(system, str(logs), syntax.rejected + syntax.rejected_in_paths) and len(part.encode()) < 200
    possible &= not (name == "htcondor" and str(logs).endswith("\\"))
    if amount < MIB or not possible:
        with pytest.raises(ValueError, match=r"cannot hold|is one line|at least 1 MiB|cannot be created"):
            jobqueue.job_script(name, **options)
        return
    script = jobqueue.job_script(name, **options)
    mebibytes = -(-amount // MIB)
    if name == "htcondor":
        values = submit_file(script)
        assert values["batch_name"] == options["job_name"]
        assert values["LogDirectory"] == str(logs)
        assert values["MY.DaskWorkerMemory"] == str(amount)
        assert values["MY.DaskWorkerCores"] == str(cores)
        assert "dask_worker" in shlex.join(shlex.split(condor_words(values["Arguments"])[1]))
        return
    words = directives(name, script)
    assert _after(words, "-J", "-n" if name == "oar" else "-N") == options["job_name"]
    assert _after(words, "-p" if name == "slurm" else "-q") == options["queue"]
    assert _after(words, "--project" if name == "oar" else "-P" if account == "project" else "-A") == options[account]
    if name == "slurm":
        assert f"--mem={mebibytes}M" in words
        assert f"--cpus-per-task={cores}" in words
    elif name in ("pbs", "moab"):
        assert f"select=1:ncpus={cores}:mem={mebibytes}mb" in words
    elif name == "lsf":
        assert _after(words, "-n") == str(cores)
        assert 0 <= int(_after(words, "-M")) * 10**6 - amount < 10**6
    elif name == "oar":
        assert _resource(words, "/nodes") == f"1/core={cores}"
    if name not in ("oar", "lsf"):
        assert str(logs).replace("%", "%%" if name == "slurm" else "%") in _after(words, "-o")


@pytest.mark.parametrize("name", sorted(SYSTEMS))
@given(text=WORDS, line=LINES)
@examples(10)
def test_a_line_break_reaches_no_script(name: str, text: str, line: str) -> None:
    job = ArrayJob(f"a{line}{text}", ("true",), 1, Path("/a"), Path("/b"), directives=(f"x{line}y",))
    with pytest.raises(ValueError, match=r"is one line|takes"):
        SYSTEMS[name].script(job) if SYSTEMS[name].marker else SYSTEMS[name].description(job, Path("/c"))
