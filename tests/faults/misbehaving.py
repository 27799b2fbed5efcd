"""Arguments, results and exceptions whose own code raises or exits; for workers to import."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, NoReturn


def leave(text: str) -> NoReturn:
    sys.exit(text)


def close(text: str) -> NoReturn:
    raise GeneratorExit(text)


class AtDump:
    """Exits when it is pickled."""

    def __reduce__(self) -> Any:
        sys.exit("at dump")


class AtLoad:
    """Exits when it is unpickled."""

    def __init__(self, way: Any = leave) -> None:
        self.way = way

    def __reduce__(self) -> Any:
        return self.way, ("at load",)


class Delegates(Exception):
    """Asks an object for its attributes that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class ExitsWhenMade(Exception):
    def __init__(self, text: str, more: object = None) -> None:
        super().__init__(text)
        if more is None:
            sys.exit("made without more")


class ExitsWhenPickled(Exception):
    def __reduce__(self) -> Any:
        sys.exit("at reduce")


class ExitsWhenShown(Exception):
    def __str__(self) -> str:  # noqa: PLE0307
        sys.exit("at str")


class WantsTwo(Exception):
    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"{text} {number}")


class CountsAsFalse(Exception):
    def __len__(self) -> int:
        return 0


class SetsNothing(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        sys.exit("at setattr")


class HidesItsTrace(Exception):
    @property
    def __traceback__(self) -> Any:
        sys.exit("at traceback")


class HidesItsClass(Exception):
    @property
    def __class__(self) -> Any:
        sys.exit("at class")


@dataclass(frozen=True)
class Frozen(Exception):
    text: str
    number: int = 1


RAISED: dict[str, Any] = {
    "delegates": lambda: Delegates("the real reason"),
    "exits when made": lambda: ExitsWhenMade("the real reason", 1),
    "exits when pickled": lambda: ExitsWhenPickled("the real reason"),
    "exits when shown": lambda: ExitsWhenShown("the real reason"),
    "in a group": lambda: ExceptionGroup(
        "the real reason", [WantsTwo(1, "x"), ExceptionGroup("y", [WantsTwo(2, "z")])]
    ),
    "counts as false": lambda: CountsAsFalse("the real reason"),
    "with a lock": lambda: _with_lock(),
    "sets nothing": lambda: SetsNothing("the real reason"),
    "hides its trace": lambda: HidesItsTrace("the real reason"),
    "hides its class": lambda: HidesItsClass("the real reason"),
    "frozen": lambda: Frozen("the real reason", 2),
}


def _with_lock() -> Exception:
    import threading

    error = ValueError("the real reason")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


def raises(kind: str) -> NoReturn:
    raise RAISED[kind]()


def returns(value: Any) -> Any:
    return AtLoad() if value == "load" else AtDump() if value == "dump" else value


def process(_: object = None) -> int:
    return os.getpid()
