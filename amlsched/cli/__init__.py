"""The command line: `amlsched run | status | logs | results | best | plot | config` and more.

A command is a module with `add_to(commands)`, which adds its parser. Its functions import what they need when they
are called, so that `amlsched --help` is fast.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from amlsched import __version__
from amlsched._surroundings import hidden, open_streams, restart_in_utf8_mode, working_folder_problem
from amlsched.cli import best, cancel, completion, config, doctor, element, init, logs, plot, results, run, status
from amlsched.cli._output import BAD_INPUT, INTERRUPTED, OK, SOME_FAILED, print_stderr, shortened
from amlsched.cli.parser import Parser
from amlsched.errors import AmlschedError, MissingExtraError, ResultsNotWritableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["command_parser", "exit_code", "exit_despite_threads", "main"]

_SIGNAL_GRACE_S = 1.5
_EXIT_GRACE_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command line; `None` for that of this process.

    Returns:
        The exit code.
    """
    if argv is None:
        restart_in_utf8_mode()
    code = exit_code(lambda: _command(argv))
    if argv is None:
        exit_despite_threads(code)
    return code


def exit_code(command: Callable[[], int]) -> int:
    """Run a command and print its errors.

    Args:
        command: Returns the exit code, or raises.
    """
    open_streams()
    code = _exit_code(command)
    try:
        sys.stdout.flush()
    except ValueError:
        pass  # closed
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise Python fails again when it exits
        if not isinstance(error, BrokenPipeError):  # such as `| head`
            print_stderr(f"amlsched: error: the output cannot be written: {error.strerror}")
        code = code or SOME_FAILED
    return code


def _exit_code(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as ending:  # argparse has printed its error, or a signal stopped a run
        return ending.code if isinstance(ending.code, int) else OK if ending.code is None else SOME_FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return SOME_FAILED
    except (AmlschedError, OSError) as error:
        problem = working_folder_problem() if isinstance(error, FileNotFoundError) else ""
        message = str(error)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            message = f"{error.filename2 or error.filename}: {error.strerror}"
        if isinstance(error, MissingExtraError):
            message = re.sub("^with_", "--executor ", message)  # as the user typed it
        print_stderr(shortened(f"amlsched: error: {problem or message}"))
        return SOME_FAILED if isinstance(error, ResultsNotWritableError) else BAD_INPUT
    except (ImportError, AttributeError) as error:
        if not (hint := hidden(error)):
            raise
        print_stderr(f"amlsched: error: {type(error).__name__}: {error} ({hint})")
        return BAD_INPUT


def exit_despite_threads(code: int) -> None:
    """Let Python exit although repetitions left threads or children running; Python would wait for them forever.

    Nothing happens before Python exits: in a notebook or a test the process goes on, and its threads are not ours to
    stop. After a signal, threads may still run repetitions, and a thread cannot be killed. Without a signal, they get
    as long as in a worker.
    """
    if _other_threads() or _children():
        ending = threading.Event()
        # Before Python waits for threads, unlike what `atexit` calls.
        cast("Any", threading)._register_atexit(ending.set)
        threading.Thread(target=_exit_late, args=(code, ending), daemon=True).start()


def _exit_late(code: int, ending: threading.Event) -> None:
    """Runs while Python exits: idle threads of pools have exited by then; `atexit` functions run after all threads."""
    ending.wait()
    by_itself = code in (OK, SOME_FAILED, BAD_INPUT)
    time.sleep(_EXIT_GRACE_S if by_itself else _SIGNAL_GRACE_S)  # after a signal, threads still shut down their workers
    for pid in _children():
        with contextlib.suppress(OSError):  # it has exited
            os.kill(pid, signal.SIGKILL)
    if others := _other_threads():
        if by_itself:
            names = ", ".join(sorted({thread.name for thread in others}))
            print_stderr(f"amlsched: exiting without waiting for threads that are still running: {names}")
        _exit_now(code)


def _exit_now(code: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # a broken pipe, a closed stream
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _other_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]


def _children() -> list[int]:
    """The processes that multiprocessing waits for when Python exits."""
    module = sys.modules.get("multiprocessing.process")
    return [] if module is None else [child.pid for child in module.active_children() if not child.daemon]


def _command(argv: Sequence[str] | None) -> int:
    arguments = command_parser().parse_args(argv)
    return cast("int", arguments.command(arguments))


def command_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser("amlsched", description="Run the experiments of a config file, and inspect their results.")
    parser.add_argument("--version", action="version", version=f"amlsched {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (init, run, status, logs, cancel, results, best, plot, config, doctor, completion, element):
        module.add_to(commands)
    parser.set_defaults(parser=parser)  # for the command that prints completions of all
    return parser
