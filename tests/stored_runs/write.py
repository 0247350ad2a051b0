"""Write the archives of stored runs that `tests/end_to_end/test_stored_runs.py` reads.

    mkdir -p /tmp/elsewhere/vae_exp; git archive COMMIT | tar x -C /tmp/elsewhere/vae_exp; cd /tmp/elsewhere
    OMP_NUM_THREADS=1 PYTHONPATH=vae_exp/src python CHECKOUT/tests/stored_runs/write.py COMMIT [NAME ...]

An archive of a run holds it as it was when interrupted after one of two epochs. `expected.json` beside it has the
values of the same run without interruption, and what `evaluate` says of the interrupted one. In the sweep, three
jobs are complete and the last is interrupted. Stored files name the working directory and the path of the source,
hence the neutral folder. The archives are what the commit wrote: nothing in them is renamed with the code.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

COMMON = ("data=digits", "trainer.epochs=2", "trainer.device=cpu")
QUIET = ("tracker=none", "evaluator=[]")
RUNS = {
    "mlp": (
        "model=mlp", "model.hidden_dims=[4]", "evaluator=[elbo,units,aggregate,probe]", "evaluator.elbo.every=1",
        "evaluator.probe.num_images=200", "evaluator.aggregate.num_images=200",
    ),
    "conv": (
        "model=conv", "model.hidden_dims=[2,2]", "model.latent_dim=2", "trainer.ema_decay=0.9", "scheduler=step",
        "scheduler.step_size=1", "trainer.gradient_clip=500", *QUIET,
    ),
    "vq": (
        "model=vq", "model.hidden_dims=[2,2]", "model.codes=4", "model.code_dim=2", "loss=vq", "tracker=none",
        "evaluator=[codes]",
    ),
    "two_layer": (
        "model=two_layer", "model.latent_dims=[3,2]", "model.hidden_dims=[4]", "model.upper_hidden_dims=[4]",
        "loss=iwae", "loss.num_samples=2", *QUIET,
    ),
    "conditional": ("model=conditional", "model.hidden_dims=[4]", *QUIET),
    "vamp": ("model/prior=vamp", "model.prior.components=3", "model.hidden_dims=[4]", "loss=beta_vae", *QUIET),
}  # fmt: skip
EVALUATION = {  # of the other runs as of `mlp`
    "mlp": ("evaluator=[elbo,nll]", "evaluator.nll.num_importance_samples=20", "device=cpu"),
    "vq": ("evaluator=[elbo,codes]", "device=cpu"),
}
SWEEP = ("--multirun", "model.latent_dim=1,2", "seed=0,1", "model.hidden_dims=[4]", "sweep.name=stored", *QUIET)
DISCARDED = (".lock", "train.log")


class _Interruption(logging.Handler):
    """Sends this process SIGINT when the first epoch of a run has been logged."""

    def __init__(self, run: int) -> None:
        super().__init__()
        self.remaining = run

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(("Epoch 1/", "Epoch [1 /")):
            self.remaining -= 1
            if not self.remaining:
                os.kill(os.getpid(), signal.SIGINT)


def _train(interrupted_run: int, *arguments: str) -> None:
    """Train in a process of its own; interrupt its nth run (0: none)."""
    environment = {
        **os.environ, "WANDB_HOST": "example", "WANDB_X_DISABLE_META": "true", "WANDB_X_DISABLE_STATS": "true",
        "WANDB_USERNAME": "example", "WANDB_PROGRAM": "train", "WANDB_DISABLE_GIT": "true",
    }  # fmt: skip
    command = [sys.executable, __file__, "--train", str(interrupted_run), *arguments, *COMMON]
    code = subprocess.run(command, env=environment, check=False).returncode
    if code != (130 if interrupted_run else 0):
        raise SystemExit(f"{arguments} ended with {code}")


def _train_here(interrupted_run: str, *arguments: str) -> None:
    import vae_exp.train

    logging.getLogger("vae_exp").addHandler(_Interruption(int(interrupted_run)))
    sys.argv = ["vae_exp.train", *arguments]
    vae_exp.train.main()


def describe_computer() -> dict[str, str]:
    """What the last bits of a run on the CPU depend on."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return {
        "torch": torch.__version__.split("+")[0],
        "architecture": platform.machine(),
        "vendor": next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), ""),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _rows(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if not key.startswith("time/") and key != "crc32"}
        for row in rows
    ]


def _expectation(run: Path) -> dict[str, Any]:
    """Values of a complete run: its metrics, and each of its last weights by digest and norm."""
    import torch

    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    result = json.loads((run / "result.json").read_text())
    return {
        "computer": describe_computer(),
        "metrics": _rows(run),
        "result": {key: value for key, value in result["metrics"].items() if not key.startswith("time/")},
        "best": result["best"],
        "weights": {
            name: {
                "sha256": hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest(),
                "norm": float(value.double().norm()),
            }
            for name, value in state["vae"].items()
        },
    }


def _evaluate(run: Path) -> dict[str, float]:
    """Values of the best checkpoint of a run on the test images, computed in a copy."""
    copy = Path(shutil.copytree(run, f"{run}_evaluated"))
    arguments = EVALUATION.get(run.name, EVALUATION["mlp"])
    subprocess.run([sys.executable, "-m", "vae_exp.evaluate", f"run={copy}", *arguments], check=True)
    metrics: dict[str, float] = json.loads((copy / "evaluation" / "test-best.json").read_text())["metrics"]
    return metrics


def _archive(path: Path, members: dict[str, Path], expected: dict[str, Any]) -> None:
    """Write files and folders under the names given, and `expected.json`, to one archive."""
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:xz") as archive:
        for name, source in {**members, "expected.json": Path("expected.json")}.items():
            archive.add(source, name, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return None if Path(member.name).name in DISCARDED else member


def _write_run(name: str, target: Path) -> None:
    _train(1, *RUNS[name], f"hydra.run.dir={name}")
    _train(0, *RUNS[name], "tracker=none", f"hydra.run.dir={name}_complete")
    segments = Path("wandb").glob("offline-run-*/*.wandb") if name == "mlp" else ()
    members = {name: Path(name), **{str(segment): segment for segment in segments}}
    expected = {**_expectation(Path(f"{name}_complete")), "evaluation": _evaluate(Path(name))}
    _archive(target / f"{name}.tar.xz", members, expected)


def _write_sweep(target: Path) -> None:
    _train(4, *SWEEP)
    stored = Path(shutil.copytree("multirun/stored", "stored"))
    interrupted = max(result.parent.name for result in stored.glob("*/result.json"))
    best = min(result.parent.name for result in stored.glob("*/result.json"))  # latent_dim=1, seed=0
    for checkpoint in stored.glob("*/checkpoints/*.pt"):  # no command reads those of other jobs
        if checkpoint.parts[1] not in (interrupted, best):
            checkpoint.unlink()
    _train(0, *SWEEP)
    expected = {"job": interrupted, **_expectation(Path("multirun/stored", interrupted))}
    _archive(target / "sweep.tar.xz", {"multirun/stored": stored}, expected)


def main(commit: str, *names: str) -> None:
    target = Path(__file__).parent / commit
    for name in names or (*RUNS, "sweep"):
        if name == "sweep":
            _write_sweep(target)
        else:
            _write_run(name, target)


if __name__ == "__main__":
    if sys.argv[1] == "--train":
        _train_here(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
