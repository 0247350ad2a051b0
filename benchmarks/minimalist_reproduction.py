"""What does a plain loop reach that shares nothing with this package, by the recipes of `minimalist_vae…`?

    python benchmarks/minimalist_reproduction.py SEED

Trains 10 epochs on grey pixels with 2 latent units, then 30 epochs on pixels drawn in every step with 20; prints
the training loss of a batch of 100 after each epoch and the scores of the test images after the last. MNIST is in
data/.
"""

import math
import sys

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.datasets import MNIST

BATCH, SCORED, SAMPLES = 100, 2000, 500


class MinimalistVAE(nn.Module):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 500)
        self.mean, self.log_variance = nn.Linear(500, latent_dim), nn.Linear(500, latent_dim)
        self.decoder = nn.Sequential(nn.Linear(latent_dim, 500), nn.ReLU(), nn.Linear(500, 784))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(images).relu()
        return self.mean(hidden), self.log_variance(hidden)

    def cross_entropy(self, latents: Tensor, images: Tensor) -> Tensor:
        logits = self.decoder(latents)
        return binary_cross_entropy_with_logits(logits, images.expand_as(logits), reduction="none").sum(-1)

    def negative_elbo(self, images: Tensor) -> Tensor:
        mean, log_variance = self.encode(images)
        latents = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        rate = (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1) / 2
        return self.cross_entropy(latents, images) + rate

    def nll(self, images: Tensor) -> Tensor:
        mean, log_variance = self.encode(images)
        noise = torch.randn(SAMPLES, *mean.shape)
        latents = mean + (log_variance / 2).exp() * noise
        log_weights = (noise**2 - latents**2 + log_variance).sum(-1) / 2 - self.cross_entropy(latents, images)
        return math.log(SAMPLES) - log_weights.logsumexp(0)


def train(name: str, latent_dim: int, epochs: int, *, binarized: bool) -> None:
    grey, test = (MNIST("data", train=train).data.flatten(1) / 255 for train in (True, False))
    test = torch.bernoulli(test) if binarized else test
    vae = MinimalistVAE(latent_dim)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, weight_decay=1e-5)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for rows in torch.randperm(len(grey)).split(BATCH):
            images = torch.bernoulli(grey[rows]) if binarized else grey[rows]
            optimizer.zero_grad()
            loss = vae.negative_elbo(images).sum()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"{name}: epoch {epoch}, {total / len(grey) * BATCH:.2f} a batch", flush=True)
    with torch.no_grad():
        bound = vae.negative_elbo(test).mean()
        nll = torch.cat([vae.nll(images) for images in test[:SCORED].split(20)]).mean()
    print(f"{name}: test −ELBO {bound:.2f}, NLL of {SCORED} images by {SAMPLES} samples {nll:.2f}", flush=True)


def main() -> None:
    torch.manual_seed(int(sys.argv[1]))
    train("grey", 2, 10, binarized=False)
    train("binarized", 20, 30, binarized=True)


if __name__ == "__main__":
    main()
