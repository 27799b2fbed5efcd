"""Submit the repetitions of a plan to a batch system as arrays."""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._surroundings import expanded
from amlsched.arrays import SYSTEMS, ArrayJob, Element, Stage, System, commands
from amlsched.arrays.template import filled
from amlsched.errors import BatchSystemError, ConfigError, ExperimentError
from amlsched.experiments import layout, yaml12
from amlsched.experiments.atomic import file_bytes
from amlsched.experiments.cluster import slurm_seconds
from amlsched.experiments.codecopy import CodeCopy
from amlsched.experiments.copyplan import CopyPlan
from amlsched.experiments.jobs import Numbers
from amlsched.experiments.names import DEBUG_FOLDER
from amlsched.experiments.queue import UNSUBMITTED, in_queue, live_arrays, states
from amlsched.experiments.record import State
from amlsched.experiments.run import ExperimentRun
from amlsched.experiments.stopping import GRACE_S
from amlsched.experiments.submission import Part, Submission, Work, create, next_folder, submissions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from amlsched.executors._queues import Queue
    from amlsched.experiments.loggers import AbstractLogger
    from amlsched.experiments.plan import Plan
    from amlsched.experiments.resolve import Resolved
    from amlsched.experiments.submission import Key
    from amlsched.experiments.target import Target

__all__ = ["Submitted", "feed", "feed_from_element", "job_scripts", "submit"]

_MEMORY = re.compile(r"(\d+)\s*([KMGT]?)B?", re.IGNORECASE)
_UNITS = {"K": 2**10, "": 2**20, "M": 2**20, "G": 2**30, "T": 2**40}
_PATIENCE_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Submitted:
    """The outcome of submitting the repetitions in a folder.

    Attributes:
        results: The folder for the results.
        submission: The new submission; `None` if there was nothing to submit.
        queued: How many repetitions were skipped because they are already in the queue.
        refused: The batch system's message, if it did not accept all elements now; empty if it did.
    """

    results: Path
    submission: Submission | None
    queued: int
    refused: str = ""


def submit(
    target: Target,
    plan: Plan,
    *,
    system: str | None = None,
    capture: bool = True,
    command: Sequence[str] = (),
    copy: Mapping[str, bool] | None = None,
    replace_copy: bool = False,
    keep_changed: bool = False,
    grace_s: float = GRACE_S,
    loggers: Iterable[AbstractLogger] = (),
    scheduler: object = None,
) -> list[Submitted]:
    """Submit the remaining repetitions of a plan: those that are neither done nor in the queue.

    Args:
        target: The experiment.
        plan: The repetitions.
        system: Name of the batch system; `None` for that of the config's section.
        capture: Whether to capture the output of repetitions.
        command: The command line, to be recorded.
        copy: The flags for the copy of the code; see `CopyPlan.of`.
        replace_copy: Whether an existing copy of other code is renamed.
        keep_changed: As for `ExperimentRun`.
        grace_s: As for `ExperimentRun`.
        loggers: Receive what the experiment logs, in addition to the CSV file.
        scheduler: Runs the repetitions of an element; `None` for an executor.

    Returns:
        The outcome for each folder for the results.

    Raises:
        ConfigError: The config is invalid, or has no section for the batch system of this host.
        ExperimentError: The experiment cannot be imported, or the folder for the results cannot be written.
        BatchSystemError: The batch system is not installed here, or rejected the array.
    """
    if target.held is not None:
        problem = "was defined in a function or in a notebook, so a job cannot import it"
        raise ExperimentError(str(target), problem, "define it at the top level of a file")
    section, batch, array = _section(plan, system)
    commands.largest(batch)  # raises early if there is no batch system
    run = ExperimentRun(target, plan, capture=capture, loggers=loggers, keep_changed=keep_changed)
    run.prepare()
    done: list[Submitted] = []
    for path in plan.paths:
        results = path.resolve()
        before = submissions(results / DEBUG_FOLDER if plan.debug else results)
        refused = ""
        for one in before:
            refused = feed(one) or refused
        queued = in_queue(before)
        work = left(plan, results, queued)
        made = None
        if work:
            copies = CopyPlan.of(section, results, where=str(plan.config), **(copy or {}))
            copied = copies.make(len(work), replace=replace_copy, exclude=[one.resolve() for one in plan.paths])
            made = create(
                results,
                frozen(plan, results),
                system=batch.name,
                target=str(target),
                command=list(command) or sys.argv,
                debug=bool(plan.debug),
                capture=capture,
                logs=_logs(section),
                at_once=section.get("num_parallel_jobs"),
                work=work,
                array=array,
                grace_s=grace_s,
                copies=[str(one.folder) for one in copied],
            )
            _carry(made, run.loggers, scheduler)
            try:
                refused = feed(made, live_arrays(before, batch.name) if made.at_once else ())
            except (BatchSystemError, ConfigError):
                if not made.parts:
                    shutil.rmtree(made.folder, ignore_errors=True)
                raise
            _copy_script(made, section.get("slurm_output"))
        done.append(Submitted(results, made, len(queued), refused))
    return done


def asked(section: Mapping[str, Any], batch: System | Queue, resolved: Resolved) -> dict[str, Any]:
    """What the config's section asks for, as `ArrayJob` has it.

    Raises:
        ConfigError: Two keys do not go together, or the batch system takes no such name of a job.
    """
    where = str(resolved.file)
    if section.get("sbatch_args") and batch.name != "slurm":
        remedy = f"write options of {batch} as in a script, below directives"
        raise ConfigError(where, f"sbatch_args are options of Slurm, but this is for {batch}", remedy)
    time = section.get("time")
    if time is not None:
        time = slurm_seconds(time) or math.inf
    options = dict(section.get("sbatch_args") or {})
    memory = section.get("mem-per-cpu")
    document = resolved.section
    activation = _activation(section.get("venv"), document.place("venv") if document is not None else where)
    lines: list[str] = list(section.get("sh_lines") or [])
    return {
        "name": _job_name(section.get("job-name"), batch, resolved),
        "folder": str(Path.cwd()),
        "partition": _text(section.get("partition")),
        "account": _text(section.get("account")),
        "time_s": time,
        "memory_bytes": None if memory is None else _bytes(memory, where),
        "tasks": section.get("ntasks", 1),
        "cpus": section.get("cpus-per-task", 1),
        "requeue": section.get("requeue", True),
        "warn_s": section.get("warn_s", 60),
        "options": options,
        "directives": section.get("directives") or [],
        "lines": [activation] * (activation not in ("", *lines)) + lines,
        "template": _template(section.get("path_to_template"), batch, where),
        "command": ["python" if section.get("venv") else sys.executable, "-m", "amlsched"],
    }


def _job_name(given: object, batch: System | Queue, resolved: Resolved) -> str:
    if not given:
        return batch.syntax.fitting_name(resolved.file.stem.strip("<>"))
    try:
        return batch.syntax.name("job-name", given)
    except ValueError as error:
        where = resolved.section.place("job-name") if resolved.section is not None else str(resolved.file)
        raise ConfigError(where, str(error)) from error


def _template(place: str | None, batch: System | Queue, where: str) -> str:
    if place is None:
        return ""
    if batch.name != "slurm":
        raise ConfigError(where, f"path_to_template is for Slurm, but this is for {batch}", "leave it out")
    try:
        return file_bytes(expanded(place, "path_to_template")).decode()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(where, f"path_to_template {place} cannot be read: {problem}") from error


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _bytes(value: int | str, where: str) -> int:
    """Bytes of an amount of memory as Slurm reads it: a bare number is MiB, units are powers of 1024."""
    found = _MEMORY.fullmatch(str(value).strip())
    if found is None:
        raise ConfigError(where, f"mem-per-cpu is {value!r}, which is not an amount of memory", "such as 2G")
    return int(found[1]) * _UNITS[found[2].upper()]


def _activation(venv: str | None, where: str) -> str:
    """The line that activates an environment, given by its folder, its `bin/activate`, or its name in conda."""
    if venv is None:
        return ""
    folder = expanded(venv.removesuffix("/bin/activate"), "venv").resolve()
    script = folder / "bin" / "activate"
    if script.is_file():
        return f"source {shlex.quote(str(script))}"
    if (folder / "conda-meta").is_dir():
        return f"source activate {shlex.quote(str(folder))}"
    if "/" in venv or venv.startswith("~"):
        remedy = "create the environment first, or give its folder (with ${env:HOME}, not $HOME)"
        raise ConfigError(where, f"venv is {venv!r}, but there is no file {script}", remedy)
    return f"source activate {shlex.quote(venv)}"


def left(plan: Plan, results: Path, queued: frozenset[Key]) -> list[Work]:
    """The remaining work in a folder for the results, by jobs, without what is in the queue."""
    numbers = Numbers()
    found: dict[int, dict[str, Any]] = {}
    for path, run in plan.runs():
        if path != results:
            continue
        numbers.enter(run)
        for planned in plan.repetitions(run, path):
            if not planned.todo or (run.experiment_name, run.name, planned.index) in queued:
                continue
            fresh: dict[str, Any] = {"experiment": run.experiment_name, "repetitions": {}, "again": {}, "anew": []}
            work = found.setdefault(numbers.job(planned.index), fresh)
            work["repetitions"].setdefault(run.name, []).append(planned.index)
            anew = plan.asks_anew(planned)
            if anew and run.name not in work["anew"]:
                work["anew"].append(run.name)
            if anew or planned.known.state.done or planned.known.state in (State.FAILED, State.UNKNOWN):
                work["again"].setdefault(run.name, {})[str(planned.index)] = len(planned.known.attempts)
    return [Work(job, **work) for job, work in found.items()]


def frozen(plan: Plan, results: Path) -> str:
    """The current config, for the folder of a submission."""
    up = {"path": "../.."}
    chosen = [one for one in plan.experiments if plan.path(one).resolve() == results]
    section = plan.resolved.cluster or {}  # the section itself is not part of that config
    shares = {key: section[key] for key in ("gpus_per_rep", "cpus_per_rep") if section.get(key) is not None}
    return yaml12.write([shares | layout.resolved_config(one, plan.debug) | up for one in chosen])


def feed(one: Submission, after: Sequence[str] = (), patience_s: float = 0.0) -> str:
    """Submit as many of a submission's remaining elements as the batch system accepts now.

    Args:
        one: The submission.
        after: Ids of arrays that have to finish first.
        patience_s: How long to wait for another process that is submitting elements.

    Returns:
        The batch system's message, if it did not accept all of them; empty if it did.

    Raises:
        BatchSystemError: It rejected them for another reason than their number, or a command failed.
    """
    with one.feeding(patience_s) as ours:
        return _fed(one, tuple(after)) if ours else ""


def _fed(one: Submission, after: tuple[str, ...]) -> str:
    parts = one.parts
    first, total = sum(part.count for part in parts), len(one.work)
    if one.dropped >= set(range(first, total)):
        return ""
    if parts and one.at_once:
        after = (parts[-1].job,)
    count = min(commands.largest(one.batch) or total, total - first)
    while first < total:
        count = min(count, total - first)
        try:
            job = _submitted(one, len(parts), first, count, after)
        except BatchSystemError as error:
            if not one.batch.too_many.search(error.words):
                raise
            if count == 1:
                if not parts:
                    raise
                return error.words
            count //= 2
            continue
        parts.append(Part(len(parts), first, count, job))
        one.add(parts[-1])
        first += count
        if one.at_once:
            after = (job,)
    return ""


def _submitted(one: Submission, number: int, first: int, count: int, after: tuple[str, ...]) -> str:
    text, description = _scripts(one, number, first, count, after)
    script = _script_path(one, number)
    script.write_text(text, "utf-8")
    script.chmod(0o755)
    if description:
        script = script.with_suffix(".sub")
        script.write_text(description, "utf-8")
    return commands.submit(one.batch, script)


def _script_path(one: Submission, number: int) -> Path:
    return one.folder / f"part_{number}.sh"


def _scripts(one: Submission, number: int, first: int, count: int, after: tuple[str, ...]) -> tuple[str, str]:
    """The script of a part, and its submit description, if the system has one."""
    said = dict(one.array)
    template = said.pop("template")
    command = (*said.pop("command"), "element", str(one.folder), str(first), str(count))
    folder, directives, lines = Path(said.pop("folder")), tuple(said.pop("directives")), tuple(said.pop("lines"))
    if len(one.copies) == 1:  # with a copy for each element, it enters its own
        folder = CodeCopy.read(one.copies[0]).place(folder)
    job = ArrayJob(
        command=command,
        count=count,
        folder=folder,
        directives=directives,
        lines=lines,
        logs=one.logs,
        at_once=one.at_once,
        after=after,
        **said,
    )
    try:
        text = filled(template, one.batch, job) if template else one.batch.script(job)
        return text, one.batch.description(job, _script_path(one, number))
    except ValueError as error:
        raise ConfigError("the section for the batch system", str(error)) from error


def job_scripts(target: Target, plan: Plan, *, system: str | None = None) -> Iterator[tuple[Path, int, str, str]]:
    """The scripts that `submit` would submit; nothing is submitted, queried or written.

    Repetitions in the queue, limits on the size of an array, and copies of the code are not considered.

    Args:
        target: The experiment.
        plan: The repetitions.
        system: As for `submit`.

    Yields:
        For each folder for the results with remaining repetitions: the folder, the number of elements, the script, and
        the submit description (HTCondor), which is otherwise empty.

    Raises:
        ConfigError: The config is invalid, or has no section for the batch system of this host.
    """
    section, batch, array = _section(plan, system)
    for path in plan.paths:
        results = path.resolve()
        work = left(plan, results, frozenset())
        if not work:
            continue
        folder = next_folder(results)
        one = Submission(
            folder=folder,
            system=batch.name,
            target=str(target),
            command=[],
            created="",
            user="",
            host="",
            debug=bool(plan.debug),
            capture=True,
            logs=_logs(section) or folder / "logs",
            at_once=section.get("num_parallel_jobs"),
            work=work,
            array=array,
        )
        yield results, len(work), *_scripts(one, 0, 0, len(work), ())


def _section(plan: Plan, system: str | None) -> tuple[Mapping[str, Any], System, dict[str, Any]]:
    """The config's section, its batch system, and what it requests."""
    section = plan.resolved.checked_cluster()
    if section is None:
        where, remedy = str(plan.config), "add a document with name: SLURM and the keys partition and time"
        raise ConfigError(where, "there is no SLURM section for this host", remedy)
    batch = SYSTEMS[system or section.get("system", "slurm")]
    return section, batch, asked(section, batch, plan.resolved)


def _logs(section: Mapping[str, Any]) -> Path | None:
    return expanded(section["slurm_log"], "slurm_log").resolve() if section.get("slurm_log") else None


def _carry(one: Submission, loggers: Sequence[AbstractLogger], scheduler: object) -> None:
    """Save the loggers and the scheduler for elements."""
    if not loggers and scheduler is None:
        return
    cloudpickle: Any = importlib.import_module("cloudpickle")  # it has no types
    try:
        one.carried.write_bytes(cloudpickle.dumps((tuple(loggers), scheduler)))
    except Exception as error:
        raise ExperimentError("loggers and scheduler", f"cannot be pickled for elements: {error}") from error


def feed_from_element(one: Submission, element: int) -> None:
    """Called by an element when it has finished: submit remaining elements if few are left in the queue."""
    if sum(part.count for part in one.parts) >= len(one.work):
        return
    marks = one.folder / "ended"
    marks.mkdir(exist_ok=True)
    (marks / str(element)).touch()
    with one.feeding(_PATIENCE_S) as ours:
        if not ours:
            return
        parts = one.parts
        ended = {int(path.name) for path in marks.iterdir()}
        live = sum(1 for number, seen in states([one])[str(one.folder)].items() if _waits(seen) and number not in ended)
        if live <= (0 if one.at_once else parts[-1].count // 2):
            _fed(one, ())


def _waits(seen: Element) -> bool:
    return seen is not UNSUBMITTED and seen.stage is not Stage.ENDED


def _copy_script(one: Submission, place: str | None) -> None:
    if place is None:
        return
    path = expanded(place, "slurm_output")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((one.folder / "part_0.sh").read_bytes())
    except OSError as error:
        raise ExperimentError(f"slurm_output {path}", f"cannot be written: {error.strerror}") from error
