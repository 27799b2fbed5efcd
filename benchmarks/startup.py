"""Start-up times: the import, and the first result of a pool of processes."""

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks.drive import noop
from benchmarks.frame import Bar, Numbers, Workload

# Bytecode is written and read, as for an installed package; some environments disable that.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def imported(statement: str) -> Numbers:
    """Time of the imports of a statement, as reported by the interpreter (`-X importtime`)."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stderr.splitlines()
    # "import time: self | cumulative | name"; one blank before the name means that no other module imported it.
    # The last module that the interpreter imports by itself is "site".
    fields = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")]
    names = [name.strip() for _, _, name in fields]
    own = fields[names.index("site") + 1 :]
    top = [int(cumulative) for _, cumulative, name in own if not name.startswith("  ")]
    return {"import_ms": sum(top) / 1000}


def interpreter(statement: str) -> Numbers:
    """Wall time of an interpreter that executes a statement."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env=ENVIRONMENT)
    return {"wall_ms": 1000 * (time.perf_counter() - begin)}


def our_first_result() -> Numbers:
    """From the constructor to the first result, in a callback."""
    from amlsched import Scheduler

    numbers = {}
    begin = time.perf_counter()
    scheduler = Scheduler.with_processes(2)
    task = scheduler.task(noop)
    scheduler.on_start(task.submit)

    @task.on_result
    def _(*_: object) -> None:
        numbers["first_result_ms"] = 1000 * (time.perf_counter() - begin)

    scheduler.run()
    return numbers


def raw_first_result() -> Numbers:
    """From the constructor to the first result."""
    begin = time.perf_counter()
    with ProcessPoolExecutor(2) as executor:
        executor.submit(noop).result()
        return {"first_result_ms": 1000 * (time.perf_counter() - begin)}


LIBRARIES = "asyncio, concurrent.futures, logging"

WORKLOADS = [
    Workload(
        "import",
        f"`import amlsched`, and `import {LIBRARIES}`",
        {
            "amlsched": partial(imported, "import amlsched"),
            "standard library": partial(imported, f"import {LIBRARIES}"),
        },
        (Bar("import_ms", "standard library", 1.5),),
    ),
    Workload(
        "interpreter",
        "an interpreter that imports amlsched, and one that imports nothing",
        {"amlsched": partial(interpreter, "import amlsched"), "bare": partial(interpreter, "pass")},
        (Bar("wall_ms", "bare", 1.0, plus=100),),
    ),
    Workload(
        "first-result",
        "`with_processes(2)`, to the first result",
        {"amlsched": our_first_result, "raw": raw_first_result},
        (Bar("first_result_ms", "raw", 1.0, plus=50),),
    ),
]
