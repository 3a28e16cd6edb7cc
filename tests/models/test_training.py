from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from diffusers import DiTPipeline, StableDiffusionPipeline
from idx_files import needs_fashion_mnist
from torch import nn

from models.recipes import classifier, tiny_dit, tiny_sd
from models.recipes.fashion_mnist import DEFAULT_DATA_DIR
from models.recipes.training import LoopSettings, TrainingLoop


def toy_loop(directory: Path, interrupt_at: int | None = None) -> TrainingLoop:
    """A loop that fits a linear layer, pressing Ctrl-C during step `interrupt_at`."""
    torch.manual_seed(0)
    module = nn.Linear(4, 1)

    def loss(generator: torch.Generator) -> torch.Tensor:
        if loop.step == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        inputs = torch.randn(8, 4, generator=generator)
        return (module(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()

    loop = TrainingLoop(module, loss, LoopSettings(steps=30, learning_rate=0.1, warmup=3), directory)
    return loop


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole = toy_loop(tmp_path / "whole")
    whole.run(resume=False)

    first = toy_loop(tmp_path / "parts", interrupt_at=11)
    with pytest.raises(KeyboardInterrupt):
        first.run(resume=False)
    assert first.step == 12, "the step that was under way is finished"
    second = toy_loop(tmp_path / "parts")
    second.run(resume=True)

    torch.testing.assert_close(second.module.state_dict(), whole.module.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(second.ema.shadow_params, whole.ema.shadow_params, rtol=0, atol=0)


def test_log_has_falling_loss_and_restarts_without_resume(tmp_path: Path) -> None:
    for _ in range(2):
        toy_loop(tmp_path).run(resume=False)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [20, 30]
    assert records[1]["loss"] < 1.0


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = LoopSettings(steps=100, learning_rate=1.0, warmup=10)
    factors = [settings.rate_factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.0)


def run_training(recipe: click.Command, data: Path, tmp_path: Path, *options: str) -> Path:
    output = tmp_path / "model"
    arguments = ["train", "--data", str(data), "--work", str(tmp_path / "work"), "-o", str(output), *options]
    result = CliRunner().invoke(recipe, arguments)
    assert result.exit_code == 0, result.output
    return output


def test_tiny_sd_trains_resumes_and_saves_a_pipeline(synthetic_data: Path, tmp_path: Path) -> None:
    output = run_training(tiny_sd.main, synthetic_data, tmp_path, "--vae-steps", "2", "--steps", "1")
    before = StableDiffusionPipeline.from_pretrained(output).unet.conv_in.weight
    (output / "README.md").write_text("a card")

    run_training(tiny_sd.main, synthetic_data, tmp_path, "--vae-steps", "2", "--steps", "3", "--resume")
    after = StableDiffusionPipeline.from_pretrained(output)
    steps = [json.loads(line)["step"] for line in (tmp_path / "work/unet/log.jsonl").read_text().splitlines()]
    assert steps == [1, 3]
    assert not torch.equal(before, after.unet.conv_in.weight)
    assert after.vae.config.scaling_factor not in (1.0, 0.18215), "the scale is measured"
    assert (output / "README.md").read_text() == "a card", "other files of the folder stay"


def test_tiny_dit_trains_resumes_and_saves_a_pipeline(synthetic_data: Path, tmp_path: Path) -> None:
    output = run_training(tiny_dit.main, synthetic_data, tmp_path, "--steps", "1")
    before = DiTPipeline.from_pretrained(output).transformer.proj_out_2.weight
    run_training(tiny_dit.main, synthetic_data, tmp_path, "--steps", "3", "--resume")
    after = DiTPipeline.from_pretrained(output)
    steps = [json.loads(line)["step"] for line in (tmp_path / "work/log.jsonl").read_text().splitlines()]
    assert steps == [1, 3]
    assert not torch.equal(before, after.transformer.proj_out_2.weight)
    assert after.labels["ankle boot"] == 9
    models = str(tiny_dit.TINY_SD.parent)
    for config in output.rglob("*.json"):
        assert models not in config.read_text(), f"{config.name} names a directory of this machine"


def test_classifier_trains_and_loads(synthetic_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "classifier"
    arguments = ["train", "--data", str(synthetic_data), "--steps", "2", "--work", str(tmp_path / "work")]
    result = CliRunner().invoke(classifier.main, [*arguments, "-o", str(output)])
    assert result.exit_code == 0, result.output
    loaded = classifier.load_classifier(output)
    assert loaded.features(torch.rand(3, 1, 32, 32)).shape == (3, 128)


@needs_fashion_mnist
def test_tiny_sd_trains_on_a_slice_of_the_data_set(tmp_path: Path) -> None:
    output = run_training(
        tiny_sd.main, DEFAULT_DATA_DIR, tmp_path, "--limit", "100", "--vae-steps", "1", "--steps", "1"
    )
    StableDiffusionPipeline.from_pretrained(output)
