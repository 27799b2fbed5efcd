"""Numbers, units and tables as people read them."""

from __future__ import annotations

import pytest

from amlsched.display.table import table
from amlsched.units import counted, slurm_bytes


@pytest.mark.parametrize(
    ("number", "verb", "text"),
    [(0, "", "0 jobs"), (1, "", "1 job"), (2, "", "2 jobs"), (1, "were", "1 job was"), (3, "were", "3 jobs were")],
)
def test_what_is_counted_stands_in_the_singular_or_the_plural(number: int, verb: str, text: str) -> None:
    assert counted(number, "job", verb) == text


def test_no_line_of_a_table_ends_in_blanks() -> None:
    lines = table(["run", "time", ""], [["a", "0.1 s", ""], ["b", "12 s", ""]]).splitlines()
    assert lines == ["run   time", "---  -----", "a    0.1 s", "b     12 s"]


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (300, 300 * 2**20),
        ("300", 300 * 2**20),
        ("2G", 2**31),
        ("2 gb", 2**31),
        ("1K", 1024),
        ("1T", 2**40),
        ("2 GiB", None),
    ],
)
def test_memory_is_read_as_slurm_does(value: int | str, amount: int | None) -> None:
    assert slurm_bytes(value) == amount
