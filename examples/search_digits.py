"""Search the settings of a network for the digits of scikit-learn, by asynchronous successive halving.

Many settings are trained for one epoch. The best third goes on for three epochs, and the best third of those for nine.
What goes on begins with the network that was saved before.
"""

import pickle
import tempfile
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from amlsched import Scheduler
from amlsched.search import Float, Int, Search, asha


class Train:
    """Trains a network up to the budget of a trial.

    Args:
        folder: Where networks are saved, each under the number of its trial.
    """

    def __init__(self, folder):
        self.folder = Path(folder)

    def __call__(self, trial):
        """Train, and return the accuracy."""
        images, digits = load_digits(return_X_y=True)
        x, x_test, y, y_test = train_test_split(images / 16, digits, test_size=0.3, random_state=0)
        if trial.resumes is None:
            network = MLPClassifier(trial["hidden_size"], learning_rate_init=trial["learning_rate"], random_state=0)
            epochs = 0
        else:
            network, epochs = pickle.loads((self.folder / f"{trial.resumes}.pkl").read_bytes())
        for _ in range(epochs, int(trial.budget)):
            network.partial_fit(x, y, classes=range(10))
        (self.folder / f"{trial.number}.pkl").write_bytes(pickle.dumps((network, trial.budget)))
        return network.score(x_test, y_test)


if __name__ == "__main__":
    space = {"learning_rate": Float(1e-4, 0.1, log=True), "hidden_size": Int(8, 128, log=True)}
    searcher = asha(space, max_iterations=9, n_configs=9, mode="max", seed=1)
    with tempfile.TemporaryDirectory() as folder:
        search = Search(searcher, Train(folder), scheduler=Scheduler.with_processes(2))
        search.run()
    best = search.best
    print(search.df()[["budget", "value", "params.learning_rate", "params.hidden_size"]].round(4).to_string())
    print(f"accuracy {best.value:.3f} after {best.trial.budget:.0f} epochs with {best.trial.params}")
    assert best.value > 0.9
