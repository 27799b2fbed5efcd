"""The programs of the page on migrating, which print the same under amltk 1.12 when only their imports are changed.

What is expected here was printed by amltk.
"""

import re
from pathlib import Path

import pytest

from tests.processes import ROOT, run_python

FOLDER = ROOT / "examples" / "migrating"

PRINTED = {
    "amltk_comm.py": """\
['close', 'close', 'close', 'open', 'open', 'open']
[2, 5, 5]
[(16.807, 5), (3.125, 5), (98.01, 2), 'nobody answered']
""",
    "amltk_control.py": """\
EXHAUSTED {'every': [4, 10], 'when': [10], 'max_calls': [2], 'doubled': [2, 4, 8, 10, 14], 'refused': [-3], \
'failed': ['fourteen']} ['start', 'empty', 'finishing', 'finished']
TIMEOUT ['result 3', 'timeout']
STOPPED [1, 100]
EXCEPTION ZeroDivisionError('fourteen')
raised ZeroDivisionError('fourteen')
heard c
heard e
again e
2
""",
    # The accuracies depend on the version of scikit-learn.
    "amltk_search.py": """\
ended as exhausted: True
submitted: 12 results: 9
failed: ['InvalidParameterError', 'InvalidParameterError', 'InvalidParameterError'] \
refused: ['1 argument', '1 argument']
"""
    + "ACCURACY SETTINGS\n" * 9,
}


def test_every_program_is_tried() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_a_program_prints_what_it_prints_under_amltk(name: str, tmp_path: Path) -> None:
    done = run_python(str(FOLDER / name), folder=tmp_path, limit_s=200)
    assert done.returncode == 0, done.stderr
    printed = re.sub(r"^0\.\d+ \w+, depth \d+$", "ACCURACY SETTINGS", done.stdout, flags=re.MULTILINE)
    assert printed == PRINTED[name]


@pytest.mark.parametrize("name", PRINTED)
def test_only_the_documented_import_lines_are_needed(name: str) -> None:
    lines = [line for line in (FOLDER / name).read_text("utf-8").splitlines() if "amlsched" in line]
    page = (ROOT / "docs" / "migrating" / "amltk.md").read_text("utf-8")
    for line in lines:
        module, names = re.fullmatch(r"from ([\w.]+) import (.+)", line).groups()  # type: ignore[union-attr]
        shown = re.findall(rf"`from {re.escape(module)} import ([^`]+)`", page)
        assert set(names.split(", ")) <= {each for group in shown for each in group.split(", ")}
