import pytest
import torch

from tests.builders import trainer_options
from vae_exp.benchmark.candidates import candidate_specs
from vae_exp.benchmark.hardware import available_precisions
from vae_exp.benchmark.suite import choose_executions, choose_precisions
from vae_exp.configuration.instantiate import build_loss, build_optimizer, build_vae
from vae_exp.engine.progress import NullProgress
from vae_exp.engine.seeding import seed_everything
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.trainer import Trainer
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory

CPU = torch.device("cpu")


def test_every_step_mode_meets_every_precision_and_each_precision_has_its_floor(case):
    assert list(candidate_specs(case, ["eager", "graph"], ["fp32", "bf16"])) == [
        "plain", "tensor_loop",
        "engine/eager/fp32", "engine/graph/fp32", "engine/eager/bf16", "engine/graph/bf16",
        "floor/fp32", "floor/bf16",
    ]  # fmt: skip


def test_a_case_for_each_width_and_batch_size_on_whole_batches(make_cases):
    cases = make_cases("batch_size=[100,500]", "hidden_dims=[[30],[20,10]]")
    sizes = [(case.config["model"]["encoder"]["hidden_dims"], case.batch_size) for case in cases]
    assert sizes == [([30], 100), ([30], 500), ([20, 10], 100), ([20, 10], 500)]
    assert [len(case.images) for case in cases] == [1200, 1000, 1200, 1000]
    assert cases[2].config["model"]["decoder"]["hidden_dims"] == [20, 10]


@pytest.mark.quick(6)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=[100,5000]"], r"batch_size=\[5000\] is larger than the 1200 training images"),
        (["model=conv"], r"model.encoder._target_=vae_exp.model.encoders.ConvEncoder has no plain loop"),
        (
            ["optimizer=sgd"],
            r"optimizer._target_=torch.optim.SGD has no plain loop beside it; use torch.optim.Adam",
        ),
        (["loss.num_samples=2"], r"loss.num_samples=2 is not the plain loop's; use 1"),
        (["model.decoder.activation=tanh"], r"model.decoder.activation=tanh is not the encoder's; use relu"),
        (["data.binarization=dynamic"], r"data.binarization=dynamic is not the plain loop's; use none or fixed"),
        (["batch_size=[]"], r"batch_size=\[\] must list sizes of at least 1"),
        (["hidden_dims=[[0]]"], r"hidden_dims=\[\[0\]\] must list lists of widths of at least 1"),
        (["hidden_dims=[]"], r"hidden_dims=\[\] must list lists"),
        (["execution_modes=[fast]"], r"execution_modes=\['fast'\] must list some of eager, graph, compile"),
        (["precisions=[]"], r"precisions=\[\] must list some of fp32, tf32, bf16"),
        (["rounds=0"], r"rounds=0 must be at least 1"),
        (["burst_seconds=0"], r"burst_seconds=0.0 must be greater than 0"),
        (["burst_steps=0"], r"burst_steps=0 must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(make_cases, overrides, message):
    with pytest.raises(UserError, match=message):
        make_cases(*overrides)


def test_linear_models_have_no_widths(make_cases):
    [case] = make_cases("hidden_dims=[[]]", "batch_size=[100]")
    specs = candidate_specs(case, ["eager"], ["fp32"])
    assert all(spec.build().run_steps(2) == 200 for spec in specs.values())


def test_specs_say_which_floor_a_candidate_is_compared_with_and_what_is_compiled(case):
    specs = candidate_specs(case, ["eager", "compile"], ["fp32", "bf16"])
    assert {name for name, spec in specs.items() if spec.is_compiled} == {
        "engine/compile/fp32",
        "engine/compile/bf16",
    }
    assert {name for name, spec in specs.items() if spec.precision == "bf16"} == {
        "engine/eager/bf16", "engine/compile/bf16", "floor/bf16",
    }  # fmt: skip


def test_the_cpu_knows_neither_recordings_nor_tf32():
    assert choose_executions(None, CPU) == ["eager"]
    assert choose_executions(["compile"], CPU) == ["compile"]
    assert choose_precisions(None, CPU) == available_precisions(CPU)
    assert choose_precisions(["bf16"], CPU) == ["bf16"]
    with pytest.raises(UserError, match=r"execution_modes=\['graph'\]: graph needs a CUDA device, not cpu"):
        choose_executions(["graph"], CPU)
    with pytest.raises(UserError, match=r"precisions=\['tf32'\]: tf32 needs a CUDA device"):
        choose_precisions(["tf32"], CPU)


@pytest.mark.parametrize(
    ("options", "is_fused"),
    [([], True), (["+optimizer.foreach=false"], None), (["+optimizer.fused=false"], False)],
)
@pytest.mark.parametrize("name", ["plain", "tensor_loop"])
def test_plain_loops_have_the_fused_adam_of_the_engine_over_single_weights(make_cases, name, options, is_fused):
    [case] = make_cases("batch_size=[100]", *options)
    loop = candidate_specs(case, ["eager"], ["fp32"])[name].build()
    [group] = loop._optimizer.param_groups
    assert (group["fused"], group["weight_decay"]) == (is_fused, 1e-5)
    assert [id(weight) for weight in group["params"]] == [id(weight) for weight in loop._net.parameters()]


def test_bursts_are_the_steps_of_the_trainer_to_the_bit(case, tmp_path):
    bursts = candidate_specs(case, ["eager"], ["fp32"])["engine/eager/fp32"].build()
    for steps in (5, 30, 13):  # two epochs of 24
        bursts.run_steps(steps)
    seed_everything(0)
    vae = build_vae(case.config["model"], case.images.image_shape)
    trainer = Trainer(
        vae=vae,
        loss=build_loss(case.config["loss"], vae, case.images.image_shape),
        optimizer=build_optimizer(case.config["optimizer"], vae.parameters()),
        scheduler=None,
        train=case.images,
        val=case.images.take(0),
        evaluators={},
        trackers=[],
        directory=RunDirectory(tmp_path),
        options=trainer_options(epochs=2, batch_size=case.batch_size, execution="eager"),
        checkpoint_metadata={},
    )
    trainer.fit(GracefulShutdown(), NullProgress())
    for mine, theirs in zip(bursts.vae.parameters(), vae.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert (bursts.state.global_step, bursts.state.epoch, bursts.state.batch_in_epoch) == (48, 1, 24)
