"""Random search over a decision tree's settings, two at a time, twelve in all."""

import random
from typing import Any

from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier

from amlsched import ExitState, Scheduler, Task
from amlsched.plugins import Limiter, WarningFilter


def evaluate(settings: dict[str, Any]) -> float:
    """The accuracy of a tree; a criterion that does not exist is an error of the call."""
    images, labels = load_digits(return_X_y=True)
    tree = DecisionTreeClassifier(random_state=0, **settings)
    return float(cross_val_score(tree, images[:400], labels[:400], cv=3, error_score="raise").mean())


def draw(generator: random.Random) -> dict[str, Any]:
    """Settings; some of them are wrong."""
    criterion = generator.choice(["gini", "entropy", "log_loss", "no-such-criterion"])
    return {"criterion": criterion, "max_depth": generator.randint(1, 10)}


def main() -> None:
    scheduler = Scheduler.with_processes(max_workers=2)
    limiter = Limiter(max_calls=12)
    task = scheduler.task(evaluate, plugins=[limiter, WarningFilter("ignore")])
    generator = random.Random(1)
    found: list[tuple[float, str]] = []
    failed: list[str] = []
    refused: list[str] = []

    @scheduler.on_start(repeat=2)
    def begin() -> None:
        task.submit(draw(generator))

    @task.on_result
    def keep(future: Any, accuracy: float) -> None:
        settings = futures.pop(future)
        found.append((round(accuracy, 3), f"{settings['criterion']}, depth {settings['max_depth']}"))

    @task.on_exception
    def note(future: Any, exception: BaseException) -> None:
        failed.append(type(exception).__name__)

    @task.on_done
    def next_one(_: Any) -> None:
        task.submit(draw(generator))

    @task.on("call-limit-reached")
    def enough(task: Task, *args: Any) -> None:
        refused.append(f"{len(args)} argument")

    futures: dict[Any, dict[str, Any]] = {}

    @task.on_submitted
    def remember(future: Any, settings: dict[str, Any]) -> None:
        futures[future] = settings

    end = scheduler.run(on_exception="continue")

    print("ended as exhausted:", end.code is ExitState.Code.EXHAUSTED)
    print("submitted:", task.event_counts[task.SUBMITTED], "results:", task.event_counts[task.RESULT])
    print("failed:", failed, "refused:", refused)
    for accuracy, settings in sorted(found, reverse=True):
        print(accuracy, settings)


if __name__ == "__main__":
    main()
