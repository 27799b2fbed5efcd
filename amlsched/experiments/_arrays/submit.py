"""Submit the repetitions of a plan to a batch system as arrays."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._surroundings import expanded
from amlsched.batch_systems import SYSTEMS, ArrayJob, Element, Stage, System, commands
from amlsched.batch_systems.system import filled
from amlsched.errors import BatchSystemError, ConfigError, ExperimentError
from amlsched.experiments._arrays.cluster_options import array_options
from amlsched.experiments._arrays.status import UNSUBMITTED, in_queue, live_arrays, states
from amlsched.experiments._arrays.submission import Part, Submission, Work, create, next_folder, submissions
from amlsched.experiments._code.copy import CodeCopy, CopyPlan
from amlsched.experiments._config import yaml
from amlsched.experiments._config.axes import DEBUG_FOLDER
from amlsched.experiments._planning.jobs import JobNumbers
from amlsched.experiments._running.experiment_run import ExperimentRun
from amlsched.experiments._running.graceful_stop import GRACE_S
from amlsched.experiments._storage import layout
from amlsched.experiments._storage.record import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from amlsched.experiments._arrays.submission import Key
    from amlsched.experiments.loggers.base import AbstractLogger
    from amlsched.experiments.plan import Plan
    from amlsched.experiments.target import Target

__all__ = ["SubmitResult", "feed", "feed_from_element", "job_scripts", "submit"]

_PATIENCE_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class SubmitResult:
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
) -> list[SubmitResult]:
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
    done: list[SubmitResult] = []
    for path in plan.paths:
        results = path.resolve()
        before = submissions(results / DEBUG_FOLDER if plan.debug else results)
        refused = ""
        for one in before:
            refused = feed(one) or refused
        queued = in_queue(before)
        work = remaining_work(plan, results, queued)
        made = None
        if work:
            copies = CopyPlan.of(section, results, where=str(plan.config), **(copy or {}))
            copied = copies.make(len(work), replace=replace_copy, exclude=[one.resolve() for one in plan.paths])
            made = create(
                results,
                config_snapshot(plan, results),
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
            _save_carried(made, run.loggers, scheduler)
            try:
                refused = feed(made, live_arrays(before, batch.name) if made.at_once else ())
            except (BatchSystemError, ConfigError):
                if not made.parts:
                    shutil.rmtree(made.folder, ignore_errors=True)
                raise
            _copy_script(made, section.get("slurm_output"))
        done.append(SubmitResult(results, made, len(queued), refused))
    return done


def remaining_work(plan: Plan, results: Path, queued: frozenset[Key]) -> list[Work]:
    """The remaining work in a folder for the results, by jobs, without what is in the queue."""
    numbers = JobNumbers()
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
            from_scratch = plan.starts_from_scratch(planned)
            if from_scratch and run.name not in work["anew"]:
                work["anew"].append(run.name)
            if from_scratch or planned.known.state.done or planned.known.state in (State.FAILED, State.UNKNOWN):
                work["again"].setdefault(run.name, {})[str(planned.index)] = len(planned.known.attempts)
    return [Work(job, **work) for job, work in found.items()]


def config_snapshot(plan: Plan, results: Path) -> str:
    """The current config, for the folder of a submission."""
    up = {"path": "../.."}
    chosen = [one for one in plan.experiments if plan.path(one).resolve() == results]
    section = plan.resolved.cluster or {}  # the section itself is not part of that config
    shares = {key: section[key] for key in ("gpus_per_rep", "cpus_per_rep") if section.get(key) is not None}
    return yaml.write([shares | layout.resolved_config(one, plan.debug) | up for one in chosen])


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
        work = remaining_work(plan, results, frozenset())
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
    return section, batch, array_options(section, batch, plan.resolved)


def _logs(section: Mapping[str, Any]) -> Path | None:
    return expanded(section["slurm_log"], "slurm_log").resolve() if section.get("slurm_log") else None


def _save_carried(one: Submission, loggers: Sequence[AbstractLogger], scheduler: object) -> None:
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
        path.write_bytes(_script_path(one, 0).read_bytes())
    except OSError as error:
        raise ExperimentError(f"slurm_output {path}", f"cannot be written: {error.strerror}") from error
