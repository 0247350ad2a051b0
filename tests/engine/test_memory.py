from types import SimpleNamespace

import pytest
import torch

from tests.builders import SHAPE, bernoulli_vae
from vae_exp.engine import device as memory
from vae_exp.engine.device import check_memory, count_step_bytes, oom_error
from vae_exp.errors import UserError
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.multi_sample import IWAE

CPU = torch.device("cpu")
ADVICE = "use a smaller batch, a smaller model, trainer.precision=bf16, or data.resident=false."


def _real_cpu_error() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**48, dtype=torch.uint8)  # more than any address space has
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        _real_cpu_error(),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["cuda", "python", "cpu", "runtime", "cublas"],
)
def test_running_out_of_memory_is_told_with_the_keys_that_help(error: BaseException):
    told = oom_error(error, 4096, CPU)
    assert isinstance(told, UserError)
    assert "cpu ran out of memory" in str(told)
    assert f"with trainer.batch_size=4096; {ADVICE}" in str(told)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("memory")])
def test_other_errors_are_not_about_memory(error: Exception):
    assert oom_error(error, 4096, CPU) is None


def test_free_memory_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 3 * 2**29)
    assert "cpu ran out of memory (1.50 GiB free) with" in str(oom_error(MemoryError(), 8, CPU))


def test_free_memory_that_is_not_known_is_not_told():
    told = str(oom_error(MemoryError(), 8, torch.device("mps")))
    assert told == f"mps ran out of memory with trainer.batch_size=8; {ADVICE}"


def test_of_a_gpu_it_is_told_how_much_there_is_and_how_much_the_run_holds(monkeypatch: pytest.MonkeyPatch):
    properties = SimpleNamespace(total_memory=8 * 2**30)
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**28)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 7 * 2**30)
    told = str(oom_error(torch.cuda.OutOfMemoryError("CUDA out of memory"), 8, torch.device("cuda:0")))
    assert "cuda:0 ran out of memory (0.25 GiB free of 8.00 GiB, 7.00 GiB held by this run) with" in told


@pytest.mark.cuda
def test_a_gpu_that_runs_out_of_memory_is_known():
    device = torch.device("cuda", 0)
    with pytest.raises(torch.cuda.OutOfMemoryError) as caught:
        torch.empty(2**46, dtype=torch.uint8, device=device)
    told = str(oom_error(caught.value, 8, device))
    assert told.startswith("cuda:0 ran out of memory (")
    assert ADVICE in told


# What a step takes


@pytest.mark.parametrize("loss", [ELBO(), IWAE(50)], ids=["elbo", "iwae"])
def test_the_bytes_of_a_step_are_those_that_a_real_one_keeps(loss: ELBO | IWAE):
    vae, kept = bernoulli_vae(3), {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        terms = loss(vae, torch.rand(16, *SHAPE), torch.Generator())
    assert terms.loss.requires_grad
    assert count_step_bytes(loss, vae, SHAPE, 16) == sum(kept.values())


def test_a_step_that_no_device_can_hold_is_refused_and_a_large_one_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    vae = bernoulli_vae(3)
    with pytest.raises(
        UserError, match=r"trainer.batch_size=8, loss.num_samples=10000000000 keeps .* GiB for its"
    ):
        check_memory(IWAE(10**10), vae, SHAPE, 8, CPU)
    needed = count_step_bytes(IWAE(5), vae, SHAPE, 8)
    assert needed is not None
    for total, told in ((5 * needed, False), (2 * needed, True)):
        monkeypatch.setattr(memory, "_total_memory", lambda device, total=total: total)
        check_memory(IWAE(5), vae, SHAPE, 8, CPU)
        assert ("It may take minutes" in caplog.text) is told
    monkeypatch.setattr(memory, "_total_memory", lambda device: needed - 1)
    with pytest.raises(UserError, match="Use a smaller batch"):
        check_memory(IWAE(5), vae, SHAPE, 8, CPU)


def test_a_loss_that_needs_values_is_not_counted():
    def loss(vae, images, generator):
        images.sum().item()
        return ELBO()(vae, images, generator)

    assert count_step_bytes(loss, bernoulli_vae(3), SHAPE, 8) is None
