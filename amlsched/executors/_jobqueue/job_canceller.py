"""A small process that cancels the jobs when this process exits without doing so, as after SIGKILL."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["JobCanceller"]

# Its standard input closes when the driver exits, however it does.
_SCRIPT = """\
keys=$1; shift
jobs=
while read -r word; do
    case $word in
        close) exit 0 ;;
        *) jobs="$jobs $word" ;;
    esac
done
[ -z "$jobs" ] || "$@" $jobs
rm -rf -- "$keys"
"""


class JobCanceller:
    """Cancels the jobs that were added, and removes the keys, if this process exits without calling `close`.

    Args:
        cancel: The command; the ids are appended.
        environment: Its variables.
        keys: The folder with the keys of the cluster.
    """

    def __init__(self, cancel: Sequence[str], environment: Mapping[str, str], keys: Path) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "amlsched-job-canceller", str(keys), *cancel],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C does not interrupt it
        )

    def add(self, job: str) -> None:
        """Add the id of a job."""
        self._write(job)

    def close(self, cancelled: bool = True) -> None:
        """Stop it.

        Args:
            cancelled: Whether the jobs have been cancelled; otherwise it tries to, also after this process has exited.
        """
        if cancelled:
            self._write("close")
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if not cancelled:
            return
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, word: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it was killed
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
