"""Every example in the documentation is run.

A page's fenced blocks are taken in their order, in one empty folder a page:

- a block with a `title` is a file of that name; the blocks after it find it there;
- a `python` block is a program; `<!-- test: continues -->` above it appends it to the program before;
- the lines of a `sh` block are commands;
- `<!-- test: skip, REASON -->` above a block says why it cannot be run.

Other languages (`text`, `yaml` without a title) are shown only.
"""

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))

#: Examples that are not run here, and why.
NOT_RUN: dict[str, str] = {
    f"examples/cw2/{name}.py": "needs a config: tests/experiments/test_cw2_project.py runs it"
    for name in ("load", "main", "once")
} | {"examples/halving/halving.py": "tests/experiments/test_search.py runs it"}

FENCE = re.compile(
    r"(?:^ *<!-- test: (?P<mark>continues|skip)(?:, (?P<reason>[^\n]+?))? -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    body: str
    title: str | None
    mark: str | None
    reason: str | None


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', found["info"])
        indent = found["indent"]
        yield Block(
            line=text.count("\n", 0, found.start("body")),
            language=found["language"],
            body="".join(line.removeprefix(indent) for line in found["body"].splitlines(keepends=True)),
            title=title[1] if title else None,
            mark=found["mark"],
            reason=found["reason"],
        )


def is_run(block: Block) -> bool:
    return block.mark != "skip" and (block.title is not None or block.language in ("python", "sh"))


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


PAGES_THAT_RUN = [page for page in PAGES if any(is_run(block) for block in blocks(page))]


def run(command: list[str], folder: Path, where: str) -> None:
    """Run a command and fail with its output if it fails."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "MPLBACKEND": "agg"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{done.stdout}"


@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=relative)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    program = ""
    for block in filter(is_run, blocks(page)):
        where = f"{relative(page)}:{block.line}"
        if block.title is not None:
            (tmp_path / block.title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.title).write_text(block.body)
            if block.language == "python":
                run([sys.executable, block.title], tmp_path, where)
        elif block.language == "python":
            program = program + block.body if block.mark == "continues" else block.body
            name = f"example_at_line_{block.line}.py"
            (tmp_path / name).write_text(program)
            run([sys.executable, name], tmp_path, where)
        else:
            run(["bash", "-euo", "pipefail", "-c", block.body], tmp_path, where)


def test_the_pages_have_examples() -> None:
    assert ROOT / "README.md" in PAGES_THAT_RUN


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    assert [block.line for block in blocks(page) if block.mark == "skip" and not block.reason] == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_fence_is_understood(page: Path) -> None:
    """A fence that the pattern above overlooks would be an example that nobody runs."""
    fences = re.findall(r"^ *```", page.read_text("utf-8"), flags=re.MULTILINE)
    assert len(fences) == 2 * len(list(blocks(page)))


@pytest.mark.parametrize("example", [e for e in EXAMPLES if relative(e) not in NOT_RUN], ids=relative)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    run([sys.executable, str(example)], tmp_path, relative(example))


def test_examples_that_are_not_run_exist() -> None:
    assert set(NOT_RUN) <= set(map(relative, EXAMPLES))


on_contributing_pages = pytest.mark.parametrize(
    "page", sorted((ROOT / "docs" / "contributing").glob("*.md")), ids=relative
)


@functools.cache
def project_files() -> list[str]:
    places = [ROOT / name for name in ("amlsched", "tests", "docs", "benchmarks", "examples", "scripts")]
    return ["pyproject.toml", "CHANGELOG.md", *(relative(path) for place in places for path in place.rglob("*"))]


def ending_in(end: str) -> list[str]:
    """The files and folders whose paths end so."""
    return [path for path in project_files() if f"/{path}".endswith(f"/{end}")]


@on_contributing_pages
def test_files_that_the_contributing_pages_name_exist(page: Path) -> None:
    """`_run/loop.py` is the end of a path; in a recipe, NAME stands for the name of something new."""
    prose = re.sub(r"^```(?!text).*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r'(?<![\w/"])[\w/]+\.(?:py|md|toml|sh)\b|\b_\w+/', prose))
    assert [name for name in sorted(named) if "NAME" not in name and not ending_in(name.rstrip("/"))] == []


@on_contributing_pages
def test_what_the_contributing_pages_place_in_a_file_is_there(page: Path) -> None:
    """Such as `Attempt` in `_storage/record.py`."""
    placed = re.findall(r"`(\w+)`\s+(?:in|of)\s+`([\w/]+\.py)`", page.read_text("utf-8"))
    astray = [
        f"{name} in {end}"
        for name, end in placed
        if not any(re.search(rf"\b{name}\b", (ROOT / path).read_text("utf-8")) for path in ending_in(end))
    ]
    assert astray == []
