import json
import subprocess
import sys

import pytest

from tests.readers import only_run, read_metrics, read_result, without_times
from tests.wandb_records import runs
from vae_exp.data.digits import DigitsSource

SHORT = ("data=digits", "trainer.epochs=2", "evaluator=[]", "tracker=none")


def test_a_run_leaves_all_that_the_readme_promises_and_so_has_wandb(command, tmp_path):
    drawing = ("trainer.epochs=2", "evaluator.figures.manifold_size=3", "tracker.tags=[a,b]")
    finished = command("train", "data=digits", *drawing)
    assert finished.code == 0, finished.err
    run = only_run(tmp_path)
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    figures = {"interpolations", "latent_scatter", "manifold", "reconstructions", "samples"}
    assert files == {
        ".hydra/config.yaml", ".lock", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "checkpoints/best.pt",
        "checkpoints/last.pt", "metrics.jsonl", "result.json", "train.log", "wandb.json",
        *(f"figures/{name}.png" for name in figures),
    }  # fmt: skip
    result, rows = read_result(run), read_metrics(run)
    assert json.loads((run / "wandb.json").read_text()) == result["wandb"]
    assert result["status"] == "completed"
    assert (result["epochs"], result["steps"]) == (2, 24)
    assert result["metrics"]["val/loss"] == rows[-1]["val/loss"]
    assert result["best"]["value"] == min(row["val/loss"] for row in rows)
    assert "Epoch 2/2: train/loss " in finished.out
    assert f"Run directory: {run.relative_to(tmp_path)}\n" in finished.out
    assert "Epoch 2/2: " in (run / "train.log").read_text()

    [records] = runs(tmp_path)
    [start] = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (start.project, start.run_group, list(start.tags)) == ("vae_exp", "", ["a", "b"])
    assert start.display_name == f"digits-mlp_epochs-2_figures.manifold_size-3_{run.name}"
    config = {item.key: json.loads(item.value_json) for item in start.config.update}
    assert config["model"]["latent_dim"] == 2
    assert config["model"]["encoder"]["hidden_dims"] == [500]
    history = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    by_step = {
        entry.step.num: {item.key or ".".join(item.nested_key): item.value_json for item in entry.item}
        for entry in history
    }
    assert sorted(by_step) == [12, 24]
    for row in rows:
        assert float(by_step[row["step"]]["val/elbo"]) == pytest.approx(row["val/elbo"])
    assert any(key.startswith("figures/reconstructions") for key in by_step[24])
    [end] = [record.exit for record in records if record.WhichOneof("record_type") == "exit"]
    assert end.exit_code == 0


def test_the_same_seed_gives_the_same_numbers_without_the_test_images(command, tmp_path, monkeypatch):
    monkeypatch.setattr(DigitsSource, "test", lambda self: pytest.fail("test images were opened"))
    outputs = [
        command("train", *SHORT, "seed=3", "trainer.print_batch_sum=true", f"hydra.run.dir={name}").out
        for name in "ab"
    ]
    first, second = ([without_times(row) for row in read_metrics(tmp_path / name)] for name in "ab")
    assert first == second
    printed = float(outputs[0].split("Epoch [1 / 2] average reconstruction error: ")[1].split()[0])
    assert printed == pytest.approx(100 * first[0]["train/loss"], rel=1e-6)


@pytest.mark.slow
def test_a_lost_tracker_does_not_cost_the_run(command, tmp_path):
    (tmp_path / "blocked").write_text("a file where a folder should be")
    finished = command("train", *SHORT[:-1], "tracker.root=blocked")
    assert finished.code == 0
    result = read_result(only_run(tmp_path))
    assert result["status"] == "completed"
    assert "could not start" in result["wandb"]["error"]
    assert [warning["name"] for warning in result["warnings"]] == ["tracker_lost"]
    assert "Training continues without it" in finished.out
    assert "Weights & Biases was lost" in finished.out


@pytest.mark.slow
def test_a_collapse_is_kept_in_the_result(command, tmp_path):
    finished = command("train", *SHORT, "loss=beta_vae", "loss.beta=1000", "trainer.epochs=8")
    [warning] = read_result(only_run(tmp_path))["warnings"]
    assert warning["name"] == "posterior_collapse"
    assert finished.out.count("osterior collapse") == 2  # when it is found, and at the end
    assert f"Warning, posterior collapse in epoch {warning['epoch']}: {warning['message']}" in finished.out


def test_a_directory_that_holds_a_run_is_left_as_it_is(command, tmp_path):
    assert command("train", *SHORT, "hydra.run.dir=run").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = command("train", *SHORT, "hydra.run.dir=run", "seed=5")
    assert again.code == 1
    assert "already holds a run" in again.err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_an_evaluator_at_the_end_has_the_last_word_but_on_what_every_epoch_measures(command, tmp_path):
    """The NLL of every epoch is by one draw, that of the end by 50."""
    names = {"num_importance_samples": 50, "num_images": 100, "chunk_size": "null", "every_n_epochs": "null"}
    at_end = [f"+evaluator.final.{key}={value}" for key, value in names.items()]
    finished = command(
        "train", *SHORT[:2], "tracker=none", "evaluator=[nll,elbo]", "evaluator.nll.num_importance_samples=1",
        "evaluator.nll.num_images=100", "evaluator.nll.every_n_epochs=1", *at_end,
        "+evaluator.final._target_=vae_exp.evaluation.nll.NLLEvaluator", "hydra.run.dir=run",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    metrics, rows = read_result(tmp_path / "run")["metrics"], read_metrics(tmp_path / "run")
    best = next(row for row in rows if row["epoch"] == metrics["best/epoch"])
    assert metrics["best/val/nll"] == rows[-1]["best/val/nll"] < best["val/nll"]
    assert metrics["best/val/elbo"] == best["val/elbo"]


def test_early_stopping_and_schedules_are_options(command, tmp_path):
    options = ("trainer.epochs=30", "trainer.early_stopping.patience=2", "trainer.early_stopping.min_delta=5")
    finished = command("train", *SHORT, *options, "scheduler=cosine", "hydra.run.dir=run")
    assert finished.code == 0, finished.err
    result = read_result(tmp_path / "run")
    assert result["stopped_early"]
    assert result["epochs"] < 30
    rates = [line["train/learning_rate"] for line in read_metrics(tmp_path / "run")]
    assert rates[0] == 1e-3
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0]


@pytest.mark.quick(1)
@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job", "--resolve"]])
def test_help_and_config_answer_without_torch(flags, tmp_path):
    script = (
        "import sys; sys.argv[1:] = sys.argv[1:]; from vae_exp.train import main\n"
        "try:\n    main()\nfinally:\n    sys.stderr.write('torch' if 'torch' in sys.modules else 'light')"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script, *flags], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.strip() == "light"
    assert len(finished.stdout) > 200
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ten_epochs_on_mnist_match_the_blog_post(command, mnist_root, tmp_path):
    seed = [18439.41, 16523.08, 16100.59, 15850.99, 15673.10, 15539.62, 15431.90, 15348.05, 15278.52, 15210.92]
    finished = command(
        "train", "experiment=minimalist_vae", "trainer.epochs=10", f"data.root={mnist_root}", "tracker=none",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    ours = [100 * line["train/loss"] for line in read_metrics(tmp_path / "run")]
    assert ours == pytest.approx(seed, rel=0.02)
    assert ours[-1] == pytest.approx(seed[-1], rel=0.015)
