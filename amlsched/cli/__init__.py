"""The command line: `amlsched run | status | cancel | results | plot | config`.

A command is a module with `add_to(commands)`, which tells argparse of it. Each imports what it needs inside its
functions, so that `amlsched --help` is quick.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, cast

from amlsched import __version__
from amlsched._surroundings import open_streams, restart_in_utf8_mode, working_folder_problem
from amlsched.cli import cancel, config, doctor, element, plot, results, run, status
from amlsched.cli.parser import Parser
from amlsched.cli.told import BAD_INPUT, INTERRUPTED, OK, SOME_FAILED, say
from amlsched.errors import AmlschedError, MissingExtraError, ResultsNotWritableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["exit_code", "leave_threads", "main"]

_LAST_WORDS_S = 1.5


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Its words; `None` for those of this process.

    Returns:
        The exit code.
    """
    if argv is None:
        restart_in_utf8_mode()
    code = exit_code(lambda: _command(argv))
    if argv is None:
        leave_threads(code)
    return code


def exit_code(command: Callable[[], int]) -> int:
    """Run a command and tell what goes wrong.

    Args:
        command: Gives the exit code, unless it raises.
    """
    open_streams()
    code = _exit_code(command)
    try:
        sys.stdout.flush()
    except ValueError:
        pass  # closed
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python fails again at its end
        if not isinstance(error, BrokenPipeError):  # such as `| head`
            say(f"amlsched: error: the output cannot be written: {error.strerror}")
        code = code or SOME_FAILED
    return code


def _exit_code(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as ending:  # argparse has spoken, or a signal ended a run
        return ending.code if isinstance(ending.code, int) else OK if ending.code is None else SOME_FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return SOME_FAILED
    except (AmlschedError, OSError) as error:
        problem = working_folder_problem() if isinstance(error, FileNotFoundError) else ""
        told = str(error)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            told = f"{error.filename2 or error.filename}: {error.strerror}"
        if isinstance(error, MissingExtraError):
            told = re.sub("^with_", "--executor ", told)  # as it was typed
        say(f"amlsched: error: {problem or told}")
        return SOME_FAILED if isinstance(error, ResultsNotWritableError) else BAD_INPUT
    except (ImportError, AttributeError) as error:
        from amlsched.extras import hidden

        if not (hint := hidden(error)):
            raise
        say(f"amlsched: error: {type(error).__name__}: {error} ({hint})")
        return BAD_INPUT


def leave_threads(code: int) -> None:
    """After a signal, leave threads behind that still run a repetition: they cannot be ended, and Python would wait."""
    if code in (OK, SOME_FAILED, BAD_INPUT):
        return
    deadline = time.monotonic() + _LAST_WORDS_S  # others still end their workers
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    if not any(thread.is_alive() for thread in others):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _command(argv: Sequence[str] | None) -> int:
    parser = Parser("amlsched", description="Run experiments of a config file, and look at the results.")
    parser.add_argument("--version", action="version", version=f"amlsched {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (run, status, cancel, results, plot, config, doctor, element):
        module.add_to(commands)
    arguments = parser.parse_args(argv)
    return cast("int", arguments.command(arguments))
