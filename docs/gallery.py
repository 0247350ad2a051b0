"""Every model, prior, likelihood and objective, trained briefly: `gallery.py` writes docs/gallery.md.

    python docs/gallery.py                              # trains what is missing, then writes the page
    python docs/gallery.py --settings iwae gallery_colour/vq    # trains and draws only these
    python docs/gallery.py --page                       # only draws and writes the page

Settings are lines of docs/gallery.yaml. Each is a job of the sweep `gallery` or `gallery_colour` below --root; the
same command again trains those that are missing, and resumes those that were interrupted.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from gallery_strips import write_strip
from sklearn.datasets import load_sample_images

from vae_exp.benchmark.hardware import describe_hardware
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.job_records import NOT_STARTED, JobRecord, read_jobs
from vae_exp.sweep.manifest import job_key

DOCS = Path(__file__).parent
PATCHES = Path("data/gallery_patches.npz")
MAX_BYTES_IN_ALL = 4_000_000
NO_BREAK = "\N{NO-BREAK SPACE}"
_SIZE, _STRIDE, _TRAIN_COLUMNS = 32, 8, 448
INTRODUCTION = """# Gallery

What every kind of model, objective, prior and likelihood makes of the same images after the same short
training: {rows} settings, each with the command that trains it. They show what a choice does, not how good it
can get: a training of [published length](reproductions.md) has 250,000 to ten million steps. Written by

<!-- not run: trains {rows} models, for an hour or two -->

    python docs/gallery.py           # trains what is missing, then writes this page; --help says more

**Budget.** The digits: eight epochs of the first 10,000 training images of MNIST, 800 steps of 100 images,
drawn black and white in every step unless the row is about grey values; 784–500–16–500–784 where the row says
nothing else (`experiment=gallery`). Three rows differ: `hierarchical` takes 4,000 steps of 20 images,
`categorical` trains 50 epochs on scikit-learn's 8×8 digits, which compares with no other row, and `capacity`
has γ = 3: with the 100 of `loss=capacity` so short a training brings the rate to its capacity and leaves the
reconstructions grey. The patches: eight epochs of 5,200 overlapping 32×32 patches of the left of scikit-learn's
two photographs; held out are patches of the right (`experiment=gallery_colour`, whose data the script makes).
The runs took {minutes} minutes in all, each on one thread of a machine that other work shared ({hardware},
torch {torch}): the seconds compare loosely.

**Pictures.** Left: three rows of held-out images, each over its reconstruction from E[z given x]. Middle:
samples, E[x given z] for z from the prior. Right: the latent space. That is a traversal of the six most active
units, from −2 to 2, most active first, for an image with more contrast than three quarters of them; with two
units the posterior means of held-out images, coloured by digit; with codes (`vq`, `fsq`) held-out images over
the grid of their codes, whose colours are their principal components. Samples of codes are noise, because their
prior is uniform.

**Numbers**, over held-out images, in nats an image: −ELBO; NLL, which importance sampling estimates with 100
draws for at most 500 of them (fewer than −ELBO has, so that it can lie above it); bits per pixel and channel,
of NLL or else of −ELBO, where the likelihood is a probability of the images; the rate; active units, or codes
that are used; seconds from the start of the run to its result, scores included. Densities of grey or colour
values (`continuous_bernoulli`, `gaussian…`) may be above one, and their −ELBO below zero. Only rows of one
section whose likelihoods are of one kind can be compared. More: [what the numbers
mean](explanation/what_the_numbers_mean.md), [objectives](explanation/objectives.md), [likelihoods and
models](explanation/likelihoods_and_models.md).
"""
HEAD = "| held-out images and reconstructions; samples; latent space | |\n|---|---|\n"


@dataclass(frozen=True)
class Setting:
    """A row of the page.

    Args:
        experiment: The experiment it varies.
        section: The heading above it.
        name: Unique in its section.
        overrides: Of the experiment.
    """

    experiment: str
    section: str
    name: str
    overrides: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """All overrides, the experiment's included."""
        return [f"experiment={self.experiment}", *self.overrides]

    @property
    def picture(self) -> str:
        """The file name of its picture."""
        return f"{self.experiment}-{self.name}.webp"

    @property
    def command(self) -> str:
        """What a reader types."""
        return " ".join(["python -m vae_exp.train", *(shlex.quote(word) for word in self.words)])


def read_settings(path: Path = DOCS / "gallery.yaml") -> list[Setting]:
    """All rows, in the order of the page."""
    table = yaml.safe_load(path.read_text())
    return [
        Setting(experiment, section, name, tuple(overrides.split()))
        for experiment, sections in table.items()
        for section, rows in sections.items()
        for name, overrides in rows.items()
    ]


def write_patches(path: Path = PATCHES) -> None:
    """Overlapping 32×32 patches of the left of scikit-learn's two photographs; those held out are of the right."""
    photographs = load_sample_images().images
    train = [_patches(image[:, :_TRAIN_COLUMNS], _STRIDE) for image in photographs]
    val = [_patches(image[:, _TRAIN_COLUMNS:], _SIZE) for image in photographs]
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"images": np.concatenate(train), "val_images": np.concatenate(val)}
    labels = {"labels": _labels(train), "val_labels": _labels(val)}
    np.savez(path, **arrays, **labels)


def _patches(image: np.ndarray, stride: int) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(image, (_SIZE, _SIZE), axis=(0, 1))
    patches = windows[::stride, ::stride].transpose(0, 1, 3, 4, 2)
    return patches.reshape(-1, _SIZE, _SIZE, 3)


def _labels(patches: Sequence[np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(len(patches)), [len(part) for part in patches])


def train(settings: Sequence[Setting], root: Path, slots: int) -> int:
    """Run the command of every setting; those that are completed are skipped.

    Returns:
        How many commands failed.

    Args:
        settings: What to train.
        root: Where the sweeps are.
        slots: Commands at once.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(setting: Setting) -> bool:
        directory = f"hydra.sweep.dir={root / setting.experiment}"
        command = [sys.executable, "-m", "vae_exp.train", *setting.words, directory]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        report = "trained" if process.returncode == 0 else process.stderr
        print(f"{setting.experiment}/{setting.name}: {report}", flush=True)
        return process.returncode != 0

    with ThreadPoolExecutor(slots) as pool:
        return sum(pool.map(run, settings))


def started_jobs(settings: Sequence[Setting], root: Path) -> dict[Setting, JobRecord]:
    """The job of every setting that has been started.

    Args:
        settings: The rows.
        root: Where the sweeps are.
    """
    experiments = sorted({setting.experiment for setting in settings})
    jobs = {(name, _key(job.overrides)): job for name in experiments for job in read_jobs(root / name)}
    keys = {setting: (setting.experiment, _key(setting.words)) for setting in settings}
    return {setting: jobs[key] for setting, key in keys.items() if key in jobs}


def _key(overrides: Sequence[str]) -> tuple[str, ...]:
    """What identifies a job; Hydra stores `~key` as `~key=null`."""
    return job_key([word.removesuffix("=null") if word.startswith("~") else word for word in overrides])


def draw_pictures(settings: Sequence[Setting], root: Path, folder: Path = DOCS / "gallery") -> None:
    """Draw the pictures of the settings that are completed.

    Args:
        settings: Which ones.
        root: Where the sweeps are.
        folder: Where the pictures go.
    """
    for setting, job in started_jobs(settings, root).items():
        if job.status == "completed":
            write_strip(root / setting.experiment / job.name, folder / setting.picture)
    size = sum(picture.stat().st_size for picture in folder.glob("*"))
    if size > MAX_BYTES_IN_ALL:
        sys.exit(f"{folder} has {size:,} bytes, more than the {MAX_BYTES_IN_ALL:,} that the pictures may have.")


def write_page(settings: Sequence[Setting], root: Path, page: Path = DOCS / "gallery.md") -> None:
    """Write the page; its pictures are in the folder of its name.

    Args:
        settings: The rows.
        root: Where the sweeps are.
        page: The Markdown file.
    """
    jobs = started_jobs(settings, root)
    text = [_introduction(settings, root, jobs)]
    for section in dict.fromkeys(setting.section for setting in settings):
        text.append(f"\n## {section}\n\n{HEAD}")
        for setting in (row for row in settings if row.section == section):
            text.append(_row(setting, jobs.get(setting, JobRecord("", NOT_STARTED)), page.stem))
    page.write_text("".join(text))


def _row(setting: Setting, job: JobRecord, folder: str) -> str:
    if job.status != "completed":
        return f"| **{setting.name}**<br>`{setting.command}` | {' '.join((job.error or job.status).split())} |\n"
    shown = {name.removeprefix("val/"): value for name, value in job.metrics.items() if name.startswith("val/")}
    bits = shown.get("bits_per_dim", shown.get("negative_elbo_bits_per_dim"))
    numbers = [
        f"−ELBO {_number(shown['negative_elbo'])}",
        f"NLL {_number(shown['nll'])}" if "nll" in shown else "",
        f"{bits:.2f} bits" if bits is not None else "",
        f"rate {shown['rate']:.1f}",
        f"{shown['active_units']:.0f} active"
        if "active_units" in shown
        else f"{shown['codebook_used']:.0f} codes",
        f"{job.seconds:.0f} s",
    ]
    picture = f"![{setting.name}]({folder}/{setting.picture})"
    cell = f"**{setting.name}**<br>{picture}<br>`{setting.command}`"
    return f"| {cell} | {'<br>'.join(filter(None, numbers)).replace(' ', NO_BREAK)} |\n"


def _number(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def _introduction(settings: Sequence[Setting], root: Path, jobs: Mapping[Setting, JobRecord]) -> str:
    completed = {root / row.experiment / job.name: job for row, job in jobs.items() if job.status == "completed"}
    results = [RunDirectory(directory).read_result() for directory in completed]
    versions = {result["versions"]["torch"].partition("+")[0] for result in results if result}
    hardware = describe_hardware(torch.device("cpu"))
    return INTRODUCTION.format(
        rows=len(settings),
        minutes=round(sum(job.seconds or 0 for job in completed.values()) / 60),
        hardware=f"{hardware['cpu']}, {hardware['cores']} cores",
        torch=" and ".join(sorted(versions)) or "not known",
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settings", nargs="+", metavar="NAME", help="names, or experiment/name; default: all")
    parser.add_argument("--root", type=Path, default=Path("multirun"), help="where the runs go")
    parser.add_argument("--slots", type=int, default=2, help="runs at once, each on one thread")
    parser.add_argument("--page", action="store_true", help="train nothing, only draw and write")
    args = parser.parse_args()
    settings = rows = read_settings()
    names = {name for row in rows for name in (row.name, f"{row.experiment}/{row.name}")}
    if unknown := sorted(set(args.settings or ()) - names):
        parser.error(f"--settings {unknown[0]} is not a setting; known are {', '.join(sorted(names))}")
    if args.settings:
        settings = [row for row in rows if {row.name, f"{row.experiment}/{row.name}"} & set(args.settings)]
    if not PATCHES.exists() and any(setting.experiment == "gallery_colour" for setting in settings):
        write_patches()
    failures = 0 if args.page else train(settings, args.root, args.slots)
    draw_pictures(settings, args.root)
    write_page(rows, args.root)
    sys.exit(min(failures, 1))


if __name__ == "__main__":
    main()
