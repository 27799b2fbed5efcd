"""Calls that run again: one whose function fails now and then, and one whose worker is killed.

python examples/retry.py
"""

import os
import signal
import tempfile
from pathlib import Path

from amlsched import Future, Scheduler
from amlsched.plugins import Retry
from amlsched.plugins.retry import exponential


def download(part: int, folder: Path) -> str:
    """Fails in its first two attempts, as a busy server would."""
    attempt = folder / f"{part}-{len(list(folder.glob(f'{part}-*')))}"
    attempt.touch()
    if attempt.name == f"{part}-0" or attempt.name == f"{part}-1":
        raise ConnectionError(f"part {part}: the server is busy")
    return f"part {part}"


def train(seed: int, folder: Path) -> int:
    """Loses its worker once, as on a host that ran out of memory."""
    marker = folder / "killed"
    if seed == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return seed * seed


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scheduler = Scheduler.with_processes(2, retries_on_loss=3)  # 3 is the default
        busy = Retry(5, on=ConnectionError, backoff=exponential(0.05, factor=2, max_s=1), jitter=0.5, seed=1)
        downloads = scheduler.task(download, plugins=busy)
        trainings = scheduler.task(train)

        @scheduler.on_start
        def begin() -> None:
            for number in range(3):
                downloads.submit(number, folder)
                trainings.submit(number, folder)

        @scheduler.on_future_retry
        def again(future: Future[object], exception: BaseException, attempt: int) -> None:
            print(f"call {future.number}, attempt {attempt}: {exception}")

        @scheduler.on_future_result
        def done(future: Future[object], result: object) -> None:
            print(f"call {future.number} returned {result!r} in attempt {future.attempt}")

        scheduler.run()
        assert downloads.on_result.count == trainings.on_result.count == 3
        assert downloads.on_retry.count == 6
        assert trainings.on_retry.count == 1


if __name__ == "__main__":
    main()
