"""The picture at the head of the README, of a run on MNIST with two latent units: `picture.py RUN [FILE]`.

docs/picture.png shows this one:

    python -m vae_exp.train trainer.epochs=20 hydra.run.dir=outputs/picture
    python docs/picture.py outputs/picture
"""

import argparse
from io import BytesIO
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.distributions import Normal

from vae_exp import load_run

SIDE = 12  # images along an edge of a panel
IMAGES = 4000


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).with_name("picture.png"))
    args = parser.parse_args()
    with BytesIO() as drawn:
        draw(args.run).savefig(drawn, dpi=100)
        Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(args.file, optimize=True)


def draw(directory: Path) -> Figure:
    """Images beside their reconstructions, what the latent plane decodes to, and the codes of the images."""
    run = load_run(directory)
    batch = run.data.test.batch(slice(0, IMAGES))
    means = run.vae.encode(batch.images).mean
    figure = Figure(figsize=(9.6, 3.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    pairs = torch.stack([batch.images, run.vae.decode(means).mean], dim=1)[: SIDE * SIDE // 2].flatten(0, 1)
    left.imshow(tile(pairs), cmap="gray_r", vmin=0, vmax=1)
    left.set_title("test images, each with its reconstruction", fontsize=9)
    steps = Normal(0.0, 1.0).icdf((torch.arange(SIDE) + 0.5) / SIDE)
    plane = torch.cartesian_prod(-steps, steps).flip(1)  # the first unit to the right, the second upwards
    middle.imshow(tile(run.vae.decode(plane).mean), cmap="gray_r", vmin=0, vmax=1)
    middle.set_title("what the latent plane decodes to", fontsize=9)
    points = right.scatter(*means.T, c=batch.labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=2, linewidths=0)
    right.set_title("posterior means of test images, by digit", fontsize=9)
    right.set_box_aspect(1)
    figure.colorbar(points, ax=right, ticks=range(10), shrink=0.8)
    for axes in (left, middle, right):
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def tile(images: Tensor) -> Tensor:
    """Images [SIDE², 1, height, width] as one picture."""
    height, width = images.shape[-2:]
    rows = images.reshape(SIDE, SIDE, height, width).transpose(1, 2)
    return rows.reshape(SIDE * height, SIDE * width)


if __name__ == "__main__":
    main()
