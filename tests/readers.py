"""How batch systems read the directives of a script: their own rules, written down again for tests.

And the options of workers with which each of them has a script.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["READERS", "condor_words", "directives", "submit_file", "worker_options"]


def _words(text: str, escapes_in: str, comment: bool) -> Iterator[str]:
    """Words in quotes of both kinds.

    Args:
        text: The rest of the line.
        escapes_in: Between which quotes a backslash escapes; a blank for outside of them.
        comment: Whether # outside of quotes begins a comment.
    """
    word, quote, begun = "", " ", False
    characters = iter(text)
    for character in characters:
        if character == "\\" and quote in escapes_in:
            word, begun = word + next(characters), True
        elif quote != " " and character == quote:
            quote = " "
        elif quote == " " and character in "\"'":
            quote, begun = character, True
        elif quote == " " and character.isspace():
            if begun:
                yield word
            word, begun = "", False
        elif comment and quote == " " and character == "#":
            break
        else:
            word, begun = word + character, True
    assert quote == " ", f"no end of {quote}: {text}"
    if begun:
        yield word


def _of_slurm(text: str) -> list[str]:
    """`get_argument` of sbatch: a backslash escapes everywhere."""
    return list(_words(text, " \"'", comment=True))


def _of_pbs(text: str) -> list[str]:
    """`make_argv` of qsub: a backslash escapes outside of quotes."""
    return list(_words(text, " ", comment=False))


def _of_grid_engine(text: str) -> list[str]:
    """What follows a # is gone, also in quotes; all quotes are."""
    assert not re.search(r"""["'][^"']*["'][^\s"']*["']""", text)
    return list(_words(text.partition("#")[0], "", comment=False))


def _of_lsf(text: str) -> list[str]:
    return list(_words(text, "", comment=False))


READERS: dict[str, tuple[str, Callable[[str], list[str]]]] = {
    "slurm": ("#SBATCH", _of_slurm),
    "sge": ("#$", _of_grid_engine),
    "pbs": ("#PBS", _of_pbs),
    "torque": ("#PBS", _of_pbs),
    "moab": ("#PBS", _of_pbs),
    "lsf": ("#BSUB", _of_lsf),
    "oar": ("#OAR", shlex.split),  # dask-jobqueue reads them, for the command line of oarsub
}


def directives(system: str, script: str) -> list[str]:
    """The words of all directives, as this batch system reads them."""
    marker, read = READERS[system]
    lines = [line for line in script.splitlines() if line.startswith(f"{marker} ")]
    return [word for line in lines for word in read(line.removeprefix(marker))]


_OF_JOBS = ("Cluster", "Process", "ClusterId", "ProcId")


def submit_file(text: str) -> dict[str, str]:
    """The values of a submit file of HTCondor. What a macro names that is set nowhere is nothing."""
    found: dict[str, str] = {}
    for line in text.replace("\\\n", "").splitlines():  # a backslash at its end joins the next line
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name.strip()] = value.strip()

    def expanded(value: str) -> str:
        return re.sub(r"\$\((\w+)\)", lambda macro: one(macro[1]), value)

    def one(name: str) -> str:
        if name == "DOLLAR":
            return "$"
        return f"$({name})" if name in _OF_JOBS else expanded(found.get(name, ""))

    return {name: expanded(value) for name, value in found.items()}


def condor_words(arguments: str) -> list[str]:
    """The words of `arguments` in double quotes: doubled ones are one, and blanks count in single quotes."""
    assert arguments[0] == arguments[-1] == '"'
    text = arguments[1:-1].replace('""', '"')
    found = re.findall(r"(?:[^\s']|'(?:[^']|'')*')+", text)
    return [re.sub(r"'((?:[^']|'')*)'", lambda part: part[1].replace("''", "'"), word) for word in found]


def worker_options(system: str) -> dict[str, Any]:
    """Options of two workers that are right for this batch system."""
    options: dict[str, Any] = {"n_workers": 2, "cores": 4, "memory": "6 GB", "walltime": "00:10:00"}
    if system == "htcondor":
        del options["walltime"]
        options["disk"] = "1 GB"
    elif system == "oar":
        options["memory_per_core_property_name"] = "not_applicable"
    elif system == "lsf":
        options.update(walltime="0:10", lsf_units="mb")
    return options
