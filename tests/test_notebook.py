"""The notebook of the examples, executed by a kernel of Jupyter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
PAGE = ROOT / "docs" / "notebooks.md"

EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
nbformat.write(notebook, "executed.ipynb")
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What each cell of code gave, run by a kernel in an empty folder."""
    folder = tmp_path_factory.mktemp("notebook")
    places = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(NOTEBOOK)],
        cwd=folder,
        env={**os.environ, **places, "PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    cells = json.loads((folder / "executed.ipynb").read_text("utf-8"))["cells"]
    return [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]


def value(cell: list[dict[str, Any]], kind: str = "text/plain") -> str:
    [result] = [output["data"] for output in cell if output["output_type"] == "execute_result"]
    return "".join(result[kind])


def printed(cell: list[dict[str, Any]]) -> str:
    return "".join(line for output in cell if output["output_type"] == "stream" for line in output["text"])


def test_its_cells_give_what_they_should(outputs: list[list[dict[str, Any]]]) -> None:
    _, mapped, broken_off, searched, shown, experiments, again = outputs
    assert value(mapped) == "[9, 4, 1, 0, 1, 4]"
    assert value(broken_off) == "1"
    assert value(searched) == "(10, 'EXHAUSTED')"
    assert re.search(r"energy +10 +0 +10", value(shown, "text/html"))
    assert printed(experiments) == "4 repetitions: 4 completed; 4 run now\n"
    assert re.search(r"digits__l0\.1 +2 +2\n", value(experiments, "text/html"))
    assert printed(again) == "4 repetitions: 4 completed; 0 run now\n"
    assert "digits__l0.2" in value(again, "text/html")


def test_the_page_shows_lines_of_the_notebook() -> None:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    shown = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert shown
    assert [block for block in shown if not any(block.strip() in cell for cell in cells)] == []


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert [
        cell.get("outputs") for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")
    ] == []
