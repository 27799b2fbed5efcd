"""Values that YAML 1.1, and so cw2, reads differently than amlsched."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from amlsched.experiments.load import Document
from amlsched.experiments.yaml12 import Difference

__all__ = ["differences"]

_SHOWN = 8


def differences(documents: Iterable[Document]) -> Iterator[str]:
    """A text for each file with such values, with their lines and both readings.

    Args:
        documents: The documents whose values are used; they may be repeated.
    """
    by_file: dict[str, dict[tuple[int, str], str]] = {}
    for document in documents:
        for one in document.differences:
            if document.kind != "override" and not _is_time_of_slurm(document, one):
                shown = f"line {one.line}: {_name(one)} is {_shown(one.value)} (YAML 1.1: {_shown(one.other)})"
                by_file.setdefault(str(document.file), {}).setdefault((one.line, _shown(one.value)), shown)
    for file, found in by_file.items():
        lines = [shown for _, shown in sorted(found.items())]
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        count = f"{len(lines)} value is" if len(lines) == 1 else f"{len(lines)} values are"
        yield f"{file}: {count} read differently by YAML 1.1, as in cw2: {'; '.join(lines[:_SHOWN])}{more}"


def _is_time_of_slurm(document: Document, one: Difference) -> bool:
    return document.kind == "cluster" and one.path in (("time",), ("sbatch_args", "time"))


def _name(one: Difference) -> str:
    return ".".join(map(str, one.path))


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=lambda other: f"{type(other).__name__} {other}")
