"""Command lines: what is refused before Hydra reads one, and what is said of those that Hydra refuses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from vae_exp.cli.command_line import prepare
from vae_exp.errors import UserError, did_you_mean

REFUSED = {
    ("experiment=burda_iwea",): ["experiment=burda_iwea is not an option", "did you mean burda_iwae"],
    ("experiment=nope", "--multirun", "seed=0,1"): ["experiment=nope is not an option", "minimalist_vae"],
    ("evaluator=[1]",): ["evaluator=[1]: 1 is not an option of evaluator", "list of names"],
    ("optimizer=[adam,sgd]",): ["optimizer=[adam,sgd] is a list", "--multirun optimizer=adam,sgd"],
    ("model/likelihood=[bernoulli,gaussian]",): ["model/likelihood=[bernoulli,gaussian] is a list"],
    ("--multirun", "loss=vq,[elbo,iwae]"): ["loss=[elbo,iwae] is a list"],
    ("model=cnn",): ["model=cnn is not an option of model", "conditional, conv, fsq, hierarchical, mlp"],
    ("evaluator=[elb]",): ["evaluator=elb is not an option of evaluator; did you mean elbo?"],
    ("epochs=3",): ["did you mean trainer.epochs"],
    ("latnt_dim=3",): ["did you mean model.latent_dim?"],
    ("likelihood=gaussian",): ["did you mean model/likelihood?"],
    ("loss.beta=4",): ["loss=beta_vae", "For a class of your own, say +loss.beta"],
    ("optimizer.momentum=0.9",): ["it is one with optimizer=sgd"],
    ("--latent-dim", "3"): ["--latent-dim is not an option", "model.latent_dim="],
    ("--multi-run",): ["did you mean --multirun?"],
    ("--multirun", "--cfg", "job"): ["--cfg shows a single run"],
    ("--experimental-rerun", "x.pickle"): ["--experimental-rerun", "resume=DIR"],
    ("--shell-completion",): ["install"],
    ("outputs/run",): ["resume=outputs/run"],
    ("data.path=ünïcödé.npz",): ["takes üïöé within quotes only", "data.path='ünïcödé.npz'"],
    ("hydra.run.dir=",): ["hydra.run.dir= is empty"],
    ("--multirun", "hydra.sweep.dir=", "seed=0,1"): ["hydra.sweep.dir= is empty"],
    ("--multirun", "hydra/launcher=slurm", "seed=0,1"): ["hydra/launcher=slurm", "no Slurm"],
    ("--multirun", "loss=elbo,betavae"): ["loss=betavae is not an option of loss"],
    ("--multirun", "model.latentdim=2,3"): ["model.latentdim is not a key", "did you mean model.latent_dim?"],
    ("--multirun", "model.latent_dim=2,x"): ["model.latent_dim=x: expected an integer"],
    ("--multirun", "seed=0,1", "model.latent_dim=2,-1"): ["model.latent_dim=-1 must be at least 1"],
    ("trainer.epochs=abc",): ["trainer.epochs=abc: expected an integer."],
    ("model.hidden_dims=400",): ["model.hidden_dims=400: expected a list, such as [400]."],
    ("data.augment=flip",): ["data.augment=flip: expected a list, such as [flip]."],
    ("model.activation=swishh",): ["Error: model.activation=swishh must be one of relu"],
    ("loss=beta_vae", "loss.beta=-1"): ["Error: loss.beta=-1 must be a finite number of at least 0"],
    ("model.encoder._target_=os.system",): [
        "Target 'os.system' is blocklisted",
        "execution-capable target family",
    ],
    ("model.encoder._target_=vae_exp.model.encoders.MLPEncode",): ["did you mean MLPEncoder?"],
    ("seed", "=", "3"): ["seed is not an override of the form key=value; write it without spaces"],
    ("resume=latest",): ["resume=latest: no run in outputs has a checkpoint"],
    ("initialize_from=latest",): ["initialize_from=latest: no run in outputs has a checkpoint"],
    ("latest",): ["latest is not an override of the form key=value; resume=latest continues the run there"],
    ("hydra/launcher=pool",): ["hydra/launcher=pool is for a sweep; add --multirun"],
    ("sweep.name=mine",): ["sweep.name=mine is for a sweep; add --multirun"],
    ("hydra.sweep.dir=mine",): ["hydra.sweep.dir=mine is for a sweep; add --multirun"],
    ("sweep.rerun=true",): ["sweep.rerun=true is for a sweep; add --multirun"],
}


@pytest.mark.quick(16)
@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_a_command_line_is_refused_in_one_message(words, command, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    finished = command("train", "data=digits", "tracker=none", *words)
    assert finished.code == 1
    [message] = [line for line in finished.err.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in finished.err
    for part in REFUSED[words]:
        assert part in message
    assert not list(tmp_path.glob("outputs")) + list(tmp_path.glob("multirun/*/*/"))
    assert "hydra/launcher=slurm" in words or not list(tmp_path.glob("multirun"))


@pytest.mark.quick(1)
@pytest.mark.parametrize("word", ["experiment=", "experiment=null", "experiment=''"])
def test_a_choice_may_be_empty_where_the_default_is(command, word: str):
    finished = command("train", word, "--cfg", "job", "seed=3", "--package", "seed")
    assert (finished.code, finished.out.strip()) == (0, "3")


def test_evaluators_are_a_list(command):
    finished = command("train", "evaluator=[elbo,nll]", "--cfg", "job", "--package", "evaluator")
    assert finished.code == 0
    assert "elbo:" in finished.out
    assert "nll:" in finished.out


@pytest.mark.slow
def test_the_help_of_hydra_needs_no_config_of_ours(command):
    finished = command("train", "--hydra-help", "data=digits", "tracker=none")
    assert finished.code == 0
    assert "--multirun" in finished.out


def test_the_pool_is_for_training():
    words = ["--multirun", "hydra/launcher=pool", "run=a,b"]
    with pytest.raises(UserError, match=r"hydra/launcher=pool is for the jobs of train; evaluate run=\[A,B\] or"):
        prepare(words, "evaluate")
    with pytest.raises(UserError, match="hydra/launcher=pool is for the jobs of train; leave it out"):
        prepare(words, "generate")


def test_quoted_letters_outside_ascii_are_taken(command):
    finished = command("train", "data.path='ünïcödé.npz'", "--cfg", "job", "--package", "data.path")
    assert finished.out.strip() == "ünïcödé.npz"


def test_a_path_names_the_run_of_commands_on_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=1").mkdir()
    words = ["outputs/a run", "split=val", "--cfg", "job"]
    assert prepare(words, "evaluate") == ["--cfg", "job", "run='outputs/a run'", "split=val"]
    assert prepare(["lr=1", "~seed"], "generate") == ["run='lr=1'", "~seed"]
    assert prepare(["a", "seed=1", "b"], "evaluate") == ["seed=1", "run=['a','b']"]
    with pytest.raises(UserError, match=r"a b: generate takes one run; --multirun run=a,b"):
        prepare(["a", "b"], "generate")
    with pytest.raises(UserError, match=r"a/b is not an override of the form key=value; write it"):
        prepare(["a/b"], "benchmark")


def test_common_spellings_of_hydra_are_taken():
    assert prepare(["+experiment=latent_sweep", "+data=digits"], "train") == [
        "experiment=latent_sweep",
        "data=digits",
    ]
    kept = ["+loss/schedule@loss.beta=linear", "+model.encoder.depth=3"]
    assert prepare(kept, "train") == kept
    assert prepare(["hydra.job.env_set.FOO=bar"], "train") == ["++hydra.job.env_set.FOO=bar"]
    with pytest.raises(UserError, match="--cfg shows a single run: leave out --multirun"):
        prepare(["-m", "model.latent_dim=2,4", "--cfg", "job"], "train")


def test_what_wandb_agent_writes_for_no_hyphens_is_taken(command):
    """The arguments are made by the agent's own code."""
    parameters = {
        "model": {"latent_dim": 8, "likelihood": "gaussian", "hidden_dims": [30, 20]},
        "optimizer.lr": 1e-05,
        "trainer.max_grad_norm": None,
        "trainer.warn_posterior_collapse": False,
        "evaluator": ["elbo", "units"],
        "tracker.name": "two words",
    }
    arguments = create_sweep_command_args({"args": {key: {"value": x} for key, x in parameters.items()}})
    finished = command("train", *arguments["args_no_hyphens"], "--cfg", "job")
    assert finished.code == 0, finished.err
    config = OmegaConf.create(finished.out)
    assert (config.model.latent_dim, config.model.hidden_dims) == (8, [30, 20])
    assert config.model.likelihood._target_.endswith("FixedGaussianLikelihood")
    assert (config.optimizer.lr, config.trainer.max_grad_norm) == (1e-05, None)
    assert config.trainer.warn_posterior_collapse is False
    assert list(config.evaluator) == ["elbo", "units"]
    assert config.tracker.name == "two words"


def test_a_run_of_wandb_agent_is_no_sweep(monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    assert prepare(["seed=1"], "train") == ["seed=1"]
    assert prepare(["--multirun", "run=a,b"], "evaluate") == ["--multirun", "run=a,b"]
    with pytest.raises(UserError, match=r"--multirun seed=0,1 trains several runs, and wandb agent starts one"):
        prepare(["--multirun", "seed=0,1"], "train")


@pytest.mark.slow
def test_a_folder_of_ones_own_holds_options_and_experiments(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "my conf"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "tiny.yaml").write_text(
        "# @package _global_\ndefaults: [{override /data: digits}]\nmodel: {latent_dim: 3}\n"
    )
    monkeypatch.setenv("VAE_EXP_CONFIG", str(folder))
    shown = command("train", "experiment=tiny", "--cfg", "job", "--package", "model.latent_dim")
    assert shown.out.strip() == "3", shown.err
    assert f"gallery_colour; in {folder / 'experiment'}: tiny\n" in command("train", "--help").out
    for text in ("model: {latent_dim: 3}\n", "defaults: [{override /data: digits}]\n"):
        (folder / "experiment" / "bare.yaml").write_text(text)
        refused = command("train", "experiment=bare", "--cfg", "job").err
        assert (
            "experiment/bare.yaml sets keys of the whole config: add # @package _global_ as its first" in refused
        )
    words = ("--multirun", "experiment=tiny", "trainer.epochs=1", "tracker=none", "evaluator=[]", "sweep.name=own")
    assert command("train", *words).code == 0
    [stored] = json.loads((tmp_path / "multirun" / "own" / "sweep.json").read_text())["commands"]
    assert not [word for word in stored["words"] if "searchpath" in word]
    assert command("sweep", "retry", "multirun/own").code == 0
    monkeypatch.setenv("VAE_EXP_CONFIG", str(tmp_path / "none"))
    assert "VAE_EXP_CONFIG=" in command("train", "experiment=tiny").err


@pytest.mark.parametrize(
    ("name", "line", "completed"),
    [
        ("train", "vae-train optimizer=ada", {"optimizer=adam", "optimizer=adagrad", "optimizer=adamw"}),
        ("evaluate", "vae-evaluate run=./out", {"run=./outputs"}),
        ("generate", "vae-generate manifold", {"manifold_size="}),
        ("export", "vae-export over", {"overwrite="}),
        ("benchmark", "vae-benchmark round", {"rounds="}),
    ],
)
def test_commands_that_hydra_runs_complete_words(name, line, completed, command, tmp_path: Path, monkeypatch):
    (tmp_path / "outputs").mkdir()
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert set(command(name, "-sc", "query=bash").out.split()) == completed
    assert "complete -o nospace" in command(name, "-sc", "install=bash").out


def test_near_names_come_first_and_all_names_where_none_is_near():
    assert did_you_mean("epoch", ["epochs", "seed"], "trainer.") == "did you mean trainer.epochs?"
    assert did_you_mean("width", ["epochs", "seed"], "trainer.") == "known here: epochs, seed."


@pytest.mark.quick(1)
@pytest.mark.parametrize(("name", "words"), [("train", ["--info"]), ("sweep", ["-h"])])
def test_a_reader_that_closes_the_pipe_causes_no_message(name: str, words: list[str], tmp_path: Path):
    read, write = os.pipe()
    os.close(read)
    finished = subprocess.run(
        [sys.executable, "-m", f"vae_exp.{name}", *words],
        stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    os.close(write)
    assert finished.stderr == ""
    assert finished.returncode in (0, 141)
