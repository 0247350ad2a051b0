import pytest

from tests.composing import composed
from vae_exp.configuration.parsing import parse_config
from vae_exp.configuration.schema import EvaluateConfig, GenerateConfig, TrainConfig
from vae_exp.errors import UserError

REFUSED = {
    "model.latent_dim=0": r"model\.latent_dim=0 must be at least 1",
    "model.hidden_dims=[500,0]": r"model\.hidden_dims=\[500, 0\]",
    "trainer.batch_size=0": r"trainer\.batch_size=0 must be at least 1",
    "trainer.epochs=0": r"trainer\.epochs=0",
    "trainer.early_stopping.patience=0": r"trainer\.early_stopping\.patience=0",
    "trainer.early_stopping.min_delta=-1": r"trainer\.early_stopping\.min_delta=-1",
    "data.validation_size=-1": r"data\.validation_size=-1",
    "data.image_shape=[28,28]": r"data\.image_shape=\[28, 28\] must be \[channels, height, width\]",
    "optimizer.lr=-1": r"optimizer\.lr=-1 must be a finite number greater than 0",
    "optimizer.lr=fast": r"optimizer\.lr=fast must be a finite number",
    "optimizer.lr=.nan": r"optimizer\.lr=",
    "optimizer.weight_decay=-1": r"optimizer\.weight_decay=-1",
    "trainer.loss_reduction=max": r"trainer\.loss_reduction=max must be one of sum, mean",
    "tracker.mode=loud": r"tracker\.mode=loud must be offline, online or none",
    "seed=-1": r"seed=-1",
    "+model.latnt_dim=2": r"model\.latnt_dim=2 is not a key .* did you mean model\.latent_dim\?",
    "+trainer.early_stopping.patiense=2": r"did you mean trainer\.early_stopping\.patience\?",
    "+verbosity=2": r"verbosity=2 is not a key of the config; known here: seed, model",
    "~model.encoder._target_": r"model\.encoder\._target_ is missing",
    "~loss._target_": r"loss\._target_ is missing",
    "model.latent_dim=???": r"model\.latent_dim",
    "seed=99999999999999999999": r"seed=99999999999999999999 .*2\*\*63",
    "trainer.execution=fast": r"trainer\.execution=fast must be one of auto, eager, graph, compile",
    "trainer.steps_per_graph=0": r"trainer\.steps_per_graph=0 must be auto or a whole number of at least 1",
    "trainer.steps_per_graph=2.5": r"trainer\.steps_per_graph=2\.5 must be auto or a whole number of at least 1",
    "trainer.steps_per_graph=true": r"trainer\.steps_per_graph=true must be auto or a whole number of at least 1",
    "trainer.steps_per_graph=most": r"trainer\.steps_per_graph=most must be auto or a whole number of at least 1",
    "trainer.precision=fp16": r"trainer\.precision=fp16 must be one of fp32, tf32, bf16",
    "trainer.max_grad_norm=0": r"trainer\.max_grad_norm=0\.0 must be greater than 0",
    "trainer.max_grad_norm=nan": r"trainer\.max_grad_norm=nan must be greater than 0",
    "trainer.ema_decay=1": r"trainer\.ema_decay=1\.0 must be at least 0 and below 1",
    "trainer.threads=0": r"trainer\.threads=0 must be auto or a whole number of at least 1",
    "trainer.threads=all": r"trainer\.threads=all must be auto or a whole number of at least 1",
    "trainer.strategy=fsdp": r"trainer\.strategy=fsdp must be one of none, ddp",
    "data.preload_to_device=maybe": r"data\.preload_to_device=maybe must be one of auto, true, false",
    "data.binarization=static": r"data\.binarization=static must be one of none, dynamic, fixed",
    "checkpoint.every_n_epochs=0": r"checkpoint\.every_n_epochs=0 must be at least 1",
    "checkpoint.every_n_seconds=-1": r"checkpoint\.every_n_seconds=-1\.0 must be at least 0",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_bad_value_is_refused_by_key_and_value(override):
    with pytest.raises(UserError, match=REFUSED[override]):
        parse_config(composed("train", override), TrainConfig)


def test_a_linear_model_is_allowed():
    assert parse_config(composed("train", "model.hidden_dims=[]"), TrainConfig).model.hidden_dims == []


@pytest.mark.parametrize(("name", "schema"), [("evaluate", EvaluateConfig), ("generate", GenerateConfig)])
def test_commands_on_stored_runs_check_theirs(name: str, schema: type):
    for overrides, message in (
        (["run=x", "split=tset"], "split=tset must be one of train, val, test"),
        (["run=x", "checkpoint=worst"], "best, last"),
        ([], "run is missing"),
    ):
        with pytest.raises(UserError, match=message):
            parse_config(composed(name, *overrides), schema)


@pytest.mark.parametrize("override", ["columns=1", "columns=101", "manifold_size=1", "manifold_size=100000"])
def test_pictures_that_nobody_could_look_at_are_refused(override: str):
    with pytest.raises(UserError, match=f"{override} must be from 2 to "):
        parse_config(composed("generate", "run=somewhere", override), GenerateConfig)
