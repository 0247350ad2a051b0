"""The table of reproductions: targets, verdicts, what stands in the page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.composing import composed
from vae_exp.configuration.config_dir import config_dir
from vae_exp.configuration.parsing import parse_config
from vae_exp.configuration.schema import EvaluateConfig, TrainConfig
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import UserError
from vae_exp.reproduce.runs import TargetRuns
from vae_exp.reproduce.table import BEGIN, END, describe, update_markdown_table
from vae_exp.reproduce.targets import ReproductionTarget, mean_text, read_targets, select_targets
from vae_exp.tracking.metrics_file import JsonlMetrics

TARGETS = read_targets(config_dir() / "reproduce" / "targets.yaml")
PUBLISHED = ReproductionTarget("known", "a net, NLL", "a paper", (), (), "test/nll", 86.76, 0.5)
UNPUBLISHED = ReproductionTarget("open", "another", "none", (), (), "test/nll")
BETTER = ReproductionTarget("better", "a third", "a paper", (), ("x",), "test/nll", seeds=3, below="worse")
WORSE = ReproductionTarget("worse", "a fourth", "a paper", (), ("x",), "test/nll", seeds=3)
TWO = {"known": PUBLISHED, "open": UNPUBLISHED}


def complete(directory: Path, value: float, *, evaluated: bool = False) -> None:
    """What a run of 2 epochs and its evaluation leave."""
    metrics = {} if evaluated else {"test/nll": value}
    result = {
        "status": "completed",
        "metrics": metrics,
        "device": "cuda",
        "versions": {"torch": "2.14"},
        "seconds": {"training": 7200.0},
    }
    directory.mkdir(parents=True)
    (directory / "result.json").write_text(json.dumps(result))
    if evaluated:
        (directory / "evaluation").mkdir()
        (directory / "evaluation" / "test-last.json").write_text(json.dumps({"metrics": {"test/nll": value}}))


def begin(directory: Path, epochs: int, seconds: list[float]) -> None:
    """What a run leaves that has ended an epoch for each of these times."""
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "config.yaml").write_text(f"trainer:\n  epochs: {epochs}\n")
    metrics = JsonlMetrics(directory / "metrics.jsonl")
    metrics.truncate_and_open()
    for epoch, duration in enumerate(seconds, 1):
        metrics.log({"epoch": epoch, "time/epoch_seconds": duration}, step=epoch)
    if len(seconds) == epochs:
        metrics.log({"epoch": epochs, "best/train/elbo": -90.0}, step=epochs)  # the evaluators of the end
    metrics.close()


def runs_of(root: Path, targets: dict[str, ReproductionTarget]) -> dict[str, TargetRuns]:
    return {name: TargetRuns(target, root) for name, target in targets.items()}


@pytest.mark.quick(2)
@pytest.mark.parametrize("row", TARGETS.values(), ids=list(TARGETS))
def test_every_row_can_be_composed(row: ReproductionTarget):
    assert parse_config(composed("train", *row.train), TrainConfig).trainer.epochs >= 1
    assert parse_config(composed("evaluate", "run=somewhere", *row.evaluate), EvaluateConfig).evaluator
    assert (row.expected is None) == (row.tolerance is None)
    assert row.below is None or TARGETS[row.below].seeds == row.seeds
    metric = row.metric.partition("/")[2]
    expected = {"nll": "nll", "negative_elbo": "elbo"}.get(metric)
    assert expected is None or any(
        expected in override for override in row.evaluate if override.startswith("evaluator=")
    )


def test_the_rows_of_burda_and_others_are_all_there():
    values = {name: row.expected for name, row in TARGETS.items() if name.startswith("burda") and row.expected}
    assert len(values) == 12
    assert values["burda_iwae_2l_k50"] == 82.90


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(86.76, "within"), (86.3, "within"), (87.2, "within"), (86.2, "outside"), (87.3, "outside")],
)
def test_the_verdict_is_by_the_tolerance(value: float, verdict: str):
    assert PUBLISHED.verdict([value]) == verdict
    assert UNPUBLISHED.verdict([value]) == "measured"


def test_a_figure_is_below_another_in_every_seed():
    assert BETTER.verdict([1.0, 2.0, 3.0], [1.1, 2.1, 3.1]) == "within"
    assert BETTER.verdict([1.0, 2.0, 3.0], [9.0, 9.0, 2.9]) == "outside"
    assert BETTER.verdict([1.0, 2.0, 3.0], []) == "measured"


def test_several_seeds_have_a_standard_error():
    assert mean_text([86.5]) == "86.50"
    assert mean_text([1.0, 2.0, 3.0]) == "2.00 ± 0.58"  # sd 1 over the root of 3


def test_rows_without_a_run_say_so(tmp_path: Path):
    page = tmp_path / "page.md"
    update_markdown_table(page, runs_of(tmp_path, TWO))
    text = page.read_text()
    assert text.count("| not run |") == 2
    assert "| `known` | a net, NLL | 86.76 ± 0.5<br>a paper | | not run |" in text
    assert "| `open` | another | none | | not run |" in text


def test_a_row_that_was_run_elsewhere_stays(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"# Above\n\ntext\n\n{BEGIN}\nanything\n{END}\n\n## Below\n")
    complete(tmp_path / "a" / "known", 86.5)
    complete(tmp_path / "b" / "open", 90.0)
    update_markdown_table(page, runs_of(tmp_path / "a", TWO))
    update_markdown_table(page, runs_of(tmp_path / "b", TWO))
    text = page.read_text()
    assert "| 86.76 ± 0.5<br>a paper | 86.50<br>cuda, torch 2.14, 2.0 h | within |" in text
    assert "| none | 90.00<br>cuda, torch 2.14, 2.0 h | measured |" in text
    assert "anything" not in text
    assert text.startswith("# Above\n\ntext\n\n")
    assert text.endswith(f"{END}\n\n## Below\n")


def test_a_row_whose_expectation_has_changed_is_not_run_again(tmp_path: Path):
    page = tmp_path / "page.md"
    complete(tmp_path / "a" / "known", 86.5)
    update_markdown_table(page, runs_of(tmp_path / "a", TWO))
    other = {**TWO, "known": ReproductionTarget("known", "a net, NLL", "a paper", (), (), "test/nll", 80.0, 0.5)}
    update_markdown_table(page, runs_of(tmp_path / "b", other))
    assert "| 80 ± 0.5<br>a paper | | not run |" in page.read_text()


@pytest.mark.parametrize("last", ["unfinished", "under way"])
def test_a_row_that_has_no_verdict_yet_is_not_kept(tmp_path: Path, last: str):
    page = tmp_path / "page.md"
    update_markdown_table(page, runs_of(tmp_path / "a", TWO))
    page.write_text(page.read_text().replace(" | not run |", f" epoch 1 of 9 | {last} |"))
    assert page.read_text().count(last) == 2
    update_markdown_table(page, runs_of(tmp_path / "b", TWO))
    assert page.read_text().count("| not run |") == 2


def test_a_row_under_way_has_its_epoch_and_the_time_left(tmp_path: Path):
    begin(tmp_path / "known", epochs=3280, seconds=[50.0, 7.0, 7.0])
    runs = runs_of(tmp_path, TWO)
    update_markdown_table(tmp_path / "page.md", runs)
    assert "| 86.76 ± 0.5<br>a paper | epoch 3 of 3,280 | unfinished |" in (tmp_path / "page.md").read_text()
    assert describe(runs["known"], runs) == "epoch 3 of 3,280, about 6.4 h left"  # 3,277 epochs of 7 s
    assert describe(runs["open"], runs) == "not run"


def test_a_row_whose_first_seed_has_ended_has_the_time_left(tmp_path: Path):
    begin(tmp_path / "better" / "seed-0", epochs=10, seconds=[60.0] * 10)
    runs = runs_of(tmp_path, {"better": BETTER, "worse": WORSE})
    assert describe(runs["better"], runs) == "10 of 30 epochs, all seeds, about 20 min left"


def test_a_run_that_stopped_early_and_is_not_scored_yet_has_no_epochs_left(tmp_path: Path):
    begin(tmp_path / "x", epochs=2000, seconds=[7.0] * 3)
    complete(tmp_path / "known", 86.5, evaluated=True)
    (tmp_path / "known" / "evaluation" / "test-last.json").unlink()
    for name in (".hydra", "metrics.jsonl"):
        (tmp_path / "x" / name).rename(tmp_path / "known" / name)
    runs = runs_of(tmp_path, {"known": replace(PUBLISHED, evaluate=("evaluator=[nll]",))})
    assert describe(runs["known"], runs) == "epoch 2,000 of 2,000"


def test_a_run_of_another_recipe_is_refused(tmp_path: Path):
    begin(tmp_path / "known", epochs=2, seconds=[7.0])
    runs = TargetRuns(replace(PUBLISHED, train=("experiment=burda_vae", "loss.num_samples=5")), tmp_path)
    (tmp_path / "known" / ".hydra" / "overrides.yaml").write_text("[experiment=burda_vae, loss.num_samples=50]")
    with pytest.raises(
        UserError, match=r"known holds a run of another recipe, without loss\.num_samples=5; move it"
    ):
        runs.complete((), GracefulShutdown())


@pytest.mark.parametrize(
    ("name", "content"),
    [("result.json", '{"status": "completed"}'), (".hydra/config.yaml", "a: 1"), ("metrics.jsonl", '{"x": 1}')],
)
def test_a_directory_that_holds_something_else_is_named(tmp_path: Path, name: str, content: str):
    begin(tmp_path / "known", epochs=2, seconds=[7.0])
    (tmp_path / "known" / name).write_text(content)
    runs = runs_of(tmp_path, TWO)
    with pytest.raises(UserError, match=r"/known holds no run that can be read \(KeyError: .*\); move it away"):
        describe(runs["known"], runs)


def test_a_run_under_way_does_not_replace_a_figure_of_the_page(tmp_path: Path):
    complete(tmp_path / "a" / "known", 86.5)
    update_markdown_table(tmp_path / "page.md", runs_of(tmp_path / "a", TWO))
    begin(tmp_path / "b" / "known", epochs=3280, seconds=[7.0])
    update_markdown_table(tmp_path / "page.md", runs_of(tmp_path / "b", TWO))
    assert "| 86.50<br>cuda, torch 2.14, 2.0 h | within |" in (tmp_path / "page.md").read_text()


def test_seeds_are_runs_of_their_own_and_compared_one_by_one(tmp_path: Path):
    runs = runs_of(tmp_path, {"better": BETTER, "worse": WORSE})
    for seed in range(3):
        complete(tmp_path / "worse" / f"seed-{seed}", 5.0 + seed, evaluated=True)
    for seed in range(2):
        complete(tmp_path / "better" / f"seed-{seed}", 4.0 + seed, evaluated=True)
    begin(tmp_path / "better" / "seed-2", epochs=10, seconds=[60.0])
    # seeds 0 and 1 have no epochs here
    assert describe(runs["better"], runs) == "1 of 30 epochs, all seeds, about 29 min left"
    assert describe(runs["worse"], runs) == "test/nll 6.00 ± 0.58, measured"
    assert runs["better"].result() is None
    (tmp_path / "better" / "seed-2").rename(tmp_path / "elsewhere")
    complete(tmp_path / "better" / "seed-2", 6.5, evaluated=True)
    assert describe(runs["better"], runs) == "test/nll 5.17 ± 0.73, within"
    update_markdown_table(tmp_path / "page.md", runs)
    assert (
        "| < `worse`<br>a paper | 5.17 ± 0.73<br>cuda, torch 2.14, 2.0 h a seed | within |"
        in (tmp_path / "page.md").read_text()
    )


def test_scores_by_other_settings_than_the_row_has_are_not_its_figure(tmp_path: Path):
    target = ReproductionTarget(
        "known", "", "", (), ("evaluator=[nll]", "evaluator.nll.num_images=null"), "test/nll"
    )
    runs = TargetRuns(target, tmp_path)
    complete(tmp_path / "known", 86.5, evaluated=True)
    scores = tmp_path / "known" / "evaluation" / "test-last.json"
    for num_images, values in ((500, None), (None, (86.5,))):
        content = {"evaluator": {"nll": {"num_images": num_images}}, "metrics": {"test/nll": 86.5}}
        scores.write_text(json.dumps(content))
        result = runs.result()
        assert (result and result.values) == values


def test_a_target_of_the_best_epoch_takes_the_scores_of_that_checkpoint(tmp_path):
    complete(tmp_path / "known", 86.5, evaluated=True)
    of_last = replace(PUBLISHED, evaluate=("evaluator=[nll]",))
    runs = TargetRuns(replace(of_last, checkpoint="best"), tmp_path)
    assert runs.result() is None
    scores = tmp_path / "known" / "evaluation" / "test-last.json"
    scores.rename(scores.with_name("test-best.json"))
    result = runs.result()
    assert result
    assert result.values == (86.5,)
    assert TargetRuns(of_last, tmp_path).result() is None


@pytest.mark.parametrize("seeds", [1, 3])
def test_each_seed_of_a_row_is_a_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: int):
    commands: list[list[str]] = []
    monkeypatch.setattr("vae_exp.reproduce.runs.run_command", lambda words, _: commands.append(list(words)) or 0)
    with GracefulShutdown() as shutdown:
        assert TargetRuns(replace(PUBLISHED, seeds=seeds), tmp_path).complete((), shutdown) is None
    trained = [words for words in commands if words[0] == "train"]
    found = [[word for word in words if word.startswith("seed=")] for words in trained]
    assert found == ([[f"seed={seed}"] for seed in range(3)] if seeds == 3 else [[]])
    directories = {word for words in trained for word in words if word.startswith("hydra.run.dir=")}
    assert len(directories) == seeds


def test_an_unknown_name_names_those_that_are():
    with pytest.raises(UserError, match=r"^burda is not a reproduction; known are known, open\.$"):
        select_targets(TWO, ["known", "burda"])


def test_the_page_of_this_project_has_every_row():
    page = (Path(__file__).resolve().parents[2] / "docs" / "reproductions.md").read_text()
    for name in TARGETS:
        assert f"| `{name}` |" in page.partition(BEGIN)[2].partition(END)[0]
