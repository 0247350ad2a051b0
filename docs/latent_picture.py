"""An animated picture of the page of latent spaces, of a run with two units: `latent_picture.py RUN [FILE]`.

docs/how_to/latent_space.webp shows this one:

    OMP_NUM_THREADS=1 python -m vae_exp.train model.latent_dim=2 trainer.max_train_images=10000 \
        trainer.epochs=10 tracker=none hydra.run.dir=outputs/plane
    python docs/latent_picture.py outputs/plane
"""

import argparse
import shutil
import subprocess
import sys
from io import BytesIO
from math import cos, pi, sin
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright
from screenshots import DECODED, OPENED_MILLISECONDS, SILENT

FILE = Path(__file__).parent / "how_to" / "latent_space.webp"
FRAMES = 24
MILLISECONDS = 160  # of a frame
VIEWPORT = {"width": 760, "height": 900}
WIDTH = 640
MARGIN = 4  # around what is shown
RADIUS = 0.27  # of the circle that the pointer runs along, in widths of the plane


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("file", nargs="?", type=Path, default=FILE)
    args = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    command = [sys.executable, "-m", "vae_exp.explore", f"run={args.run}", "open=false", "port=0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert server.stdout is not None
    printed = server.stdout.readline()
    if not printed:  # the command has said why
        sys.exit(server.wait())
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=SILENT)
            page = browser.new_page(viewport=VIEWPORT)
            page.goto(printed.split()[1])
            page.locator(DECODED).first.wait_for(timeout=OPENED_MILLISECONDS)
            first, *others = circle(page)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    options = {"duration": MILLISECONDS, "loop": 0, "quality": 80, "method": 6}
    first.save(args.file, save_all=True, append_images=others, **options)


def circle(page: Any) -> list[Image.Image]:
    """Drag the pointer around the middle of the plane, once: a picture of each step."""
    page.locator(".latent-body").scroll_into_view_if_needed()
    plane = page.locator("canvas.plane").bounding_box()
    frames = []
    for number in range(FRAMES):
        angle = pi / 2 - 2 * pi * number / FRAMES
        x = plane["x"] + plane["width"] * (0.5 + RADIUS * cos(angle))
        y = plane["y"] + plane["height"] * (0.5 - RADIUS * sin(angle))
        page.mouse.move(x, y)
        if number == 0:
            page.mouse.down()
        frames.append(picture(page))
    page.mouse.up()
    return frames


def picture(page: Any) -> Image.Image:
    """The plane and the decoded image."""
    box = page.locator(".latent-body").bounding_box()
    clip = {
        "x": box["x"] - MARGIN,
        "y": box["y"] - MARGIN,
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + 2 * MARGIN,
    }
    with Image.open(BytesIO(page.screenshot(clip=clip))) as image:
        height = round(WIDTH * image.height / image.width)
        return image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
