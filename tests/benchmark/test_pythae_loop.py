"""On a stand-in for what is used of pythae 0.1.2, and on pythae itself where it is installed."""

import sys
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy
from torch.utils.data import DataLoader

from vae_exp.benchmark.candidates import PYTHAE, candidate_specs

NAMES = ["plain", "tensor_loop", "pythae", "engine/eager/fp32", "floor/fp32"]


class ModelOutput(dict):
    __getattr__ = dict.__getitem__


class BaseDataset:
    def __init__(self, data, labels):
        self.data, self.labels = data, labels

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return {"data": self.data[index], "labels": self.labels[index]}


class Network(nn.Module):
    pass


@dataclass
class VAEConfig:
    input_dim: tuple
    latent_dim: int
    reconstruction_loss: str = "mse"


class VAE(nn.Module):
    def __init__(self, model_config, encoder, decoder):
        super().__init__()
        self.model_config, self.encoder, self.decoder = model_config, encoder, decoder

    def forward(self, inputs, **kwargs):
        x = inputs["data"]
        codes = self.encoder(x)
        mean, log_variance = codes.embedding, codes.log_covariance
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        pixels = self.decoder(z)["reconstruction"].reshape(len(x), -1)
        assert self.model_config.reconstruction_loss == "bce"
        cross_entropy = binary_cross_entropy(pixels, x.reshape(len(x), -1), reduction="none").sum(-1)
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp(), dim=-1)
        return ModelOutput(loss=(cross_entropy + kl).mean())


class CallbackHandler:
    def __init__(self, callbacks, model):
        assert callbacks == []

    def call(self, training_config, **kwargs):
        pass

    on_train_step_begin = on_train_step_end = call


class BaseTrainer:
    def __init__(self, model, train_dataset, eval_dataset=None, training_config=None, callbacks=None):
        assert training_config.no_cuda
        self.training_config, self.model = training_config, model
        batch_size = training_config.per_device_train_batch_size
        self.train_loader = DataLoader(train_dataset, batch_size=batch_size, shuffle=True)
        self.model(next(iter(self.train_loader)))

    def train_step(self, epoch):
        self.callback_handler.on_train_step_begin(
            self.training_config, train_loader=self.train_loader, epoch=epoch
        )
        self.model.train()
        epoch_loss = 0
        for inputs in self.train_loader:
            output = self.model(inputs, epoch=epoch, dataset_size=len(self.train_loader.dataset))
            self.optimizer.zero_grad()
            output.loss.backward()
            self.optimizer.step()
            epoch_loss += output.loss.item()
            self.callback_handler.on_train_step_end(training_config=self.training_config)
        return epoch_loss / len(self.train_loader)


@pytest.fixture
def pythae(monkeypatch):
    if find_spec("pythae") is not None:
        return
    for name, contents in {
        "pythae": {"__spec__": ModuleSpec("pythae", None)},
        "pythae.data.datasets": {"BaseDataset": BaseDataset},
        "pythae.models": {"VAE": VAE, "VAEConfig": VAEConfig},
        "pythae.models.base.base_utils": {"ModelOutput": ModelOutput},
        "pythae.models.nn": {"BaseEncoder": Network, "BaseDecoder": Network},
        "pythae.trainers": {"BaseTrainer": BaseTrainer, "BaseTrainerConfig": SimpleNamespace},
        "pythae.trainers.training_callbacks": {"CallbackHandler": CallbackHandler},
    }.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(("device", "is_listed"), [("cpu", True), ("mps", False)])
def test_it_is_a_candidate_where_pythae_is_installed_and_has_the_device(case, pythae, device, is_listed):
    names = list(candidate_specs(replace(case, device=torch.device(device)), ["eager"], ["fp32"]))
    assert names == [name for name in NAMES if is_listed or name != PYTHAE]


@pytest.mark.skipif(find_spec("pythae") is not None, reason="pythae is installed")
def test_it_is_none_elsewhere(case):
    assert PYTHAE not in candidate_specs(case, ["eager"], ["fp32"])


def test_bursts_train_the_net_on_every_image_once_an_epoch(case, pythae, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    loop = candidate_specs(case, ["eager"], ["fp32"])[PYTHAE].build()
    weights = [weight.clone() for weight in loop._net.parameters()]
    batches = []
    loop._trainer.model.register_forward_pre_hook(lambda model, inputs: batches.append(inputs[0]["data"]))
    bursts = (1, 20, 35, 16)  # three epochs of 24
    assert [loop.run_steps(count) for count in bursts] == [50 * count for count in bursts]
    assert [batch.shape for batch in batches] == [(50, 1, 8, 8)] * 72
    x = case.images.batch().images
    shown = torch.cat(batches).flatten(1)
    for epoch in shown.split(1200):
        assert torch.equal(epoch.sort(0).values, x.flatten(1).sort(0).values)
    assert not torch.equal(shown[:1200], shown[1200:2400])
    assert all((before != after).any() for before, after in zip(weights, loop._net.parameters(), strict=True))
    with torch.no_grad():
        error = (loop._net(x.flatten(1))[0] - x.flatten(1)).square().mean()
    assert error < 0.9 * (x - 0.5).square().mean()
    [group] = loop._trainer.optimizer.param_groups
    assert group["fused"]
    assert list(tmp_path.iterdir()) == []
    assert "%" not in capfd.readouterr().err  # no progress bar
