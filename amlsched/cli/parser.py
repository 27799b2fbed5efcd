"""The parser of the command line; its errors suggest what was probably meant."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from amlsched.cli._output import shortened
from amlsched.units import parse_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Parser", "a_duration", "at_least_one", "seconds"]

_INTERNAL_COMMAND = "element"
"""The command that the script of an array calls; it is not suggested."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors show one line of usage, and suggest the name closest to an unknown one.

    Subcommands reject unknown arguments themselves, so that the error shows the usage of the subcommand.
    """

    _argv: Sequence[str] = ()

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]  (one for all overloads)
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As in argparse, but unknown arguments are an error."""
        self._argv = list(sys.argv[1:] if args is None else args)
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            options = [word for word in rest if word.startswith("-") and word != "-"]
            known = "; ".join(map(self._unknown, options))
            self.error(known or f"unexpected {'argument' if len(rest) == 1 else 'arguments'}: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Print the error and exit."""
        if message.startswith("the following arguments are required"):
            message += "".join(f". {hint}" for hint in self._hints())
        self.exit(2, f"{self._short_usage()}\n{self.prog}: error: {shortened(message)}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        from amlsched._spelling import suggestion

        hint = suggestion(str(value), [str(choice) for choice in action.choices if choice != _INTERNAL_COMMAND])
        if action.nargs == argparse.PARSER:
            kind = str(action.metavar or "command").lower()
            raise argparse.ArgumentError(None, f"there is no {kind} {value!r} ({hint})")
        raise argparse.ArgumentError(action, f"there is no {value!r} ({hint})")

    def _unknown(self, word: str) -> str:
        from amlsched._spelling import did_you_mean

        name = word.partition("=")[0]
        known = [option for option in self._option_string_actions if option.startswith("--")]
        if name in self._option_string_actions:
            return f"the option {name} must come before --"
        hint = did_you_mean(name, known).rstrip() or f"{self.prog} --help lists them"
        return f"there is no option {name} ({hint})"

    def _hints(self) -> Iterable[str]:
        """Why required arguments may be missing: an option is misspelled, or an option consumed them."""
        for word in self._argv:
            name = word.partition("=")[0]
            if name[:2] == "--" != name and not self._get_option_tuples(name):
                yield self._unknown(word)
        names = [action.metavar or action.dest for action in self._get_positional_actions()]
        for option, taken in self._taken():
            if len(taken) > 1 and names:
                words, places = " ".join(taken), " and ".join(map(str, names))
                yield f"{option} took all of these: {words}. Write {places} before {option}, or -- after its last value"

    def _taken(self) -> Iterable[tuple[str, list[str]]]:
        """The options that take any number of words, each with the words it took."""
        for number, word in enumerate(self._argv):
            action = self._option_string_actions.get(word)
            if action is not None and action.nargs == argparse.ONE_OR_MORE:
                rest = self._argv[number + 1 :]
                end = next((place for place, one in enumerate(rest) if one.startswith("-")), len(rest))
                yield word, list(rest[:end])

    def _short_usage(self) -> str:
        actions = self._get_positional_actions()
        words = [str(action.metavar or action.dest) for action in actions if action.nargs not in ("?", "*")]
        words += [f"[{action.metavar or action.dest}]" for action in actions if action.nargs in ("?", "*")]
        return f"usage: {self.prog} {' '.join(words)} [options]    (see {self.prog} --help)"


def at_least_one(text: str) -> int:
    """A whole number of at least 1; for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return number


def seconds(text: str) -> float:
    """A number of seconds, 0 or more; for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text!r}")
    return number


def a_duration(text: str) -> float:
    """The seconds of a duration with a unit, such as `30min`; for argparse."""
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
