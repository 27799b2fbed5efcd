"""A preload of dask's workers: their job dies soon after they came, whatever they run then."""

import os
import signal
import sys
import threading
import time
from typing import Any

__all__ = ["LASTS_S", "dask_setup"]

LASTS_S = 0.5


def dask_setup(worker: Any) -> None:
    threading.Thread(target=_die, args=(worker,), daemon=True).start()


def _die(worker: Any) -> None:
    while worker.status.name != "running":
        time.sleep(0.02)
    time.sleep(LASTS_S)
    print("this node is no good", file=sys.stderr, flush=True)
    os.kill(os.getppid(), signal.SIGKILL)  # dask's nanny, and with it the job
    os.kill(os.getpid(), signal.SIGKILL)
