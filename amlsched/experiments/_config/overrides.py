"""Values from the command line, `--set params.lr=0.1`, which override those of the files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlsched._spelling import meant
from amlsched.errors import ConfigError
from amlsched.experiments._config.axes import Axis, KeyPath, set_in_every_run
from amlsched.experiments._config.document import Document, key_text
from amlsched.experiments._config.keys import RULES, WRITTEN_KEYS, expansion_kind, shown
from amlsched.experiments._config.reporting import Note, Report, ignore_note, raise_error
from amlsched.experiments._config.values import is_list, is_mapping, nested, set_at
from amlsched.experiments._config.yaml import Key, Tree, read, resolve_scalar

__all__ = ["Override", "check_new", "condition", "parse_override", "check_effective"]

_KEY = re.compile(r'\+?(?:"[^"]*"|[^".=\s]+)(?:\.(?:"[^"]*"|[^".=\s]+))*')
_PART = re.compile(r'"([^"]*)"|([^".]+)')
_REMEDY = "write --set KEY=VALUE, such as --set params.lr=0.1 or --set 'grid.lr=[0.1, 0.2]'"
_NOT_SET = frozenset({"name", "import_path", "import_exp", "log_path"}) | WRITTEN_KEYS


@dataclass(frozen=True, slots=True)
class Override:
    """A value for a key path.

    Args:
        text: The text as written, `params.lr=0.1`.
        keys: The parts of the key, and whether each was quoted.
        tree: The value.
        adds: Whether it starts with `+`, and so may add a new parameter.
    """

    text: str
    keys: tuple[tuple[str, bool], ...]
    tree: Tree
    adds: bool = False

    @property
    def where(self) -> str:
        """Its place, for messages."""
        return _where(self.text)

    def document(self, config: Mapping[Any, Any], report: Report = raise_error) -> Document | None:
        """The override as a document to merge over a config; `None` if it does not fit into the config.

        Args:
            config: The config, by whose keys the override's are interpreted: the `1` of `layers.1` may be a number.
            report: Called with an error if the key leads through a value that is not a mapping.
        """
        path: KeyPath = ()
        here: Any = config
        for text, quoted in self.keys:
            if here is not None and not is_mapping(here):
                name = key_text(path)
                problem = f"{name} is {shown(here)}, so no key can be set below it"
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


def parse_override(text: str, report: Report = raise_error) -> Override | None:
    """Parse `KEY=VALUE`: a key whose parts are joined by dots (parts that contain a dot are quoted), and a YAML value.

    Args:
        text: The text, such as `params.lr=0.1`, `grid.lr=[0.1, 0.2]`, `grid=null`.
        report: Called with an error; `None` is then returned.
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
    """Split at the first `=` outside of quotes."""
    match = re.match(r'((?:"[^"]*"|[^"=])*)(=)', text)
    return (match[1].strip(), "=", text[match.end() :]) if match else (text, "", "")


def check_effective(
    overrides: Sequence[Override], experiments: Sequence[tuple[Mapping[str, Any], Sequence[Axis]]], report: Report
) -> None:
    """Report overrides of parameters without effect, because in each experiment a grid or list sets them in every run.

    Args:
        overrides: The overrides.
        experiments: Config and axes of each experiment.
        report: Called with each error.
    """
    for override in overrides:
        if override.keys[0][0] != "params" or not experiments:
            continue
        hiding = [_hiding(override, config, axes) for config, axes in experiments]
        if all(hiding):
            problem = f"it has no effect, because {hiding[0]} sets this parameter in every run"
            report(ConfigError(override.where, problem, f"set {hiding[0]} to a list of values"))


def check_new(
    overrides: Sequence[Override], configs: Sequence[Mapping[str, Any]], report: Report, note: Note = ignore_note
) -> None:
    """Report overrides of unknown parameters that resemble an existing one, and note those of other new parameters.

    An override that starts with `+` adds a parameter intentionally.

    Args:
        overrides: The overrides.
        configs: The experiments as written in the files.
        report: Called with an error for each parameter that is probably misspelled.
        note: Called with a note for each new parameter.
    """
    known = [_parameters(config) for config in configs]
    for override in overrides:
        if override.adds or not known:
            continue
        first = override.keys[0][0]
        if first != "params" and expansion_kind(first) is None:
            is_known = first in RULES or any(first in config for config in configs)
            if not is_known and any((first,) in paths for paths in known):
                remedy = f"did you mean params.{first}?"
                report(ConfigError(override.where, f"the key {first} is not known", remedy))
            continue
        document = next(filter(None, (override.document(config) for config in configs)), None)
        for keys, _ in nested(document.data) if document is not None else ():
            path = keys[1:]
            if any(path in paths for paths in known):
                continue
            name = key_text(("params", *path))
            if not path:
                continue  # all parameters are replaced by a value that is not a mapping
            siblings = {str(other[-1]): other for paths in known for other in paths if other[:-1] == path[:-1]}
            add = f"use --set '+{override.text}' to add it"
            if guess := meant(str(path[-1]), siblings):
                meaning = key_text(("params", *siblings[guess]))
                remedy = f"did you mean {meaning}? If not, {add}"
                report(ConfigError(override.where, f"no experiment has a parameter {name}", remedy))
            else:
                note(f"{override.where}: {name} is new: no experiment has it ({add} without this note)")


def _parameters(config: Mapping[str, Any]) -> set[KeyPath]:
    """The paths of all parameters of an experiment, in `params` and in its expansions, including those of mappings."""
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


def _hiding(override: Override, config: Mapping[str, Any], axes: Sequence[Axis]) -> str:
    """The expansion that sets the parameter of an override in every run; empty if there is none."""
    document = override.document(config)
    assert document is not None  # its value is in the config
    [path] = (path for path in document.lines if len(path) == len(override.keys))
    return set_in_every_run(axes, path[1:])


def condition(text: str) -> tuple[str, Any]:
    """Parse a condition `KEY=VALUE` with a YAML value, such as `params.lr=0.1`.

    Raises:
        ConfigError: It is not a valid condition.
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
