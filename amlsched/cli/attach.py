"""`amlsched run --wait`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from amlsched.cli.status import tell_queue
from amlsched.cli.told import OK, SOME_FAILED, say, tell

if TYPE_CHECKING:
    import argparse

    from amlsched.experiments.plan import Plan

__all__ = ["attach"]


def attach(arguments: argparse.Namespace, plan: Plan) -> int:
    """Wait for the submitted jobs and show their progress; Ctrl-C leaves them running."""
    from amlsched.experiments.attached import Attached
    from amlsched.experiments.overview import Overview
    from amlsched.experiments.progress import progress_for
    from amlsched.experiments.results import survey

    attached = Attached(plan)
    begun = time.monotonic()
    if attached.waits and not arguments.quiet:
        print(f"Waiting for {', '.join(attached.arrays)}; Ctrl-C leaves them running", flush=True)
    try:
        with progress_for(attached, attached.summary.total, arguments.metric, quiet=arguments.quiet):
            summary = attached.wait()
    except KeyboardInterrupt:
        say(f"Detached; the jobs keep running. See amlsched status {plan.paths[0]}; amlsched cancel cancels them.")
        raise
    tell(summary, plan, arguments.metric, time.monotonic() - begun, quiet=arguments.quiet)
    if not summary.complete:
        for path in plan.paths:
            tell_queue(Overview.of(path, (one for one in survey(path) if not one.record.state.done)))
    return OK if summary.complete else SOME_FAILED
