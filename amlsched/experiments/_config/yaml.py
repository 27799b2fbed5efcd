"""Read YAML as plain values with their places, and write it.

YAML is read from the parser's events: tags only construct plain values of Python, only the scalars of YAML 1.2's core
schema are resolved, and depth and the size that aliases can expand to are bounded. So it is safe to read a config that
is not trusted, and each key keeps its line.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Self

from amlsched._surroundings import import_extra
from amlsched.errors import ConfigError
from amlsched.experiments._config.reporting import Report, raise_error

__all__ = ["Difference", "Key", "Places", "Tree", "Unread", "read", "resolve_scalar", "write"]

Key = str | int | float | bool
Places = dict[tuple[Key, ...], int]

ASKS = "${env:"
MAX_DEPTH = 64
_SAME: Any = object()
_LONGEST_LINE = 60
_TOO_DEEP = f"values are nested deeper than {MAX_DEPTH} levels"
MAX_ALIASED_VALUES = 1_000_000

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9][0-9_]*|0o_*[0-7][0-7_]*|0x_*[0-9a-fA-F][0-9a-fA-F_]*")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?")
_PLAIN_TEXT = re.compile(r"(?!(?:y|n|on|off|yes|no|true|false|null)\b)[A-Za-z]", re.IGNORECASE)
"""The start of a scalar that is text in every version of YAML."""
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}


@dataclass(frozen=True, slots=True)
class Tree:
    """One document of a YAML file.

    Args:
        value: Its content, as `None`, `bool`, `int`, `float`, `str`, `list` and `dict`, which are not shared.
        places: The line, from 1, of each key and of each item of a list, by its path.
        line: The line, from 1, on which the document's content starts.
        differences: The values that YAML 1.1 reads differently.
    """

    value: Any
    places: Places
    line: int
    differences: tuple["Difference", ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """A scalar whose value in YAML 1.1 differs from that in YAML 1.2.

    Args:
        path: The path of the value; of a key, the path that ends with it.
        line: Its line, from 1.
        value: The value here.
        other: The value in YAML 1.1.
    """

    path: tuple[Key, ...]
    line: int
    value: Any
    other: Any


class Unread(str):
    """A scalar with an environment variable, as written in the file; `values.filled` replaces it by its value.

    That happens later because a value that is not used (in another host's section, or overridden) may name a variable
    that is not set on this machine.

    Args:
        text: The scalar.
        read: Converts the text to a value after variables are filled in.
    """

    read: Callable[[str], Any]

    def __new__(cls, text: str, read: Callable[[str], Any]) -> Self:
        unread = super().__new__(cls, text)
        unread.read = read
        return unread


@dataclass(slots=True)
class _Node:
    kind: str  # "scalar", "list" or "mapping"
    line: int
    value: Any = None
    children: list["_Node"] = field(default_factory=list["_Node"])  # of a mapping: key, value, key, value, …
    is_merge: bool = False
    is_open: bool = True
    other: Any = _SAME  # a scalar's value in YAML 1.1, if it differs
    is_tuple: bool = False


def read(text: str, file: str, report: Report = raise_error) -> list[Tree]:
    """The documents of a YAML text, in order, including empty ones (whose value is `None`).

    Args:
        text: The content of the file.
        file: Its name, for messages.
        report: Called with each error after which reading can continue; others are raised.

    Raises:
        ConfigError: It is not YAML, a key is duplicated, a tag constructs an object, or nesting or aliases exceed the
            limits.
        MissingExtraError: PyYAML is not installed.

    Sources:
        YAML 1.2.2, 10.3.2 (core schema): `1e-3` is a float, `no` and `1:30:00` are strings, `010` is 10. As in YAML
        1.1, `1_000` is a number and `<<` merges mappings, because configs rely on it.
    """
    return [_Values(file, report).tree(root) for root in _compose(_events(text, file), file, report)]


def _events(text: str, file: str) -> Iterator[Any]:
    yaml = _yaml("reading a config")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is about 10 times faster; both yield events
    try:
        yield from yaml.parse(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else file
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        if "nesting depth" in problem:  # the C parser's own limit, in PyYAML 6.0.4
            raise ConfigError(where, _TOO_DEEP) from None
        lines = text.splitlines()
        here: int = mark.line if mark else len(lines)
        source = "".join(lines[here : here + 1]).strip()
        about = f"{problem}, in {source[:_LONGEST_LINE]!r}" if source else problem
        raise ConfigError(where, f"this is not YAML: {about}", _remedy(error, lines)) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(f"{file}:{line}", f"this is not YAML: {error.reason}", "remove the character") from None


def _remedy(error: Any, lines: list[str]) -> str:
    """What to write instead of what the parser rejects; empty if that is not known."""
    mark, context = error.problem_mark or error.context_mark, error.context_mark
    problem: str = error.problem or ""
    if mark is None:
        return ""
    here: int = mark.line
    column: int = mark.column
    source = lines[here] if here < len(lines) else ""
    if source.lstrip(" ").startswith("\t"):
        return "indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        above = next((n for n in range(here - 1, -1, -1) if lines[n].partition("#")[0].strip()), None)
        if above is not None and _indent(source) > _indent(lines[above]) and source[:column].count(":") == 0:
            return f"it is indented further than line {above + 1}, which already has a value: indent both alike"
        return "put a value that contains a colon and a space in quotes"
    if "flow" in (error.context or "") and context is not None:
        return f"a comma is missing, or the end of what line {context.line + 1} opens with [ or {{"
    if "quoted scalar" in (error.context or "") and context is not None:
        return f"the quote of line {context.line + 1} is not closed"
    if "could not find expected ':'" in problem and context is not None:
        return f"line {context.line + 1} is no key: value, with a space after the colon"
    if "block mapping" in (error.context or "") and "expected key" in problem:
        return "indent it like the other keys beside it, and write key: value"
    if "cannot start any token" in problem:
        return "put the value in quotes"
    return ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _compose(events: Iterable[Any], file: str, report: Report) -> Iterator[_Node]:
    """The root node of each document; iterative, so that deep nesting cannot overflow the stack."""
    anchors: dict[str, _Node] = {}
    stack: list[_Node] = []
    for event in events:
        name = type(event).__name__
        line = event.start_mark.line + 1 if event.start_mark else 0
        if name == "DocumentStartEvent":
            anchors, stack = {}, [_Node("list", line)]
        elif name == "DocumentEndEvent":
            yield stack[0].children[0]
        elif name in ("SequenceEndEvent", "MappingEndEvent"):
            stack.pop().is_open = False
        elif name == "AliasEvent":
            stack[-1].children.append(_aliased(anchors, event.anchor, f"{file}:{line}"))
        elif name in ("ScalarEvent", "SequenceStartEvent", "MappingStartEvent"):
            node = _node(event, line, file, report)
            stack[-1].children.append(node)
            if event.anchor is not None:
                anchors[event.anchor] = node
            if node.kind != "scalar":
                stack.append(node)
                if len(stack) > MAX_DEPTH:
                    raise ConfigError(f"{file}:{line}", _TOO_DEEP)


def _aliased(anchors: dict[str, _Node], name: str, where: str) -> _Node:
    node = anchors.get(name)
    if node is None:
        raise ConfigError(where, f"*{name} refers to an anchor that is not defined above it", f"define &{name} first")
    if node.is_open:
        raise ConfigError(where, f"*{name} is inside the value that it refers to", "write the value out")
    return node


def _node(event: Any, line: int, file: str, report: Report) -> _Node:
    kind = {"ScalarEvent": "scalar", "SequenceStartEvent": "list", "MappingStartEvent": "mapping"}[type(event).__name__]
    tag: str | None = event.tag
    known = {"scalar": tuple(_SCALARS), "list": _LISTS, "mapping": _MAPPINGS}[kind]
    if tag not in (None, "!") and tag not in known:
        short = str(tag).replace(_TAG, "!!")
        remedy = "write plain text, numbers, lists and mappings"
        report(
            ConfigError(f"{file}:{line}", f"the tag {short} is not supported: a config may only contain data", remedy)
        )
    if kind != "scalar":
        return _Node(kind, line, is_tuple=tag == _TUPLE)
    node = _Node(kind, line, is_open=False)
    text: str = event.value
    plain = tag is None and event.implicit[0]
    node.is_merge = plain and text == "<<"
    read_as = resolve_scalar if plain else _SCALARS.get(tag, str)
    try:
        node.value = Unread(text, read_as) if ASKS in text else read_as(text)
        if plain and ASKS not in text:
            node.other = _other(text)
    except ValueError as error:
        short = str(tag).replace(_TAG, "!!") if tag else "a number"
        report(ConfigError(f"{file}:{line}", f"{text[:40]!r} cannot be read as {short}: {error}"))
    return node


def resolve_scalar(text: str) -> Any:
    """The value of an unquoted scalar in YAML 1.2's core schema.

    Raises:
        ValueError: It is a whole number with more digits than Python reads.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text.replace("_", ""), {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


@lru_cache(maxsize=4096)
def _other(text: str) -> Any:
    """The value of an unquoted scalar in YAML 1.1, if it differs; `_SAME` if not."""
    if _PLAIN_TEXT.match(text):
        return _SAME
    yaml = _yaml("reading a config")
    loader = yaml.SafeLoader("")
    try:
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))
        other = loader.construct_object(yaml.ScalarNode(tag, text))
    except (yaml.YAMLError, ValueError, IndexError):  # YAML 1.1 cannot read it
        return _SAME
    value = resolve_scalar(text)
    return _SAME if type(value) is type(other) and repr(value) == repr(other) else other


def _only(kind: type, name: str) -> Callable[[str], Any]:
    def read_as(text: str) -> Any:
        value = resolve_scalar(text)
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise ValueError(f"it is not {name}")
        return value

    return read_as


_OF_YAML: dict[str | None, Callable[[str], Any]] = {
    _TAG + "str": str,
    _TAG + "int": _only(int, "a whole number"),
    _TAG + "float": _only(float, "a number"),
    _TAG + "bool": _only(bool, "true or false"),
    _TAG + "null": _only(type(None), "null"),
}
_OF_PYTHON = {
    "str": "str",
    "unicode": "str",
    "int": "int",
    "long": "int",
    "float": "float",
    "bool": "bool",
    "none": "null",
}
_SCALARS = _OF_YAML | {f"{_TAG}python/{name}": _OF_YAML[_TAG + same] for name, same in _OF_PYTHON.items()}
_TUPLE = f"{_TAG}python/tuple"
_LISTS = (_TAG + "seq", f"{_TAG}python/list", _TUPLE)
_MAPPINGS = (_TAG + "map", f"{_TAG}python/dict")


class _Values:
    """Converts nodes to values, and records their places."""

    def __init__(self, file: str, report: Report) -> None:
        self._file = file
        self._report = report
        self._places: Places = {}
        self._differences: list[Difference] = []
        self._seen: set[int] = set()
        self._aliased = 0

    def tree(self, root: _Node) -> Tree:
        self._places, self._differences = {}, []
        return Tree(self._value(root, ()), self._places, root.line, tuple(self._differences))

    def _value(self, node: _Node, path: tuple[Key, ...]) -> Any:
        self._bound(node, path)
        if node.kind == "scalar":
            self._compare(node, path)
            return node.value
        if node.kind == "list":
            items: list[Any] = []
            for index, child in enumerate(node.children):
                self._places[(*path, index)] = child.line
                items.append(self._value(child, (*path, index)))
            return tuple(items) if node.is_tuple else items
        mapping: dict[Key, Any] = {}
        for key, (line, child, key_node) in self._pairs(node).items():
            self._compare(key_node, (*path, key))
            self._places[(*path, key)] = line
            mapping[key] = self._value(child, (*path, key))
        return mapping

    def _compare(self, node: _Node, path: tuple[Key, ...]) -> None:
        if node.other is not _SAME:
            self._differences.append(Difference(path, node.line, node.value, node.other))

    def _bound(self, node: _Node, path: tuple[Key, ...]) -> None:
        if len(path) > MAX_DEPTH:
            raise ConfigError(f"{self._file}:{node.line}", _TOO_DEEP)
        if id(node) in self._seen:
            self._aliased += 1
            if self._aliased > MAX_ALIASED_VALUES:
                raise ConfigError(f"{self._file}:{node.line}", "aliases repeat more than a million values")
        self._seen.add(id(node))

    def _pairs(self, node: _Node) -> dict[Key, tuple[int, _Node, _Node]]:
        """The entries of a mapping: its own keys override merged ones, and earlier merged mappings later ones."""
        own: dict[Key, tuple[int, _Node, _Node]] = {}
        lines: dict[str, int] = {}
        merged: list[_Node] = []
        for key_node, child in zip(node.children[::2], node.children[1::2], strict=True):
            if key_node.is_merge:
                merged.append(child)
                continue
            key = self._key(key_node)
            if str(key) in lines:
                where = f"{self._file}:{key_node.line}"
                problem = f"the key {key!s} is given twice, first on line {lines[str(key)]}"
                self._report(ConfigError(where, problem, "keep one of the two"))
                continue
            lines[str(key)] = key_node.line
            own[key] = (key_node.line, child, key_node)
        if not merged:
            return own
        pairs: dict[Key, tuple[int, _Node, _Node]] = {}
        for source in merged:
            for mapping in source.children if source.kind == "list" else [source]:
                if mapping.kind != "mapping":
                    raise ConfigError(f"{self._file}:{mapping.line}", "<< only merges a mapping or a list of mappings")
                for key, entry in self._pairs(mapping).items():
                    pairs.setdefault(key, entry)
        return {**pairs, **own}

    def _key(self, node: _Node) -> Key:
        if node.kind != "scalar" or not isinstance(node.value, Key):
            what = "null" if node.kind == "scalar" else f"a {node.kind}"
            raise ConfigError(f"{self._file}:{node.line}", f"{what} cannot be a key", "put it in quotes")
        if isinstance(node.value, Unread):
            raise ConfigError(f"{self._file}:{node.line}", f"a key cannot come from the environment: {node.value}")
        return node.value


def write(documents: Iterable[Any]) -> str:
    """These documents as YAML; `read` returns the same values, with the keys in the same order.

    Text that YAML 1.1 would read as a number, a boolean or a time is quoted, so that a reader of YAML 1.1 gets the same
    values too.

    Raises:
        MissingExtraError: PyYAML is not installed.
    """
    yaml = _yaml("writing a config")
    text: str = yaml.dump_all(
        documents,
        Dumper=_dumper(),
        explicit_start=True,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=1_000_000,  # long texts stay on their line
    )
    return text


@cache
def _dumper() -> Any:
    yaml = _yaml("writing a config")
    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

    class Dumper(base):  # type: ignore[misc]  # its stubs are optional
        def ignore_aliases(self, data: object) -> bool:
            return True

    def represent_tuple(dumper: Any, value: tuple[Any, ...]) -> Any:
        return dumper.represent_sequence(_TUPLE, value)

    Dumper.add_representer(tuple, represent_tuple)
    # Besides text that YAML 1.1 reads as a number, quote text that only YAML 1.2 does, such as 1e-3.
    Dumper.add_implicit_resolver(_TAG + "float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+.0123456789"))
    Dumper.add_implicit_resolver(_TAG + "int", re.compile(f"(?:{_INT.pattern})$"), list("-+0123456789"))
    return Dumper


def _yaml(what: str) -> Any:
    return import_extra("yaml", what, "PyYAML", "experiments")
