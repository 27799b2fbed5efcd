"""`amlsched config`: explain a config file, check it, or print its schema."""

from __future__ import annotations

import argparse
import json
from itertools import islice
from typing import TYPE_CHECKING, Any

from amlsched.cli._output import BAD_INPUT, MANY, OK, add_command, add_debug, add_set, check_not_swapped, described
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from amlsched.cli._output import Commands
    from amlsched.experiments.config import Explained, ResolvedExperiment, Run
    from amlsched.experiments.plan import Plan

__all__ = ["add_to"]

_SHOWN = 20
_LONGEST = 80


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    text = "explain or check a config, or print its schema"
    parser = commands.add_parser("config", help=text, description=text)
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    text = "show each value with its origin, and the runs, jobs and folders"
    shown = add_command(actions, explain, text)
    _add_config(shown)
    add_debug(shown)
    shown.add_argument("--all", action="store_true", help="list all runs and jobs, not only the first 20")

    text = "find everything that would go wrong in a run"
    checked = add_command(actions, check, text)
    _add_config(checked)
    text = "also import and check the experiment: path/to/file.py:Class or package.module:Class"
    checked.add_argument("target", metavar="TARGET", nargs="?", help=text)

    add_command(actions, schema, "print a JSON schema for editors")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="the YAML file")
    text = "only these experiments"
    parser.add_argument("-e", "--experiments", metavar="NAME", nargs="+", action="extend", default=[], help=text)
    add_set(parser)


def explain(arguments: argparse.Namespace) -> int:
    """Show each value of a config with its file and line, and the runs, jobs and folders that the config makes."""
    from amlsched.experiments.config import explained, explained_section
    from amlsched.experiments.plan import Plan

    plan = Plan(arguments.config, select=arguments.experiments, debug=arguments.debug, overrides=arguments.overrides)
    limit = None if arguments.all else _SHOWN
    for experiment in plan.experiments:
        print(f"{experiment.name}  ({experiment.place()})\n")
        _print_values(explained(experiment, plan.debug))
        _print_runs(plan, experiment, limit)
    _print_jobs(plan, limit)
    section, cluster = plan.resolved.section, plan.resolved.cluster
    if section is not None and cluster is not None:
        print(f"\n{section.name}  ({section.place()}), for this host\n")
        _print_values(explained_section(section, cluster))
        for fault in plan.resolved.sections.faults:
            print(f"left out, because it is invalid: {fault}")
    return OK


def _print_values(values: Iterable[Explained]) -> None:
    from amlsched.display.table import table

    print(table(["key", "value", "from"], [[one.key, _text(one.value), one.origin] for one in values]))


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _print_runs(plan: Plan, experiment: ResolvedExperiment, limit: int | None) -> None:
    from amlsched.display.table import table
    from amlsched.experiments.config import expand, settings
    from amlsched.experiments.storage import layout

    number = expand.count(experiment, plan.debug)
    first = next(expand.expand(experiment, plan.debug))
    size = f"{counted(number, 'run')} × {counted(first.repetitions, 'repetition')}"
    print(f"\n{size}, seeds from {first.seed}:\n")

    def row(run: Run) -> list[str]:
        settings_text = ", ".join(f"{key} = {_text(value)}" for key, value in settings(run).items())
        return [run.name, settings_text, str(layout.run_folder(plan.path(experiment), run))]

    runs = islice(expand.expand(experiment, plan.debug), limit)
    print(table(["run", "sets", "folder"], map(row, runs)))
    if limit is not None and number > limit:
        print(f"… and {number - limit} more runs")
    print()


def _print_jobs(plan: Plan, limit: int | None) -> None:
    from amlsched.experiments.config import jobs

    number = jobs.count(plan)
    print(f"{counted(number, 'job')}:\n")
    for bundle in islice(jobs.bundles(plan), limit):
        at_a_time = f"  ({bundle.reps_in_parallel} at a time)" if len(bundle.members) > 1 else ""
        print(f"{described(bundle)}{at_a_time}")
    if limit is not None and number > limit:
        print(f"… and {number - limit} more jobs")


def check(arguments: argparse.Namespace) -> int:
    """Find everything that would go wrong in a run of a config, without running it. Exit code 2: there are problems."""
    from amlsched.experiments.config import check

    check_not_swapped(arguments.target or "", arguments.config, f"{arguments.target} {arguments.config}")
    found = check(arguments.config, arguments.target, select=arguments.experiments, overrides=arguments.overrides)
    for fault in found.faults:
        print(fault)
    for note in found.notes:
        print(f"note: {note}")
    if found.faults:
        print(f"{counted(len(found.faults), 'problem')}.")
        return BAD_INPUT
    if found.n_repetitions > MANY:
        print(f"note: these are many repetitions. amlsched run asks before it runs more than {MANY}")
    numbers = (len(found.experiments), "experiment"), (found.n_repetitions, "repetition"), (found.n_jobs, "job")
    print(f"No problems: {', '.join(counted(*one) for one in numbers)}.")
    return OK


def schema(_: argparse.Namespace) -> int:
    """Print a JSON schema for one document of a config, for editors."""
    from amlsched.experiments.config import json_schema

    print(json.dumps(json_schema(), indent=2))
    return OK
