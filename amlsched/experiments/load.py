"""Read a config file as a list of documents, each with its kind, its name and the line of every key."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from amlsched.errors import ConfigError
from amlsched.experiments.atomic import file_bytes
from amlsched.experiments.environment import read_unread
from amlsched.experiments.faults import Report, refuse
from amlsched.experiments.mappings import NO_FILE, Source, trees
from amlsched.experiments.plain import is_mapping
from amlsched.experiments.spelling import meant_file
from amlsched.experiments.yaml12 import Difference, Key, Places, Tree, Unread, read

__all__ = ["Document", "key_text", "load", "parse"]

Kind = Literal["default", "cluster", "experiment", "override"]

_CLUSTER = re.compile(r"slurm(_.+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One document of a config file.

    Args:
        kind: What it is: the defaults of others, the section for a batch system, an experiment, or a value from the
            command line that overrides those of the files.
        name: Its `name`, as written.
        data: Its content, in plain values; not to be changed.
        file: The file, as it was given; `NO_FILE` for a mapping.
        index: Its number in the file, from 1; empty documents count.
        line: The line on which it starts, from 1; 0 if there are no lines.
        lines: The line of each key and item, by its path.
        differences: Values that YAML 1.1 reads differently.
    """

    kind: Kind
    name: str
    data: dict[str, Any]
    file: Path
    index: int
    line: int = 1
    lines: Places = field(default_factory=dict[tuple[Key, ...], int], repr=False)
    differences: tuple[Difference, ...] = field(default=(), repr=False)

    def has(self, *keys: Key) -> bool:
        """Whether this key path is written in this document."""
        return not keys or keys in self.lines

    def place(self, *keys: Key) -> str:
        """The place of a key, such as `digits.yml:12 (document 2, key params.lr)`.

        Args:
            keys: The path of the key. If it is not in this document, the line is that of its nearest parent.
        """
        if self.kind == "override":
            return f"command line ({self.name})"
        known = keys
        while known and known not in self.lines:
            known = known[:-1]
        return _place(self.file, self.lines.get(known, self.line), self.index, keys)


def key_text(keys: tuple[Key, ...]) -> str:
    """A key path as text, such as `params.opt.lr`; a key that contains a dot is quoted."""
    return ".".join(f'"{key}"' if isinstance(key, str) and "." in key else str(key) for key in keys)


def _place(file: Path, line: int, index: int, keys: tuple[Key, ...] = ()) -> str:
    return f"{file}{f':{line}' if line else ''} (document {index}{f', key {key_text(keys)}' if keys else ''})"


def load(path: Source, report: Report = refuse) -> list[Document]:
    """The documents of a config file, in order, without empty ones.

    Args:
        path: A YAML file in UTF-8; or the documents themselves, as mappings.
        report: Called with each error; if it returns, reading continues if possible.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or has a document without a valid name.
        MissingExtraError: PyYAML is not installed.
    """
    if not isinstance(path, str | Path):
        return _documents(trees(path), NO_FILE, report)
    file = Path(path)
    try:
        text = file_bytes(file).decode("utf-8-sig")
    except FileNotFoundError:
        remedy = meant_file(file, ".yml", ".yaml") or "check the path of the experiment file"
        raise ConfigError(str(file), "there is no such file", remedy) from None
    except IsADirectoryError:
        raise ConfigError(str(file), "this is a folder", "name the experiment file in it") from None
    except UnicodeDecodeError as error:
        where = f"{file}:{error.object[: error.start].count(10) + 1}"
        raise ConfigError(where, "the text is not UTF-8", "save the file as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(str(file), f"the file cannot be read: {problem}") from None
    return parse(text, file, report)


def parse(text: str, file: str | Path, report: Report = refuse) -> list[Document]:
    """The documents in the text of a config file; see `load`.

    Args:
        text: The content of the file.
        file: Its path, for messages and for relative paths.
        report: Called with each error.
    """
    return _documents(read(text, str(file), report), Path(file), report)


def _documents(trees: Iterable[Tree], file: Path, report: Report) -> list[Document]:
    documents: list[Document] = []
    for index, tree in enumerate(trees, 1):
        try:
            if tree.value is not None:
                documents.append(_document(tree, file, index))
        except ConfigError as fault:
            report(fault)
    return documents


def _document(tree: Tree, file: Path, index: int) -> Document:
    where = _place(file, tree.line, index)
    content: Any = tree.value
    if not is_mapping(content):
        raise ConfigError(where, "a document must be a mapping of keys to values", "begin it with name: NAME")
    data: dict[str, Any] = {}
    for key, value in content.items():
        if not isinstance(key, str):
            raise ConfigError(
                _place(file, tree.places[(key,)], index, (key,)),
                f"the key {key!r} is not text",
                "put it in quotes, or move it below params",
            )
        data[key] = value
    if data.get("name") is None:
        raise ConfigError(where, "this document has no name", "add name: NAME; a missing --- joins two documents")
    name, line = data["name"], _place(file, tree.places[("name",)], index, ("name",))
    if isinstance(name, Unread):
        name = data["name"] = read_unread(name, line)
    if not isinstance(name, str):
        raise ConfigError(line, f"the name is {name!r}, which is not text", f'put it in quotes: name: "{name}"')
    return Document(_kind(name), name, data, file, index, tree.line, tree.places, tree.differences)


def _kind(name: str) -> Literal["default", "cluster", "experiment"]:
    if name.lower() == "default":
        return "default"
    return "cluster" if _CLUSTER.fullmatch(name) else "experiment"
