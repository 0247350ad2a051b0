from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vae_exp.benchmark.candidates import candidate_specs
from vae_exp.benchmark.matmul_floor import linear_layers
from vae_exp.configuration.instantiate import build_loss, build_vae
from vae_exp.data.images import Batch

_FACTORS = {"mm": (0, 1), "addmm": (1, 2)}  # positions of the factors
_OTHERS = {"bmm", "baddbmm", "addmv", "mv", "dot", "linear", "matmul", "convolution"}


class Products(TorchDispatchMode):
    """Counts the matrix products that torch really computes, by rows, inner size and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, int, int]] = Counter()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.operations[name] += 1
        if name in _FACTORS:
            left, right = (args[position] for position in _FACTORS[name])
            self.shapes[(left.shape[0], left.shape[1], right.shape[1])] += 1
        return func(*args, **(kwargs or {}))


def built(case, name):
    return candidate_specs(case, ["eager"], ["fp32", "bf16"])[name].build()


def test_the_floor_has_the_products_of_a_training_step_and_no_others(case):
    engine, floor = built(case, "engine/eager/fp32"), built(case, "floor/fp32")
    engine.run_steps(2)
    with Products() as of_engine:
        engine.run_steps(1)
    assert not _OTHERS & set(of_engine.operations)
    with Products() as of_floor:
        floor.run_steps(1)
    assert of_floor.shapes == of_engine.shapes
    # 64-40-20-(2·2) and 2-20-40-64: six layers, three products each, less the gradient of the images
    assert of_floor.shapes.total() == 3 * 6 - 1
    assert of_floor.shapes[50, 64, 40] >= 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_burst_of_the_floor_multiplies_and_does_nothing_else(case, precision):
    floor = built(case, f"floor/{precision}")
    with Products() as counted:
        assert floor.run_steps(3) == 3 * 50
    assert counted.operations == {"mm": 3 * 17}


def test_its_factors_are_those_of_a_real_step(case, generator):
    vae = build_vae(case.config["model"], case.images.image_shape)
    loss = build_loss(case.config["loss"], vae, case.images.image_shape)
    images = case.images.batch(slice(0, 50)).images
    state = generator.get_state()
    layers = linear_layers(vae, loss, images, generator)
    assert all(weight.grad is None for weight in vae.parameters())
    assert [layer.passes_on for layer in layers] == [False] + [True] * 5
    assert torch.equal(layers[0].inputs, images.flatten(1))
    generator.set_state(state)
    loss(vae, Batch(images), generator).loss.sum().backward()
    modules = [module for module in vae.modules() if isinstance(module, torch.nn.Linear)]
    for module, layer in zip(modules, layers, strict=True):
        assert layer.weight.data_ptr() == module.weight.data_ptr()
        (left, right) = layer.products()[1]
        torch.testing.assert_close(left @ right, module.weight.grad)


@pytest.mark.cuda
def test_on_cuda_a_recording_of_the_same_products_is_replayed(make_cases):
    [case] = make_cases("batch_size=[50]", device=torch.device("cuda"))
    floor = built(case, "floor/fp32")
    for _, _, result in floor._products:
        result.zero_()
    floor.run_steps(1)
    for left, right, result in floor._products:
        torch.testing.assert_close(result, left @ right, rtol=1e-3, atol=1e-2)
