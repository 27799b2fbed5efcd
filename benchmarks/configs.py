"""Large config files."""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.clock import used_by
from benchmarks.frame import Bar, Numbers, Workload

EXPERIMENT = """
from amlsched.experiments import Experiment


class Nothing(Experiment):
    def initialize(self, config, rep, logger): ...
    def run(self, config, rep, logger): ...
    def finalize(self, surrender=None, crash=False): ...
"""


def grid(*sizes: int, repetitions: int) -> str:
    """A config with a grid of these sizes."""
    axes = (f"  {name}: {list(range(size))}" for name, size in zip("abc", sizes, strict=True))
    head = f"name: large\npath: results\nrepetitions: {repetitions}\nparams: {{optimizer: sgd}}\ngrid:"
    return "\n".join([head, *axes, ""])


@contextmanager
def in_folder(**files: str) -> Iterator[Path]:
    """A folder with only these files."""
    with tempfile.TemporaryDirectory() as name:
        for file, text in files.items():
            Path(name, file.replace("_", ".")).write_text(text)
        yield Path(name)


def dry_run() -> Numbers:
    """CPU time and memory of a listing of 100,000 runs."""
    with in_folder(nothing_py=EXPERIMENT, large_yml=grid(100, 100, 10, repetitions=1)) as folder:
        numbers, text = used_by(folder, "run", "nothing.py:Nothing", "large.yml", "--dry-run")
    if text.count("large__") < 100_000:
        raise RuntimeError(f"{text.count('large__')} runs were listed, not 100,000")
    return numbers


def our_repetitions(file: Path) -> int:
    """Create the list of repetitions, as runs and indices, and return its length."""
    from amlsched.experiments._config import expand, resolve

    runs = (run for experiment in resolve.resolve(file).experiments for run in expand.expand(experiment))
    return len([(run, index) for run in runs for index in range(run.repetitions)])


def their_repetitions(file: Path) -> int:
    """The same with cw2, which creates a config for each."""
    from cw2.cw_config import conf_unfolder, cw_config

    return len(conf_unfolder.unroll_exp_reps(cw_config.Config(str(file)).exp_configs))


def expansion(repetitions: Callable[[Path], int]) -> Numbers:
    """CPU time from the file to the list of 50,000 repetitions."""
    with in_folder(large_yml=grid(100, 10, 10, repetitions=5), small_yml=grid(1, 1, 1, repetitions=1)) as folder:
        assert repetitions(folder / "small.yml") == 1  # imports its dependencies
        gc.collect()
        gc.freeze()  # otherwise a garbage collection may visit imported objects in some rounds
        begin = time.process_time()
        assert repetitions(folder / "large.yml") == 50_000
        return {"CPU_s": time.process_time() - begin}


WORKLOADS = [
    Workload(
        "grid",
        "a grid of 100,000 runs is expanded and listed (`amlsched run --dry-run`)",
        {"amlsched": dry_run},
        (Bar("CPU_s", None, 10), Bar("memory_MiB", None, 1024)),
        rounds=3,
    ),
    Workload(
        "expansion",
        "a grid of 10,000 runs with 5 repetitions is expanded",
        {"amlsched": partial(expansion, our_repetitions), "cw2": partial(expansion, their_repetitions)},
        (Bar("CPU_s", "cw2", 0.05),),
        rounds=3,
    ),
]
