"""Values from the command line, `--set params.lr=0.1`, which win over those of the files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlsched.errors import ConfigError
from amlsched.experiments.axes import Axis
from amlsched.experiments.axes import Path as KeyPath
from amlsched.experiments.faults import Note, Report, refuse, unheard
from amlsched.experiments.keys import RULES, WRITTEN_KEYS, expansion_kind, shown
from amlsched.experiments.load import Document, key_text
from amlsched.experiments.plain import is_list, is_mapping, set_at
from amlsched.experiments.spelling import meant
from amlsched.experiments.yaml12 import Key, Tree, read, resolve_scalar

__all__ = ["Override", "check_new", "condition", "parse_override", "refuse_futile"]

_KEY = re.compile(r'\+?(?:"[^"]*"|[^".=\s]+)(?:\.(?:"[^"]*"|[^".=\s]+))*')
_PART = re.compile(r'"([^"]*)"|([^".]+)')
_REMEDY = "write --set KEY=VALUE, such as --set params.lr=0.1 or --set 'grid.lr=[0.1, 0.2]'"
_NOT_SET = frozenset({"name", "import_path", "import_exp", "log_path"}) | WRITTEN_KEYS


@dataclass(frozen=True, slots=True)
class Override:
    """A value for a key path.

    Args:
        text: As it was written, `params.lr=0.1`.
        keys: The parts of the key, and whether each stood in quotes.
        tree: The value.
        adds: Whether it begins with `+`: it may be a parameter that is new.
    """

    text: str
    keys: tuple[tuple[str, bool], ...]
    tree: Tree
    adds: bool = False

    @property
    def where(self) -> str:
        """Its place, for messages."""
        return _where(self.text)

    def document(self, config: Mapping[Any, Any], report: Report = refuse) -> Document | None:
        """It as a document to be merged over a config; `None` if the config has no place for it.

        Args:
            config: Says which of its keys are meant: that of `layers.1` may be a number.
            report: Told that the key leads through a value that is no mapping.
        """
        path: KeyPath = ()
        here: Any = config
        for text, quoted in self.keys:
            if here is not None and not is_mapping(here):
                name = key_text(path)
                problem = f"{name} is {shown(here)}, so that nothing can be set below it"
                remedy = f"set all of it: --set '{name}=[…]'" if is_list(here) else f"set {name} itself"
                report(ConfigError(self.where, problem, remedy))
                return None
            key = _meant(text, quoted, here or {})
            path = (*path, key)
            here = (here or {}).get(key)
        data: dict[str, Any] = {}
        set_at(data, path, self.tree.value)
        lines = {path[:depth]: 1 for depth in range(1, len(path) + 1)}
        lines |= {(*path, *below): 1 for below in self.tree.places}
        return Document("override", f"--set {self.text}", data, Path(), 0, 1, lines)


def _meant(text: str, quoted: bool, mapping: Mapping[Any, Any]) -> Key:
    for key in mapping:
        if str(key) == text:
            found: Key = key
            return found
    value = text if quoted else resolve_scalar(text)
    return value if type(value) is int else text


def _where(text: str) -> str:
    return f"command line (--set {text})"


def parse_override(text: str, report: Report = refuse) -> Override | None:
    """Reads `KEY=VALUE`: the parts of the key joined by dots (one with a dot in it in quotes), the value in YAML.

    Args:
        text: Such as `params.lr=0.1`, `grid.lr=[0.1, 0.2]`, `grid=null`.
        report: Told what is wrong; `None` is returned then.
    """
    name, equals, value = _split(text)
    if not equals or _KEY.fullmatch(name) is None:
        report(ConfigError(_where(text), "this is not KEY=VALUE", _REMEDY))
        return None
    adds = name.startswith("+")
    keys = tuple((part[1] or part[2] or "", part[1] is not None) for part in _PART.finditer(name.removeprefix("+")))
    if keys[0][0] in _NOT_SET:
        report(ConfigError(_where(text), f"{keys[0][0]} can only be set in the file", ""))
        return None
    try:
        trees = read(value, "") or [Tree(None, {}, 1)]
    except ConfigError as fault:
        report(ConfigError(_where(text), fault.problem, fault.remedy))
        return None
    if len(trees) > 1:
        report(ConfigError(_where(text), "the value is more than one YAML document", _REMEDY))
        return None
    return Override(text, keys, trees[0], adds)


def _split(text: str) -> tuple[str, str, str]:
    """At the first `=` that does not stand in quotes."""
    match = re.match(r'((?:"[^"]*"|[^"=])*)(=)', text)
    return (match[1].strip(), "=", text[match.end() :]) if match else (text, "", "")


def refuse_futile(
    overrides: Sequence[Override], experiments: Sequence[tuple[Mapping[str, Any], Sequence[Axis]]], report: Report
) -> None:
    """Refuses a parameter that no experiment would use, because a grid or a list of each sets it in every run.

    Args:
        overrides: What was given.
        experiments: Config and axes of each experiment.
        report: Told of each.
    """
    for override in overrides:
        if override.keys[0][0] != "params" or not experiments:
            continue
        hiding = [_hiding(override, config, axes) for config, axes in experiments]
        if all(hiding):
            problem = f"it changes nothing, because {hiding[0]} sets this parameter in every run"
            report(ConfigError(override.where, problem, f"set {hiding[0]}, to a list of values"))


def check_new(
    overrides: Sequence[Override], configs: Sequence[Mapping[str, Any]], report: Report, note: Note = unheard
) -> None:
    """Refuses a parameter that no experiment has and that is near to one that is there; notes any other new one.

    A value that begins with `+` is new on purpose.

    Args:
        overrides: What was given.
        configs: The experiments as the files have them.
        report: Told of each that is probably misspelt.
        note: Told of each that is new.
    """
    known = [_parameters(config) for config in configs]
    for override in overrides:
        if override.adds or not known:
            continue
        first = override.keys[0][0]
        if first != "params" and expansion_kind(first) is None:
            told = first in RULES or any(first in config for config in configs)
            if not told and any((first,) in paths for paths in known):
                remedy = f"did you mean params.{first}?"
                report(ConfigError(override.where, f"the key {first} is not known", remedy))
            continue
        document = next(filter(None, (override.document(config) for config in configs)), None)
        for path in _leaf_paths(document.data[first]) if document is not None else ():
            if any(path in paths for paths in known):
                continue
            name = key_text(("params", *path))
            if not path:
                continue  # all of it is replaced by what is no mapping
            siblings = {str(other[-1]): other for paths in known for other in paths if other[:-1] == path[:-1]}
            add = f"--set '+{override.text}' adds it"
            if guess := meant(str(path[-1]), siblings):
                meaning = key_text(("params", *siblings[guess]))
                remedy = f"did you mean {meaning}? If not, {add}"
                report(ConfigError(override.where, f"no experiment has a parameter {name}", remedy))
            else:
                note(f"{override.where}: {name} is new: no experiment has it ({add} without this note)")


def _parameters(config: Mapping[str, Any]) -> set[KeyPath]:
    """The paths of all parameters of an experiment, mappings too, be they in `params` or set by its expansions."""
    found: set[KeyPath] = set()

    def collect(mapping: Any, path: KeyPath) -> None:
        for key, value in mapping.items() if is_mapping(mapping) else ():
            found.add((*path, key))
            for below in value if is_list(value) else (value,):
                collect(below, (*path, key))

    for key, value in config.items():
        if key == "params" or expansion_kind(key) is not None:
            collect(value, ())
    return found


def _leaf_paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    if not is_mapping(value) or not value:
        yield path
        return
    for key, below in value.items():
        yield from _leaf_paths(below, (*path, key))


def _hiding(override: Override, config: Mapping[str, Any], axes: Sequence[Axis]) -> str:
    """The expansion that sets this parameter whatever is given; empty if there is none."""
    document = override.document(config)
    assert document is not None  # its value is in the config
    paths = [path[1:] for path in document.lines if len(path) == len(override.keys)]
    for axis in axes:
        if expansion_kind(axis.key) == "ablative":
            continue
        for setting, _ in axis.alternatives[0].settings:
            if any(path[: len(setting)] == setting for path in paths if path):
                return key_text((axis.key, *setting))
    return ""


def condition(text: str) -> tuple[str, Any]:
    """Reads `KEY=VALUE` of a condition, such as `params.lr=0.1`: the key as it is, the value in YAML.

    Raises:
        ConfigError: It is something else.
    """
    name, equals, value = _split(text)
    where = f"command line (--where {text})"
    if not equals or not name:
        raise ConfigError(where, "this is not KEY=VALUE", "write --where KEY=VALUE, such as --where params.lr=0.1")
    try:
        trees = read(value, "")
    except ConfigError as fault:
        raise ConfigError(where, fault.problem, fault.remedy) from None
    return name, trees[0].value if trees else None
