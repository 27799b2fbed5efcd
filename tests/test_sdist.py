"""The source distribution has what the tests need."""

import re
import tomllib
from pathlib import Path

from tests.processes import ROOT

READ = re.compile(r"""(?:ROOT|parents\[\d\]) / ["']([^"']+)["']|^(?:from|import) (\w+)""", re.MULTILINE)


def test_all_that_tests_import_or_read_of_this_project_is_in_it() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = {name.strip("/") for name in settings["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]}
    included |= {"pyproject.toml", "README.md", "LICENSE"}  # always there
    tests = Path(__file__).parent
    needed = {
        (place or module).partition("/")[0]
        for path in tests.rglob("*.py")
        if "fixtures" not in path.parts
        for place, module in READ.findall(path.read_text())
    }
    needed = {name for name in needed if (ROOT / name).exists()}
    assert {"amlsched", "benchmarks", "scripts", "docs"} <= needed
    assert needed - included == set()
