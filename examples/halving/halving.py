"""Successive halving over the digits experiment: many settings get a few epochs, the better half of them gets twice as
many, and so on until one remains.

You can stop it at any time. Started again, it reads the records, and resumes where it left off.
"""

from pathlib import Path

from amlsched.experiments import ExperimentRun

DIGITS = Path(__file__).parents[1] / "digits/digits.py"
FIRST_EPOCHS = 2
CONFIG = f"""
name: halving
path: results
iterations: {FIRST_EPOCHS}
params: {{test_size: 0.3, batch_size: 64}}
grid:
  learning_rate: [0.0003, 0.001, 0.003, 0.01]
  hidden_size: [16, 64]
"""


def halve(run, n_candidates):
    """Submit the better half when all of a rung are done."""
    rungs = {FIRST_EPOCHS: n_candidates}
    scores = {FIRST_EPOCHS: []}

    @run.on_result
    def collect(repetition, ended):
        epochs, params = repetition.config["iterations"], repetition.config["params"]
        chosen = {key: params[key] for key in ("learning_rate", "hidden_size")}
        scores[epochs].append((ended.last["accuracy"], sorted(chosen.items())))
        if len(scores[epochs]) < rungs[epochs]:
            return
        best = sorted(scores[epochs], reverse=True)[: len(scores[epochs]) // 2]
        print(f"{epochs:2} epochs: {len(scores[epochs])} settings, best accuracy {max(scores[epochs])[0]:.3f}")
        rungs[2 * epochs], scores[2 * epochs] = len(best), []
        for _, setting in best:
            run.submit(dict(setting), iterations=2 * epochs)

    return scores


if __name__ == "__main__":
    Path("halving.yml").write_text(CONFIG)
    run = ExperimentRun(f"{DIGITS}:Digits", "halving.yml", executor="processes", max_workers=2)
    scores = halve(run, n_candidates=8)
    summary = run.run()
    epochs, (winner,) = next((epochs, found) for epochs, found in scores.items() if len(found) == 1)
    print(f"after {epochs} epochs: accuracy {winner[0]:.3f} with {dict(winner[1])}; {summary.ran} repetitions were run")
    assert summary.complete
