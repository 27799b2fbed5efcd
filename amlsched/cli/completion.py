"""`amlsched completion`: print what a shell needs to complete commands, options and files."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from amlsched.cli._output import OK, add_command
from amlsched.errors import ExperimentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from amlsched.cli._output import Commands

__all__ = ["add_to"]

_SHELLS = {
    "bash": 'add to ~/.bashrc: eval "$(amlsched completion bash)"',
    "zsh": 'add to ~/.zshrc, after compinit: eval "$(amlsched completion zsh)"',
    "fish": "run once: amlsched completion fish > ~/.config/fish/completions/amlsched.fish",
}
_FILES = ("CONFIG", "FILE", "TARGET")
_FOLDERS = ("DIR", "RESULTS", "RESULTS/RUN")


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, completion, "print the completion of a shell: bash, zsh or fish")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(("to install it:", *(f"  {shell:<5} {text}" for shell, text in _SHELLS.items())))
    parser.add_argument("shell", metavar="SHELL", choices=tuple(_SHELLS), help="bash, zsh or fish")


def completion(arguments: argparse.Namespace) -> int:
    """Print a script that makes a shell complete the commands, options and files of amlsched."""
    from amlsched._surroundings import import_extra

    shtab: Any = import_extra("shtab", "amlsched completion", "shtab", "experiments")
    if arguments.shell not in shtab.SUPPORTED_SHELLS:
        raise ExperimentError("completion", f"this shtab does not know {arguments.shell}", "pip install -U shtab")
    parser: argparse.ArgumentParser = arguments.parser
    for action in _actions(parser):
        if action.metavar in (*_FILES, *_FOLDERS):
            action.complete = shtab.FILE if action.metavar in _FILES else shtab.DIRECTORY
    sys.stdout.write(shtab.complete(parser, arguments.shell))
    return OK


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """The actions of a parser and of its commands."""
    for action in parser._actions:
        if action.nargs == argparse.PARSER:
            every: Any = action.choices
            for command in every.values():
                yield from _actions(command)
        yield action
