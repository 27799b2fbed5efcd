"""The site: what leads to each page, the reference of the command line, and links."""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from amlsched import Scheduler
from amlsched.cli import command_parser
from amlsched.scheduler import executor_names
from tests.modules import ROOT

DOCS = ROOT / "docs"
MOST = 7
OPTIONS = ("retries_on_loss", "receipts", "estimates", "pool", "policy")


def config() -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        """Ignores the tags of mkdocs."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    return yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Loader)


def groups(entries: list[Any], name: str = "") -> Iterator[tuple[str, list[Any]]]:
    yield name, entries
    for entry in entries:
        if isinstance(entry, dict):
            for below, more in entry.items():
                if isinstance(more, list):
                    yield from groups(more, below)


def test_no_group_of_the_navigation_has_more_than_seven_entries() -> None:
    assert {name: len(entries) for name, entries in groups(config()["nav"]) if len(entries) > MOST} == {}


def test_each_page_is_in_the_navigation_once() -> None:
    listed = [entry for _, entries in groups(config()["nav"]) for entry in entries if isinstance(entry, str)]
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_pages_that_are_made_from_code_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts/reference", tmp_path], check=True)
    for made in tmp_path.iterdir():
        assert (DOCS / "reference" / made.name).read_text("utf-8") == made.read_text("utf-8"), "run scripts/reference"


def sections(page: str) -> dict[str, str]:
    """The sections of a page of the reference, by their headings."""
    text = (DOCS / "reference" / page).read_text("utf-8")
    return dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE))


def test_every_constructor_has_its_parameters_in_the_reference() -> None:
    found = sections("constructors.md")
    assert set(found) == {f"with_{name}" for name in executor_names()}
    for name, section in found.items():
        for parameter in inspect.signature(getattr(Scheduler, name)).parameters.values():
            if parameter.name not in OPTIONS and parameter.kind is not parameter.VAR_KEYWORD:
                assert f"    {parameter}".split(":")[0].split("=")[0] in section, (name, parameter.name)


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            listed = {one.dest for one in action._choices_actions}
            for name, one in action.choices.items():
                if name in listed:
                    yield from commands(one)


def test_every_option_has_a_text_and_its_place_in_the_reference() -> None:
    found = sections("cli.md")
    for parser in commands(command_parser()):
        name = parser.prog.removeprefix("amlsched").strip()
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) or action.dest in ("help", "version"):
                continue
            assert action.help, (parser.prog, action.dest)
            for option in action.option_strings:
                assert f"`{option}" in found[name], (parser.prog, option)


def test_files_that_pages_show_are_there() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [ROOT / "README.md", *DOCS.rglob("*.md")]
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_the_readme_has_no_anchor_that_its_page_lacks() -> None:
    for target, anchor in re.findall(r"\]\((docs/[^)#\s]+)#([^)\s]+)\)", (ROOT / "README.md").read_text("utf-8")):
        headings = re.findall(r"^#+ (.+)$", Path(ROOT, target).read_text("utf-8"), re.MULTILINE)
        slugs = [re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings]
        assert anchor in slugs, (target, anchor)
