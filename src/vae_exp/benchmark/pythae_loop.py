"""pythae's trainer to compare with, where pythae is installed: the same net over pythae's own DataLoader."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vae_exp.benchmark.baselines import PlainNet


def runs_pythae(device: torch.device) -> bool:
    """Whether pythae is installed and trains on the device."""
    return device.type in ("cpu", "cuda") and find_spec("pythae") is not None


class PythaeLoop:
    """Bursts of `pythae.trainers.BaseTrainer.train_step` (pythae 0.1.2), which trains for an epoch.

    For pythae an epoch is a burst, and the next one begins where it ended. The DataLoader, the model with its loss
    (the mean of a batch) and the loop, which waits for the loss of every step, are pythae's. Its progress bar, its
    logs and its checkpoints are left out.

    Args:
        net: On the device; pythae's encoder and decoder call its layers.
        optimizer: Over its parameters, instead of the one that pythae would make.
        images: `[N, channels, height, width]` in host memory, a whole number of batches.
        batch_size: Images per step.
    """

    def __init__(self, net: PlainNet, optimizer: Optimizer, images: Tensor, batch_size: int) -> None:
        from pythae.data.datasets import BaseDataset
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
        from pythae.trainers.training_callbacks import CallbackHandler

        logging.getLogger("pythae.trainers.base_trainer.base_trainer").setLevel(logging.WARNING)
        self._net, self._batch_size = net, batch_size
        self._device = net.mean.weight.device
        config = BaseTrainerConfig(per_device_train_batch_size=batch_size, no_cuda=self._device.type != "cuda")
        with self._on_device():
            self._trainer = BaseTrainer(
                pythae_vae(net, images), BaseDataset(images, torch.zeros(len(images))), training_config=config
            )
        self._trainer.optimizer = optimizer
        self._trainer.callback_handler = CallbackHandler([], self._trainer.model)
        self._trainer.train_loader = self._burst = _Burst(self._trainer.train_loader)

    def run_steps(self, count: int) -> int:
        """Train on the next batches; the number of images."""
        self._burst.steps = count
        with self._on_device():
            self._trainer.train_step(epoch=1)
        return count * self._batch_size

    def _on_device(self) -> AbstractContextManager[Any]:
        """Pythae trains on the current CUDA device."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()


class _Burst:
    """The next batches of a DataLoader as an epoch of `steps` batches."""

    def __init__(self, loader: Any) -> None:
        self.dataset, self.steps = loader.dataset, 0
        self._batches = _repeat(loader)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return islice(self._batches, self.steps)


def _repeat(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def pythae_vae(net: PlainNet, images: Tensor) -> Any:
    """Pythae's `VAE` with the layers of a net, for images `[N, channels, height, width]`."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.mean, self.log_variance = net.encoder, net.mean, net.log_variance

        def forward(self, x: Tensor) -> Any:
            hidden = self.hidden(x.flatten(1))
            return ModelOutput(embedding=self.mean(hidden), log_covariance=self.log_variance(hidden))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.image = net.decoder, net.image

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(
                reconstruction=torch.sigmoid(self.image(self.hidden(z))).view(-1, *images.shape[1:])
            )

    config = VAEConfig(
        input_dim=tuple(images.shape[1:]), latent_dim=net.mean.out_features, reconstruction_loss="bce"
    )
    return VAE(config, Encoder(), Decoder())
