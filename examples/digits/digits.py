"""Trains a small neural network on the handwritten digits of scikit-learn, one epoch per iteration.

amlsched run examples/digits/digits.py:Digits examples/digits/digits.yml
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from amlsched.experiments import IterativeExperiment


class Digits(IterativeExperiment):
    """A multi-layer perceptron; the repetition's seed decides on split, weights and order of the batches."""

    def initialize(self, config, rep, logger):
        # One thread for linear algebra, so that the workers share the cores, and sums are added in the same order.
        threadpool_limits(1)
        params, seed = config["params"], config["_seed"]
        images, labels = load_digits(return_X_y=True)
        split = train_test_split(images, labels, test_size=params["test_size"], stratify=labels, random_state=seed)
        train, test, self.train_labels, self.test_labels = split
        scaler = StandardScaler().fit(train)
        self.train, self.test = scaler.transform(train), scaler.transform(test)
        self.classes = np.unique(labels)
        self.model = MLPClassifier(
            hidden_layer_sizes=(params["hidden_size"],),
            learning_rate_init=params["learning_rate"],
            batch_size=params["batch_size"],
            random_state=seed,
        )
        print(f"{len(train)} images to train on, {len(test)} to test on, seed {seed}")

    def iterate(self, config, rep, n):
        self.model.partial_fit(self.train, self.train_labels, classes=self.classes)
        probabilities = self.model.predict_proba(self.test)
        accuracy = float(np.mean(self.classes[probabilities.argmax(axis=1)] == self.test_labels))
        return {"accuracy": accuracy, "loss": float(log_loss(self.test_labels, probabilities, labels=self.classes))}
