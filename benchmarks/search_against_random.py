"""Does the search find better than random search of equal budget, and in less training time?

    python benchmarks/search_against_random.py FOLDER

Five seeds; 30 trials each on the embedded digits: `experiment=search`, and random search without pruning in the
same space. Searches that were interrupted go on where they were.
"""

import json
import subprocess
import sys
from pathlib import Path

METHODS = {
    "tpe": [],
    "random": ["hydra.sweeper.sampler.name=random", "hydra.sweeper.pruner.name=none"],
}
TRIALS = 30
COMMON = ["experiment=search", "data=digits", "tracker=none"]


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    better = dict.fromkeys(METHODS, 0)
    for seed in range(5):
        found = {name: search(folder, name, seed) for name in METHODS}
        for name in METHODS:
            better[name] += found[name][0] > found["random"][0]
        print(
            seed, {name: f"{elbo:.3f} in {seconds:.0f} s" for name, (elbo, seconds) in found.items()}, flush=True
        )
    print(f"better than random search in so many of 5: {better}")


def search(folder: Path, name: str, seed: int) -> tuple[float, float]:
    """The best val/elbo of completed jobs, and the seconds that all trained."""
    sweep = f"{name}-{seed}"
    own = [*METHODS[name], f"hydra.sweeper.sampler.seed={seed}", f"sweep.name={sweep}"]
    words = [sys.executable, "-m", "vae_exp.train", "--multirun", *COMMON, *own]
    subprocess.run(words, cwd=folder, check=False, capture_output=True)  # noqa: S603 - our own command
    results = [json.loads(path.read_text()) for path in (folder / "multirun" / sweep).glob("*/result.json")]
    assert len(results) == TRIALS, f"{sweep} has {len(results)} trials, not {TRIALS}"
    best = max(each["metrics"]["val/elbo"] for each in results if each["status"] == "completed")
    return best, sum(each["seconds"]["training"] for each in results)


if __name__ == "__main__":
    main()
