"""Which difference between the authors' code and the recipe of the row `burda_vae_k1` moves its figure?

    python benchmarks/burda_reproduction.py RUN EPOCHS [SEED] [DIFFERENCE…]

A plain loop that does what the row does, or what the authors' code does (github.com/yburda/iwae, 78a6075) where a
difference is named; `all` names them all, `draws` alone is the estimator of the paper's section 5. RUN is a run of
`experiment=burda_vae`, which gives the images and the net that is scored, at the ends of the longer stages. SEED
is 0 by default.

Two differences are left out: the code rounds its learning rates to two digits, and adds Adam's ε before the
correction of the moments.
"""

import math
import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, linear

import vae_exp
from vae_exp.data.images import ImageSet
from vae_exp.evaluation.active_units import UnitsEvaluator
from vae_exp.evaluation.nll import NLLEvaluator
from vae_exp.model.vae import VAE

DIFFERENCES = {
    "draws": "log q(z|x) − log p(z) at the drawn z, the paper's equation 7, not the rate in closed form",
    "order": "the same batches in every epoch",
    "moments": "Adam with β₁ = 0.99, and second moments that start at 1",
    "log_std": "the head gives log σ, not log σ²",
    "same_draws": "the weights of all layers are drawn from the same random state",
    "fewer": "the last 400 training images are left out",
}
BATCH, STAGES = 20, 8
SHAPES = [(200, 784), (200, 200), (50, 200), (50, 200), (200, 50), (200, 200), (784, 200)]  # mean, then deviation


def main() -> None:
    run = vae_exp.load_run(sys.argv[1])
    epochs, *words = sys.argv[2:]
    seed = next((int(word) for word in words if word.isdecimal()), 0)
    chosen = {word for word in words if not word.isdecimal()}
    chosen = set(DIFFERENCES) if "all" in chosen else chosen
    if not chosen <= set(DIFFERENCES):
        sys.exit(f"The differences are {', '.join(DIFFERENCES)}, or all.")
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    pixels = run.data.train.pixels[:].flatten(1)
    pixels = (pixels[:-400] if "fewer" in chosen else pixels).float() / run.data.train.pixel_max
    parameters = initial(pixels.mean(dim=0), chosen)
    stage_ends = {sum(3**stage for stage in range(stages)) for stages in range(4, STAGES)}
    for epoch, rate in enumerate(learning_rates(int(epochs)), start=1):
        train_epoch(parameters, pixels, rate, chosen)
        if epoch in stage_ends or epoch == int(epochs):
            load(run.vae, parameters, chosen)
            print(
                f"{' '.join(sorted(chosen)) or 'as the row'}: epoch {epoch}, {scores(run.vae, run.data.test)}",
                flush=True,
            )


def scores(vae: VAE, images: ImageSet) -> str:
    evaluators = NLLEvaluator(500, 2000, None, None), UnitsEvaluator(0.01, 1000, None)
    found = {}
    for evaluator in evaluators:
        found |= dict(evaluator.run(vae, images, torch.Generator().manual_seed(0)))
    return ", ".join(f"{name} {found[name]:.3f}" for name in ("nll", "nll_monte_carlo_se", "active_units"))


def learning_rates(epochs: int) -> Iterator[float]:
    """Of each epoch: 3^i of 0.001 · 10^(−i/7), for i = 0 … 7."""
    rates = (0.001 * 10 ** (-stage / 7) for stage in range(STAGES) for _ in range(3**stage))
    return (rate for rate, _ in zip(rates, range(epochs), strict=False))


class Parameters:
    """The weights and biases of `SHAPES` as views of one tensor, and its optimizer."""

    def __init__(self, chosen: set[str]) -> None:
        flat = torch.zeros(sum(rows * columns + rows for rows, columns in SHAPES))
        flat.grad = torch.zeros_like(flat)
        self.grad = flat.grad
        self.optimizer = torch.optim.Adam(
            [flat], betas=(0.99 if "moments" in chosen else 0.9, 0.999), eps=1e-4, fused=True
        )
        if "moments" in chosen:
            zeros, ones = torch.zeros_like(flat), torch.ones_like(flat)
            self.optimizer.state[flat] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": ones}
        values, gradients = _views(flat), _views(flat.grad)
        for value, gradient in zip(values, gradients, strict=True):
            value.requires_grad_().grad = gradient
        self.layers = list(zip(values[::2], values[1::2], strict=True))


def _views(flat: Tensor) -> list[Tensor]:
    shapes = [shape for rows, columns in SHAPES for shape in ((rows, columns), (rows,))]
    parts = flat.detach().split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def initial(mean_image: Tensor, chosen: set[str]) -> Parameters:
    parameters = Parameters(chosen)
    with torch.no_grad():
        for weight, _ in parameters.layers:
            rows, columns = weight.shape
            most = math.sqrt(6 / (rows + columns))
            if "same_draws" in chosen:
                drawn = np.random.RandomState(123).uniform(-most, most, size=(columns, rows))
                weight.copy_(torch.from_numpy(drawn.T))
            else:
                weight.uniform_(-most, most)
        parameters.layers[-1][1].copy_(mean_image.clamp(0.001, 0.999).logit())
    return parameters


def train_epoch(parameters: Parameters, pixels: Tensor, rate: float, chosen: set[str]) -> None:
    count = len(pixels)
    parameters.optimizer.param_groups[0]["lr"] = rate
    order = torch.arange(count) if "order" in chosen else torch.randperm(count)
    for part in order.split(100 * BATCH):
        grey = pixels[part]
        for images in (torch.rand_like(grey) < grey).float().split(BATCH):
            parameters.grad.zero_()
            loss(parameters, images, chosen).backward()
            parameters.optimizer.step()


def loss(parameters: Parameters, images: Tensor, chosen: set[str]) -> Tensor:
    first, second, mean_layer, deviation_layer, third, fourth, output = parameters.layers
    hidden = linear(linear(images, *first).tanh(), *second).tanh()
    mean, log_std = linear(hidden, *mean_layer), linear(hidden, *deviation_layer)
    log_std = log_std if "log_std" in chosen else log_std / 2
    noise = torch.randn_like(mean)
    latents = mean + log_std.exp() * noise
    logits = linear(linear(linear(latents, *third).tanh(), *fourth).tanh(), *output)
    distortion = binary_cross_entropy_with_logits(logits, images, reduction="sum")
    if "draws" in chosen:
        return distortion + (latents.square() / 2 - noise.square() / 2 - log_std).sum()
    return distortion + ((mean.square() + (2 * log_std).exp() - 1) / 2 - log_std).sum()


@torch.no_grad()
def load(vae: VAE, parameters: Parameters, chosen: set[str]) -> None:
    """Put the weights into a net of the framework, whose head gives means and log variances."""
    first, second, mean, deviation, *decoder = parameters.layers
    scale = 2 if "log_std" in chosen else 1
    head = tuple(torch.cat([m, scale * d]) for m, d in zip(mean, deviation, strict=True))
    values = [value for layer in (first, second, head, *decoder) for value in layer]
    vae.load_state_dict(dict(zip(vae.state_dict(), values, strict=True)))


if __name__ == "__main__":
    main()
