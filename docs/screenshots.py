"""Pictures of every page of the dashboard, at two sizes, in both themes: `screenshots.py [ROOT] [FOLDER]`.

ROOT, by default `multirun/widths`, is searched for W&B runs; those in docs/screenshots show this sweep on MNIST,
with test scores:

    python -m vae_exp.train --multirun hydra/launcher=pool sweep.name=widths model.latent_dim=2,8,20 \
        'model.hidden_dims=[200],[500]' seed=0,1 trainer.max_train_images=6000 trainer.epochs=10 \
        'evaluator=[figures,units]' evaluator.figures.every_n_epochs=2 evaluator.units.every_n_epochs=2
    python -m vae_exp.evaluate run=multirun/widths 'evaluator=[elbo]'
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import sync_playwright

SIZES = {"wide": (1280, 800), "phone": (390, 844)}
VIEWS = {
    "runs": {"page": "runs", "sort": "-val/elbo"},
    "groups": {"page": "runs", "group": "model.latent_dim", "sort": "-val/elbo"},
    "charts": {"page": "charts", "group": "1"},
    "sweep": {"page": "sweep"},
    "images": {"page": "images", "picture": "figures/samples", "filter": "seed=0"},
    "compare": {"page": "compare", "filter": "seed=0"},
    "run": {"page": "run"},
    "latent": {"page": "latent", "image": "2"},
}
FIRST_RUNS = "() => filteredRuns().slice(0, 4).map((run) => run.key)"  # of the view before: same filter
SEPARATOR = "\x1f"  # of the names in an address
DECODED = ".pair canvas[data-latents]"  # an image of the page of latent spaces
SILENT = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SETTLED_MILLISECONDS = 2500
OPENED_MILLISECONDS = 60_000  # a run, by a process that imports torch


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path("multirun/widths"), metavar="ROOT")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "screenshots")
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    command = [sys.executable, "-m", "vae_exp.dashboard", str(args.root), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert server.stdout is not None
    printed = server.stdout.readline()
    if not printed:  # the dashboard has said why
        sys.exit(server.wait())
    address = printed.split()[1]
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=SILENT)
            for size, (width, height) in SIZES.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                picture(page, address, args.folder, size)
            dark = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="dark")
            picture(dark, address, args.folder, "dark")
            browser.close()
    finally:
        server.terminate()
        server.wait()


def picture(page: Any, address: str, folder: Path, suffix: str) -> None:
    """Every view, once."""
    for name, view in VIEWS.items():
        state = view
        if name == "compare":
            state = view | {"compare": SEPARATOR.join(page.evaluate(FIRST_RUNS))}
        page.goto(f"{address}#{urlencode(state)}")
        if name == "latent":
            page.locator(DECODED).first.wait_for(timeout=OPENED_MILLISECONDS)
        page.wait_for_timeout(SETTLED_MILLISECONDS)
        path = folder / f"{name}-{suffix}.png"
        page.screenshot(path=path)
        with Image.open(path) as image:
            image.convert("RGB").save(path, optimize=True)


if __name__ == "__main__":
    main()
