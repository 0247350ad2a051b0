import pytest
import torch

from vae_exp.engine.device import device_name, resolve_device
from vae_exp.errors import UserError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be a machine with so many CUDA devices, and with or without MPS."""

    def pretend(cuda: int, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda:0"), (2, True, "cuda:0")]
)
def test_auto_takes_cuda_then_mps_then_the_cpu(machine, cuda: int, mps: bool, expected: str):
    machine(cuda, mps)
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_is_refused_where_there_is_none(machine, name: str):
    machine(0)
    with pytest.raises(UserError, match=rf"^trainer\.device={name}: .*no CUDA device.*use cpu or auto"):
        resolve_device(name)


def test_a_refusal_of_cuda_points_to_mps_where_that_exists(machine):
    machine(0, mps=True)
    with pytest.raises(UserError, match="use mps or auto"):
        resolve_device("cuda")


@pytest.mark.parametrize("index", [2, 5])
def test_a_cuda_index_beyond_the_last_is_refused_with_the_range(machine, index: int):
    machine(2)
    told = rf"^trainer\.device=cuda:{index}: there are 2 CUDA devices, cuda:0 to cuda:1\.$"
    with pytest.raises(UserError, match=told):
        resolve_device(f"cuda:{index}")


def test_a_cuda_device_has_its_index_which_events_and_nccl_need(machine):
    machine(2)
    assert resolve_device("cuda") == torch.device("cuda:0")


def test_the_last_cuda_index_is_taken(machine):
    machine(2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["cuda:256", "cuda:255", "cpu:256"])
def test_an_index_that_torch_would_wrap_around_is_refused(machine, name: str):
    machine(2)
    with pytest.raises(UserError, match=rf"^trainer\.device={name} "):
        resolve_device(name)


def test_mps_is_refused_where_there_is_none(machine):
    machine(0)
    with pytest.raises(UserError, match=r"^trainer\.device=mps: .*no MPS device"):
        resolve_device("mps")


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:", "cuda:x", "cuda:-1", "0", "meta", "xpu"])
def test_a_name_that_is_none_of_the_known_is_refused(name: str):
    with pytest.raises(
        UserError, match=r"^trainer\.device=.* is not a device; use auto, cpu, mps, cuda or cuda:N"
    ):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_the_cpu_is_always_there(name: str):
    assert resolve_device(name).type == "cpu"


def test_a_second_cpu_is_refused():
    with pytest.raises(UserError, match=r"^trainer\.device=cpu:1: there is one CPU device; use cpu\.$"):
        resolve_device("cpu:1")


def test_the_cpu_is_described_by_its_name():
    assert device_name(torch.device("cpu")) == "cpu"


def test_a_cuda_device_is_described_with_its_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"model of {device}")
    assert device_name(torch.device("cuda:1")) == "cuda:1 (model of cuda:1)"


@pytest.mark.cuda
def test_a_real_cuda_device_is_chosen_and_described():
    device = resolve_device("auto")
    assert device.type == "cuda"
    assert torch.cuda.get_device_name(0) in device_name(device)
