"""A small process that outlives this one, to cancel jobs that nobody would cancel any more."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Guard"]

# Its standard input ends when the driver does, in whatever way.
_SCRIPT = """\
keys=$1; shift
jobs=
while read -r word; do
    case $word in
        left) exit 0 ;;
        *) jobs="$jobs $word" ;;
    esac
done
[ -z "$jobs" ] || "$@" $jobs
rm -rf -- "$keys"
"""


class Guard:
    """Cancels the jobs that it was told of, and removes the keys, when this process ends without `leave`.

    Args:
        cancel: The command, to which the ids are added.
        environment: For it.
        keys: The folder with the keys of the cluster.
    """

    def __init__(self, cancel: Sequence[str], environment: Mapping[str, str], keys: Path) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "amlsched-guard", str(keys), *cancel],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C is not for it
        )

    def add(self, job: str) -> None:
        """Tell it of a job."""
        self._write(job)

    def leave(self) -> None:
        """End it: there is nothing to be done any more."""
        self._write("left")
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, word: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # somebody killed it
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
