"""Submit the repetitions of a plan to a batch system as arrays."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._surroundings import expanded
from amlsched.batch_systems import SYSTEMS, ArrayJob, Element, Stage, System, commands
from amlsched.batch_systems.system import filled
from amlsched.errors import BatchSystemError, ConfigError, ExperimentError, MaybeSubmittedError
from amlsched.experiments._arrays.cluster_options import array_options
from amlsched.experiments._arrays.queue import adopt, in_queue, live_arrays, settle_open, states
from amlsched.experiments._arrays.submission import (
    STOPPED,
    Part,
    Submission,
    Work,
    create,
    next_folder,
    submissions,
    submitting,
)
from amlsched.experiments._code.copy import CodeCopy, CopyPlan
from amlsched.experiments._config import yaml
from amlsched.experiments._config.axes import DEBUG_FOLDER
from amlsched.experiments._planning.config_changes import changes, hashes
from amlsched.experiments._planning.jobs import JobNumbers
from amlsched.experiments._running.experiment_run import ExperimentRun
from amlsched.experiments._running.graceful_stop import GRACE_S
from amlsched.experiments._storage import layout
from amlsched.experiments._storage.record import State
from amlsched.experiments.plan import Plan
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

    from amlsched.experiments._arrays.submission import Key
    from amlsched.experiments.loggers.base import AbstractLogger
    from amlsched.experiments.target import Target

__all__ = ["SubmitResult", "feed", "feed_from_element", "job_scripts", "submit"]

_PATIENCE_S = 30.0
_LONG_S = 60.0
_SHOWN_MARK = "the-mark"


@dataclasses.dataclass(frozen=True, slots=True)
class SubmitResult:
    """The outcome of submitting the repetitions in a folder.

    Attributes:
        results: The folder for the results.
        submission: The new submission; `None` if there was nothing to submit.
        queued: How many repetitions were skipped because they are already in the queue.
        refused: The batch system's message, if it did not accept all elements now; empty if it did.
        earlier: Arrays that were submitted now, with elements of earlier submissions.
        changed: Earlier submissions with repetitions in the queue whose settings are no longer those of the config: how
            many repetitions, and what has changed.
        problem: Why the rest could not be submitted, although it is not too much for the batch system.
    """

    results: Path
    submission: Submission | None
    queued: int
    refused: str = ""
    earlier: list[tuple[Submission, Part]] = dataclasses.field(default_factory=list["tuple[Submission, Part]"])
    changed: list[tuple[Submission, int, str]] = dataclasses.field(default_factory=list["tuple[Submission, int, str]"])
    problem: BatchSystemError | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Fed:
    """The outcome of submitting the remaining elements of a submission.

    Attributes:
        parts: The arrays that were submitted.
        refused: The batch system's message, if it did not accept all elements now; empty if it did.
    """

    parts: list[Part]
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
    notify: Callable[[str], None] = lambda text: None,
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
        notify: Called with text for the user during a long submission.

    Returns:
        The outcome for each folder for the results; after one with a problem, no other follows.

    Raises:
        ConfigError: The config is invalid, or has no section for the batch system of this host.
        ExperimentError: The experiment cannot be imported, or the folder for the results cannot be written.
        BatchSystemError: The batch system is not installed here, cannot be queried, or rejected the array, so that
            nothing was submitted.
    """
    if target.held is not None:
        reason = "was defined in a function or in a notebook, so a job cannot import it"
        raise ExperimentError(str(target), reason, "define it at the top level of a file")
    section, batch, array = _section(plan, system)
    commands.largest(batch)  # raises early if there is no batch system
    run = ExperimentRun(target, plan, capture=capture, loggers=loggers, keep_changed=keep_changed)
    run.prepare()
    done: list[SubmitResult] = []
    for path in plan.paths:
        results = path.resolve()
        with submitting(results, notify):
            before = submissions(results / DEBUG_FOLDER if plan.debug else results)
            earlier: list[tuple[Submission, Part]] = []
            refused = ""
            for one in before:
                _forget_if_never_submitted(one, notify)
            queued = in_queue(before)  # this also finds out what is to be submitted again
            for one in before:
                fed = feed(one, notify=notify)
                earlier += ((one, part) for part in fed.parts)
                refused = fed.refused or refused
            changed = _changed_settings(plan, results, before, queued)
            work = remaining_work(plan, results, queued)
            made: Submission | None = None
            problem: BatchSystemError | None = None
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
                    refused = feed(made, notify=notify).refused
                except (BatchSystemError, ConfigError) as error:
                    if not made.asked:
                        shutil.rmtree(made.folder, ignore_errors=True)
                    if not made.parts or not isinstance(error, BatchSystemError):
                        raise
                    problem = error
                _copy_script(made, section.get("slurm_output"))
        done.append(SubmitResult(results, made, len(queued), refused, earlier, changed, problem))
        if problem is not None:
            break
    return done


def _forget_if_never_submitted(one: Submission, notify: Callable[[str], None]) -> None:
    """Drop a submission of which nothing is in the queue: its repetitions are submitted with the current config."""
    if not one.parts and one.open:
        for note in settle_open(one, give_up=True):
            notify(note)
        if not one.parts:
            one.drop(range(len(one.work)))


def _changed_settings(
    plan: Plan, results: Path, before: Iterable[Submission], queued: Mapping[Key, Submission]
) -> list[tuple[Submission, int, str]]:
    """Which submissions have repetitions in the queue whose settings have changed since, how many, and how."""
    found: list[tuple[Submission, int, str]] = []
    for one in before:
        own = {key for key, other in queued.items() if other is one}
        if not own:
            continue
        old = {(run.experiment_name, run.name): run for _, run in Plan(one.config, debug=plan.debug).runs()}
        count, how = 0, ""
        for path, run in plan.runs():
            former = old.get((run.experiment_name, run.name))
            if path != results or former is None:
                continue
            hash_at, old_hash_at = hashes(run), hashes(former)
            for index in plan.indices(run):
                if (run.experiment_name, run.name, index) in own and hash_at(index) != old_hash_at(index):
                    count += 1
                    how = how or ", ".join(changes(former.at(index), run.at(index)))
        if count:
            found.append((one, count, how))
    return found


def remaining_work(plan: Plan, results: Path, queued: Container[Key]) -> list[Work]:
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


def feed(one: Submission, *, patience_s: float = 0.0, notify: Callable[[str], None] = lambda text: None) -> Fed:
    """Submit as many of a submission's remaining elements as the batch system accepts now.

    Before that, arrays whose submission got no answer are looked for; those that are not in the queue are given up.

    Args:
        one: The submission.
        patience_s: How long to wait for another process that is submitting elements.
        notify: Called with text for the user during a long submission.

    Raises:
        MaybeSubmittedError: A submission got no answer.
        BatchSystemError: It rejected them for another reason than their number, or a command failed.
    """
    if not (one.open or one.given_up or one.surplus or one.waiting()):
        return Fed([])
    with one.feeding(patience_s) as ours:
        return _fed(one, notify) if ours else Fed([])


def _fed(one: Submission, notify: Callable[[str], None]) -> Fed:
    for note in settle_open(one, give_up=True):
        notify(note)
    fed: list[Part] = []
    remaining = one.waiting()
    if not remaining:
        return Fed(fed)
    after = live_arrays(submissions(one.place_of_results), one.system) if one.at_once else ()
    count = commands.largest(one.batch) or len(remaining)
    while remaining:
        count = min(count, len(remaining))
        part = one.ask(remaining[:count])
        begun = time.monotonic()
        try:
            jobs = _submitted(one, part, after, notify)
        except MaybeSubmittedError:
            raise
        except (BatchSystemError, ConfigError) as error:
            one.withdraw(part)
            if not isinstance(error, BatchSystemError) or not one.batch.too_many.search(error.words):
                raise
            # A command that has waited for a full queue would wait as long for each smaller array.
            if count == 1 or time.monotonic() - begun > _LONG_S:
                if not one.parts:
                    raise
                return Fed(fed, error.words)
            count //= 2
            continue
        part = adopt(one, part, jobs)
        if not part.job:  # given up by another process: by `amlsched cancel`
            return Fed(fed)
        fed.append(part)
        remaining = remaining[count:]
        if remaining:
            notify(f"Submitted array {part.job} to {one.batch}: {counted(count, 'element')}; {len(remaining)} to go")
        if one.at_once:
            after = (part.job,)
    return Fed(fed)


def _submitted(one: Submission, part: Part, after: Sequence[str], notify: Callable[[str], None]) -> list[str]:
    text, description = _scripts(one, part, after)
    script = _script_path(one, part)
    script.write_text(text, "utf-8")
    script.chmod(0o755)
    if description:
        script = script.with_suffix(".sub")
        script.write_text(description, "utf-8")
    return commands.submit(one.batch, script, part.mark, notify)


def _script_path(one: Submission, part: Part) -> Path:
    return one.folder / f"part_{part.number}.{part.mark}.sh"


def _scripts(one: Submission, part: Part, after: Sequence[str]) -> tuple[str, str]:
    """The script of a part, and its submit description, if the system has one."""
    said = dict(one.array)
    template = said.pop("template")
    words = ("element", "--mark", part.mark, str(one.folder), str(part.first), str(part.count))
    command = (*said.pop("command"), *words)
    folder, directives, lines = Path(said.pop("folder")), tuple(said.pop("directives")), tuple(said.pop("lines"))
    if len(one.copies) == 1:  # with a copy for each element, it enters its own
        folder = CodeCopy.read(one.copies[0]).place(folder)
    job = ArrayJob(
        command=command,
        count=part.count,
        folder=folder,
        directives=directives,
        lines=lines,
        logs=one.logs,
        at_once=one.at_once,
        after=tuple(after),
        mark=part.mark,
        **said,
    )
    try:
        text = filled(template, one.batch, job) if template else one.batch.script(job)
        return text, one.batch.description(job, _script_path(one, part))
    except ValueError as error:
        raise ConfigError("the section for the batch system", str(error)) from error


def job_scripts(target: Target, plan: Plan, *, system: str | None = None) -> Iterator[tuple[Submission, str, str]]:
    """The scripts that `submit` would submit; nothing is submitted, queried or written.

    Repetitions in the queue, limits on the size of an array, and copies of the code are not considered.

    Args:
        target: The experiment.
        plan: The repetitions.
        system: As for `submit`.

    Yields:
        For each folder for the results with remaining repetitions: the submission, the script, and the submit
        description (HTCondor), which is otherwise empty.

    Raises:
        ConfigError: The config is invalid, or has no section for the batch system of this host.
    """
    section, batch, array = _section(plan, system)
    for path in plan.paths:
        results = path.resolve()
        work = remaining_work(plan, results, ())
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
        yield one, *_scripts(one, Part(0, 0, len(work), "", mark=_SHOWN_MARK), ())


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
    """Called by an element when it has finished: submit remaining elements if few are left in the queue.

    Raises:
        BatchSystemError: That failed; the next command or element tries it again.
    """
    stopped = any(word.why == STOPPED for word in one.words("ended").values())
    if not (one.waiting() or stopped):
        return
    with one.feeding(_PATIENCE_S) as ours:
        if not ours:
            return
        seen = states([one])[str(one.folder)]  # also leaves a word about those that were preempted and not requeued
        waiting, parts = one.waiting(), one.parts
        fresh = len(waiting) - len(one.words("again").keys() & set(waiting))
        live = sum(1 for number, other in seen.items() if number != element and _is_live(other, number, waiting))
        if waiting and (not fresh or live <= (0 if one.at_once else parts[-1].count // 2)):
            _fed(one, lambda text: None)


def _is_live(seen: Element, number: int, waiting: Sequence[int]) -> bool:
    return seen.stage is not Stage.ENDED and number not in waiting


def _copy_script(one: Submission, place: str | None) -> None:
    if place is None:
        return
    path = expanded(place, "slurm_output")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_script_path(one, one.asked[0]).read_bytes())
    except OSError as error:
        raise ExperimentError(f"slurm_output {path}", f"cannot be written: {error.strerror}") from error
