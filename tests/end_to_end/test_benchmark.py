import json
import re
import subprocess
import sys

import pytest

SMALL = ("data=digits", "rounds=3", "burst_steps=2", "model.hidden_dims=[20]", "device=cpu")


@pytest.mark.slow
def test_the_bursts_of_a_small_benchmark(command, tmp_path):
    overrides = ("batch_size=[100,300]", "precisions=[fp32,bf16]", "profile_run=false", "memory=false")
    finished = command("benchmark", *SMALL, *overrides, "stack_sizes=[3]")
    assert finished.code == 0, finished.err
    results = json.loads((tmp_path / "benchmark.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.json"]
    assert [(case["batch_size"], case["images"], case["steps_per_epoch"]) for case in results["cases"]] == [
        (100, 1200, 12),
        (300, 1200, 4),
    ]
    assert (results["memory"], results["profile"]) == (None, None)
    assert results["hardware"]["device"] == "cpu"
    assert results["hardware"]["threads"] >= 1
    for case in results["cases"]:
        candidates = case["candidates"]
        assert list(candidates) == [
            "plain", "tensor_loop", "engine/eager/fp32", "engine/eager/bf16",
            "stacked/3", "floor/fp32", "floor/bf16",
        ]  # fmt: skip
        for name, figures in candidates.items():
            images = 2 * case["batch_size"] * (3 if name == "stacked/3" else 1)
            assert figures["burst_images"] == [images] * 3
            rates = sorted(images / seconds for seconds in figures["burst_seconds"])
            assert figures["images_per_second"] == pytest.approx(rates[1])
            assert figures["seconds_per_epoch"] * figures["epochs_per_second"] == pytest.approx(1)
            floor = candidates["floor/bf16" if name.endswith("bf16") else "floor/fp32"]
            slower = sorted(a / b for a, b in zip(figures["burst_seconds"], floor["burst_seconds"], strict=True))
            of_one_net = slower[1] * 2 * case["batch_size"] / images
            assert figures["over_floor"]["median"] == pytest.approx(of_one_net)
            assert name in finished.out
        assert candidates["plain"]["over_plain"] == {"median": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.slow
def test_the_whole_benchmark(process, tmp_path):
    finished = process("benchmark", *SMALL, "precisions=[fp32]", "output=made/here.json")
    assert finished.code == 0, finished.err
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    results = json.loads((tmp_path / "made" / "here.json").read_text())
    loop, engine = (results["memory"]["bytes"][name]["peak"] for name in ("tensor_loop", "engine/eager/fp32"))
    assert results["memory"]["engine_over_tensor_loop"] == pytest.approx(engine / loop)
    phases = results["profile"]
    total = phases.pop("total")
    assert sum(phases.values()) == pytest.approx(total, abs=1e-3)
    for phase in ("compose", "imports", "data", "build", "tracker", "training", "evaluators", "checkpoints"):
        assert phases[phase] > 0
    assert 0 < phases["rest"] < total / 2
    for text in ("speed ÷ plain", "time ÷ floor", "÷ tensor_loop", "tracker", "Written to"):
        assert text in finished.out


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model=conv"], r"ConvEncoder has no plain loop beside it; use vae_exp\.model\.encoders\.MLPEncoder"),
        (["device=tpu"], r"device=tpu is not a device"),
        (["round=3"], r"round"),
        (["output=."], r"output=\. is a folder"),
    ],
)
def test_bad_input_is_refused_in_one_message(command, tmp_path, overrides, reason):
    finished = command("benchmark", *SMALL, *overrides)
    assert finished.code == 1
    assert re.search(reason, finished.err), finished.err
    assert "Traceback" not in finished.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_comes_without_torch(tmp_path):
    script = (
        "import sys; from vae_exp.benchmark.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "batch_size" in finished.stdout
    assert list(tmp_path.iterdir()) == []
