"""Reading YAML as documents: YAML 1.2's values, the place of every key, and what is refused."""

import datetime
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from amlsched.errors import ConfigError, MissingExtraError
from amlsched.experiments._config.document import Document, load, parse
from amlsched.experiments._config.yaml import read, write


def value_of(text: str) -> Any:
    return read(f"x: {text}", "f.yml")[0].value["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        ("+1", 1),
        ("010", 10),
        ("0o17", 15),
        ("0x1f", 31),
        ("1_000", 1000),
        ("1_000_000", 1000000),
        ("-1_0", -10),
        ("0x_ff", 255),
        ("0o1_7", 15),
        ("1_0.5", 10.5),
        ("1_000.0e+3", 1e6),
        (".5_0", 0.5),
        ("_1", "_1"),
        ("0x_", "0x_"),
        ("_", "_"),
        ("0b1", "0b1"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("1:30:00", "1:30:00"),
        ("10:30", "10:30"),
        ("2020-01-01", "2020-01-01"),
        ("=", "="),
        ('"1"', "1"),
        ("'true'", "true"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("! 1", "1"),
        ("!!python/float 1", 1.0),
        ("!!python/float '1e-3'", 0.001),
        ("!!python/int 1_0", 10),
        ("!!python/str 1", "1"),
        ("!!python/unicode 1", "1"),
        ("!!python/bool true", True),
        ("!!python/none", None),
        ("!!python/tuple [1, [2], !!python/tuple [3]]", (1, [2], (3,))),
        ("!!python/list [1]", [1]),
        ("!!python/dict {a: 1}", {"a": 1}),
    ],
)
def test_scalars_are_read_as_yaml_1_2(text: str, value: Any) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(value_of(".nan"))


def test_merge_keys_and_aliases_give_values_that_are_not_shared() -> None:
    value = read("a: &a {x: 1, l: [1]}\nb: {<<: *a, x: 2}\nc: {<<: [*a, {y: 3, x: 9}]}\nd: *a", "f.yml")[0].value
    assert value["b"] == {"x": 2, "l": [1]}
    assert value["c"] == {"x": 1, "l": [1], "y": 3}
    value["d"]["l"].append(2)
    assert value["a"]["l"] == [1]
    assert value["b"]["l"] == [1]


BROKEN = {
    "duplicate key": ("a: 1\nb: 2\na: 3", "f.yml:3: the key a is given twice, first on line 1"),
    "duplicate nested key": ("p:\n  a: 1\n  a: 2", "f.yml:3: the key a is given twice, first on line 2"),
    "duplicate but for its type": ("1: a\n'1': b", "f.yml:2: the key 1 is given twice"),
    "tab": ("a: 1\n\tb: 2", "f.yml:2: this is not YAML: .*(indent with spaces, not tabs)"),
    "unclosed list": ("a: [1", "f.yml:[12]: this is not YAML: .*the end of what line 1 opens with"),
    "missing comma": ("a: [1, 2\nb: 3", "f.yml:2: .*, in 'b: 3' .a comma is missing, or the end of what line 1 opens"),
    "unclosed mapping": ("a: {b: 1\nc: 2\n", "f.yml:2: this is not YAML: .*the end of what line 1 opens with"),
    "unclosed quote": ('a: 1\nb: "x\nc: 3\n', "f.yml:4: this is not YAML: .*the quote of line 2 is not closed"),
    "no colon": ("a: 1\nb 2\n", "f.yml:3: this is not YAML: .*line 2 is no key: value"),
    "wrong indent": (
        "a: 1\n\n  b: 2",
        "f.yml:3: .*, in 'b: 2' .it is indented further than line 1, which already has a value: indent both alike",
    ),
    "indented less": ("p:\n    a: 1\n  b: 2", "f.yml:3: .*, in 'b: 2' .indent it like the other keys beside it"),
    "colon in a value": (
        "a: 1\nb: c: 2",
        "f.yml:2: .*, in 'b: c: 2' .put a value that contains a colon and a space in",
    ),
    "colon in an indented value": (
        "a:\n  b: c: 2",
        "f.yml:2: .*put a value that contains a colon and a space in quotes",
    ),
    "at sign": ("a: @x", "f.yml:1: this is not YAML: .*, in 'a: @x' .put the value in quotes"),
    "very long line": (f"a: {'x' * 500}: 2", f"f.yml:1: .*, in 'a: {'x' * 57}' .put"),
    "control character": ("a: 1\nb: \x01", "f.yml:2: this is not YAML: .*(remove the character)"),
    "python object": ("a: !!python/object/apply:os.system [id]", "f.yml:1: the tag .*os.system is not supported"),
    "python tuple of a mapping": ("a: !!python/tuple {x: 1}", "f.yml:1: the tag !!python/tuple is not supported"),
    "python tuple of a text": ("a:\n  !!python/tuple x", "f.yml:2: the tag !!python/tuple is not supported"),
    "python complex": ("a: !!python/complex 1j", "f.yml:1: the tag !!python/complex is not supported"),
    "python name": ("a: !!python/name:os.system ''", "is not supported: a config may only contain data"),
    "python float of a text": ("a: !!python/float x", "f.yml:1: 'x' cannot be read as !!python/float: it is not a num"),
    "own tag": ("a: !secret x", "f.yml:1: the tag !secret is not supported"),
    "date tag": ("a: !!timestamp 2020-01-01", "f.yml:1: the tag !!timestamp is not supported"),
    "wrong tag": ("a: !!int x", "f.yml:1: 'x' cannot be read as !!int"),
    "unknown alias": ("a: *x", r"f.yml:1: \*x refers to an anchor .*\(define &x first\)"),
    "alias of another document": ("a: &x 1\n---\na: *x", r"f.yml:3: \*x refers to an anchor"),
    "recursive alias": ("a: &x [1, *x]", r"f.yml:1: \*x is inside the value"),
    "list as key": ("? [a]\n: 1", "f.yml:1: a list cannot be a key"),
    "null as key": ("~: 1", "f.yml:1: null cannot be a key"),
    "merge of a text": ("<<: x", "f.yml:1: << only merges a mapping"),
    "deep nesting": ("a: " + "[" * 5000 + "]" * 5000, "f.yml:1: values are nested deeper than 64 levels"),
    "deep block nesting": ("\n".join(" " * i + "a:" for i in range(200)), "values are nested deeper than 64 levels"),
    "deep through aliases": (
        "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 40 + "*a" + "]" * 40,
        "values are nested deeper than 64 levels",
    ),
    "number without end": ("a: " + "1" * 5000, "f.yml:1: '1111.*' cannot be read as a number"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_yaml_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text, "f.yml")


def test_aliases_cannot_blow_up() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="aliases repeat more than a million values"):
        read("\n".join(lines), "f.yml")


TEXTS = [
    "1e-3",
    "no",
    "yes",
    "1:30:00",
    "0o17",
    "0x1",
    "1_000",
    "true",
    "~",
    "2020-01-01",
    "<<",
    "=",
    "#x",
    "é",
    "-",
    "!x",
    "&a",
    "*a",
    "%",
    "@",
    "1.",
    "+1",
    ".5",
    "y",
    "---",
    "...",
    "'",
    '"',
    "[",
    "{",
    "😀",
]
TEXTS += ["", "a: b", " x", "x ", "\u2028", "a\nb", "\n", "- a", "\t", "\x85", "\x00", "x" * 500, "x " * 500]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_the_same_after_writing_and_reading(text: str) -> None:
    assert read(write([{"k": text, text: [text]}]), "f.yml")[0].value == {"k": text, text: [text]}


DIGITS = """\
# a comment
---
name: DEFAULT
path: results
---

---
name: digits
params:
  opt:
    lr: 0.1
grid:
  lr: [1, 2]
---
name: SLURM_horeka
time: 1:30:00
"""


def test_documents_know_their_kind_number_and_places() -> None:
    default, digits, slurm = parse(DIGITS, "conf/digits.yml")
    assert [default.kind, digits.kind, slurm.kind] == ["default", "experiment", "cluster"]
    assert [default.index, digits.index, slurm.index] == [1, 3, 4]
    assert digits.place("params", "opt", "lr") == "conf/digits.yml:11 (document 3, key params.opt.lr)"
    assert digits.place("grid", "lr", 1) == "conf/digits.yml:13 (document 3, key grid.lr.1)"
    assert digits.place() == "conf/digits.yml:8 (document 3)"
    assert digits.place("params", "absent") == "conf/digits.yml:9 (document 3, key params.absent)"
    assert digits.has("params", "opt")
    assert not digits.has("repetitions")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DEFAULT", "default"),
        ("Default", "default"),
        ("SLURM", "cluster"),
        ("slurm", "cluster"),
        ("Slurm_a", "cluster"),
        ("my_slurm_x", "experiment"),
        ("slurmy", "experiment"),
        ("default2", "experiment"),
    ],
)
def test_only_slurm_and_slurm_underscore_are_sections_of_a_batch_system(name: str, kind: str) -> None:
    assert [document.kind for document in parse(f"name: {name}", "f.yml")] == [kind]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params: {}", r"f.yml:1 \(document 1\): this document has no name"),
        ("name:", r"f.yml:1 \(document 1\): this document has no name"),
        ("---\nname: a\n---\njust text", r"f.yml:4 \(document 2\): a document must be a mapping"),
        ("- a\n- b", "a document must be a mapping"),
        ("path: x\nname: 12", r'f.yml:2 \(document 1, key name\): the name is 12, .*\(put it in quotes: name: "12"\)'),
        ("name: a\n3: b", r"f.yml:2 \(document 1, key 3\): the key 3 is not text"),
    ],
)
def test_a_document_without_a_usable_name_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text, "f.yml")


def test_a_file_with_a_byte_order_mark_and_windows_lines_is_read(tmp_path: Path) -> None:
    file = tmp_path / "f.yml"
    file.write_bytes(b"\xef\xbb\xbfname: a\r\npath: results\r\n")
    [document] = load(file)
    assert document.data == {"name": "a", "path": "results"}
    assert isinstance(document, Document)


def test_unreadable_files_are_config_errors(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yml"
    latin.write_bytes(b"name: a\npath: \xe4\n")
    cases = {
        tmp_path / "absent.yml": "there is no such file",
        tmp_path: "this is a folder",
        latin: re.escape("latin.yml:2: the text is not UTF-8 (save the file as UTF-8)"),
        Path("a\0b"): "the file cannot be read",
    }
    for file, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            load(file)


def test_an_empty_file_has_no_documents() -> None:
    assert parse("", "f.yml") == []
    assert parse("---\n---\n# nothing\n", "f.yml") == []


def test_without_a_yaml_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=re.escape("PyYAML: pip install 'amlsched[experiments]'")):
        parse("name: a", "f.yml")


@pytest.mark.parametrize("name", ["CSafeLoader", "SafeLoader"])
def test_both_parsers_of_the_yaml_package_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    if name == "SafeLoader":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    [_, digits, _] = parse(DIGITS, "f.yml")
    assert digits.data["params"] == {"opt": {"lr": 0.1}}
    assert digits.place("grid", "lr") == "f.yml:13 (document 3, key grid.lr)"
    with pytest.raises(ConfigError, match="f.yml:2: this is not YAML"):
        parse("a: 1\n b: 2", "f.yml")


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("off", False),
        ("On", True),
        ("yes", True),
        ("NO", False),
        ("1e-3", "1e-3"),
        ("1.5e3", "1.5e3"),
        ("010", 8),
        ("0o17", "0o17"),
        ("1:30:00", 5400),
        ("10:30.5", 630.5),
        ("0b11", 3),
        ("2020-01-01", datetime.date(2020, 1, 1)),
    ],
)
@pytest.mark.parametrize("form", ["a: {}", "b: [{}]", "b: {{c: {}}}"])
def test_a_value_that_yaml_1_1_reads_differently_is_known_with_its_line(form: str, text: str, other: Any) -> None:
    [found] = read("\n" + form.format(text), "f.yml")[0].differences
    assert found.line == 2
    assert (found.other, type(found.other)) == (other, type(other))
    assert found.value == value_of(text)


SAME = """y n Y 'off' "1e-3" 1.0e-3 1_000 0x_ff 1_0.5 true ~ one 1:99 = 1.5 .nan -.inf '${env:X}'""".split()  # noqa: SIM905


@pytest.mark.parametrize("text", [*SAME, "!!str off", "!!float 1e-3"])
def test_what_yaml_1_1_reads_as_we_do_is_no_difference(text: str) -> None:
    assert read(f"a: {text}", "f.yml")[0].differences == ()


def test_a_key_that_yaml_1_1_reads_differently_is_known_and_an_alias_counts_at_each_place() -> None:
    [tree] = read("on: &x [no]\nb: *x\nc: {<<: {off: 1}}", "f.yml")
    assert [(one.path, one.line, one.other) for one in tree.differences] == [
        (("on",), 1, True),
        (("on", 0), 1, False),
        (("b", 0), 1, False),
        (("c", "off"), 3, False),
    ]


def test_tuples_are_written_and_read_again() -> None:
    value = {"a": (1, [2], {"b": (3.5, "x")})}
    assert read(write([value]), "f.yml")[0].value == value
