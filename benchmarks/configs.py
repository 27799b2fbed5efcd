"""Large config files."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.frame import Bar, Numbers, Workload

EXPERIMENT = """
from amlsched.experiments import Experiment


class Nothing(Experiment):
    def initialize(self, config, rep, logger): ...
    def run(self, config, rep, logger): ...
    def finalize(self, surrender=None, crash=False): ...
"""

CONFIG = f"""
name: large
path: results
repetitions: 1
grid:
  a: {list(range(100))}
  b: {list(range(100))}
  c: {list(range(10))}
"""


def dry_run() -> Numbers:
    """CPU time and memory of a listing of 100,000 runs."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "nothing.py").write_text(EXPERIMENT)
        Path(folder, "large.yml").write_text(CONFIG)
        command = [sys.executable, "-m", "amlsched.cli", "run", "nothing.py:Nothing", "large.yml", "--dry-run"]
        with Path(folder, "out").open("w") as out:
            process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        text = Path(folder, "out").read_text()
        if process.returncode:
            raise RuntimeError(text[-500:])
        if text.count("large__") < 100_000:
            raise RuntimeError(f"{text.count('large__')} runs were listed, not 100,000")
    return {"CPU_s": used.ru_utime + used.ru_stime, "memory_MiB": used.ru_maxrss / 1024}


WORKLOADS = [
    Workload(
        "grid",
        "a grid of 100,000 runs is expanded and listed (`amlsched run --dry-run`)",
        {"amlsched": dry_run},
        (Bar("CPU_s", None, 10), Bar("memory_MiB", None, 1024)),
        rounds=3,
    ),
]
