"""A program with workers in jobs, which tests end by signals. It says when its calls run.

Arguments: name of the batch system, options of its constructor as JSON.
"""

import json
import sys

from amlsched import Scheduler
from tests import calls


def main(name: str, options: str) -> None:
    scheduler = Scheduler.from_name(name, **json.loads(options))
    task = scheduler.task(calls.double_slowly)
    task.on_result(lambda *_: print("running", flush=True))
    scheduler.on_start(lambda: [task.submit(number) for number in range(2000)])
    scheduler.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
