"""Whole runs on a tiny UNet."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dipgo_trainer.cascade import Topology
from dipgo_trainer.config import TrainConfig
from dipgo_trainer.files import RunFiles, StepRecord, load_checkpoint
from dipgo_trainer.losses import consistency_weight
from dipgo_trainer.samples import random_conditions
from dipgo_trainer.supernet import SuperNet
from dipgo_trainer.train import InterruptedTrainingError, Task, Trainer, train
from tiny_models import scheduler_ref

from dipgo_compile.errors import InputError
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import Model

CONFIG = TrainConfig(ratio=0.5, train_steps=6, samples=2, warmup_steps=2, guidance_scale=3.0, lr=5.0)


@pytest.fixture(scope="module")
def task(unet: Model, unet_topology: Topology) -> Task:
    return Task(unet, scheduler_ref(6), unet_topology, random_conditions(unet, 0))


def test_three_steps_write_a_valid_mask_and_its_files(task: Task, tmp_path: Path) -> None:
    files = RunFiles.beside(tmp_path / "mask.json")
    config = replace(CONFIG, train_steps=3, ratio=0.7)
    seen: list[StepRecord] = []
    mask = train(replace(task, notes={"prompts": "p.txt"}), config, files, progress=seen.append)
    assert Mask.load(files.mask) == mask
    assert mask.blocks == task.topology.blocks
    assert mask.provenance["method"] == "dip-go"
    assert mask.provenance["prompts"] == "p.txt"
    scores = torch.tensor(mask.provenance["scores"])
    assert scores.shape == (6, 5)
    assert torch.equal(scores[0], torch.ones(5))
    assert abs(mask.provenance["pruned_macs"] - 0.7) < 0.0125
    records = [StepRecord(**json.loads(line)) for line in files.log.read_text().splitlines()]
    assert [record.step for record in records] == [1, 2, 3]
    assert records == seen
    assert records[0].consistency == pytest.approx(-1.0, abs=1e-5), "everything is kept at first"
    assert records[0].kept == 1.0
    for picture in (files.heatmap, files.loss_curve):
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in (files.mask, files.log, files.checkpoint, files.heatmap, files.loss_curve)
    ), "no temporary files"


def test_training_prunes_and_the_scores_spread(task: Task) -> None:
    trainer = Trainer(task, CONFIG)
    with SuperNet(task.model.denoiser, task.topology.blocks) as net:
        records = [trainer.advance(net) for _ in range(CONFIG.train_steps)]
    assert records[-1].kept < records[0].kept
    assert trainer.scores()[1:].std() > 0.01


def test_sparsity_is_dropped_below_tau(task: Task) -> None:
    above = replace(CONFIG, consistency_weight=2.0)
    below = replace(above, tau=1.0)  # the kept share never exceeds it
    with SuperNet(task.model.denoiser, task.topology.blocks) as net:
        record = Trainer(task, below).advance(net)
        assert record.loss == 2 * record.consistency
        record = Trainer(task, above).advance(net)
        assert record.loss == pytest.approx(2 * record.consistency + record.sparsity)


def test_the_consistency_weight_is_measured_on_evenly_skipped_calls(task: Task) -> None:
    assert consistency_weight(-1.0, -0.9, 0.8) == pytest.approx(0.2 / (4 * 0.1))
    with SuperNet(task.model.denoiser, task.topology.blocks) as net:
        record = Trainer(task, CONFIG).advance(net)
    weight = (record.loss - record.sparsity) / record.consistency
    assert weight > 1, "this tiny model hardly notices skipped calls"


class PressCtrlC:
    """A progress callback that interrupts at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, record: StepRecord) -> None:
        if record.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, even where the tests were started in the background: there it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_a_checkpoint_and_resuming_changes_nothing(task: Task, tmp_path: Path) -> None:
    whole = train(task, CONFIG, RunFiles.beside(tmp_path / "whole.json"))
    files = RunFiles.beside(tmp_path / "stopped.json")
    with pytest.raises(InterruptedTrainingError, match="--resume"):
        train(task, CONFIG, files, progress=PressCtrlC(3))
    assert load_checkpoint(files.checkpoint)["step"] == 3
    assert not files.mask.exists()
    steps: list[int] = []
    resumed = train(task, CONFIG, files, resume=True, progress=lambda record: steps.append(record.step))
    assert steps == [4, 5, 6]
    assert resumed.keep == whole.keep
    one, other = (
        load_checkpoint(tmp_path / f"{name}.checkpoint.pt")["pruner"] for name in ("whole", "stopped")
    )
    assert all(torch.equal(one[name], other[name]) for name in one), "bit for bit"
    log = [json.loads(line)["step"] for line in files.log.read_text().splitlines()]
    assert log == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("ctrl_c")
def test_a_checkpoint_of_another_run_is_refused(task: Task, tmp_path: Path) -> None:
    files = RunFiles.beside(tmp_path / "mask.json")
    with pytest.raises(InputError, match="no checkpoint"):
        train(task, CONFIG, files, resume=True)
    with pytest.raises(InterruptedTrainingError):
        train(task, CONFIG, files, progress=PressCtrlC(1))
    with pytest.raises(InputError, match=r"alpha: 1\.0 then, 2\.0 now"):
        train(task, replace(CONFIG, alpha=2.0), files, resume=True)
    with pytest.raises(InputError, match="another model"):
        train(replace(task, scheduler=scheduler_ref(7)), CONFIG, files, resume=True)
    files.checkpoint.write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot read the checkpoint"):
        train(task, CONFIG, files, resume=True)


def test_the_image_loss_needs_a_decoder(task: Task) -> None:
    config = replace(CONFIG, space="image")
    with pytest.raises(InputError, match="decoder"):
        Trainer(task, config)
    decoding = replace(task, decode=lambda latents: torch.tanh(latents))
    with SuperNet(task.model.denoiser, task.topology.blocks) as net:
        assert Trainer(decoding, config).advance(net).consistency == pytest.approx(-1.0, abs=1e-5)


def test_batches_of_several_images(task: Task) -> None:
    config = replace(CONFIG, batch_size=2)
    with SuperNet(task.model.denoiser, task.topology.blocks) as net:
        assert Trainer(task, config).advance(net).kept == 1.0


def test_learning_rate_schedule() -> None:
    config = TrainConfig(train_steps=110, warmup_steps=10)
    factors = [config.lr_factor(step) for step in range(110)]
    assert factors[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert factors[10] == 1
    assert factors[60] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.001
    assert config.learning_rate("DiTTransformer2DModel") == 10
    assert config.learning_rate("UNet2DConditionModel") == 0.1
    assert config.sparsity_floor == pytest.approx(0.2)


def test_tau_falls_over_the_pruning_steps() -> None:
    config = TrainConfig(ratio=0.8, train_steps=100, pruning_steps=60)
    floors = [config.sparsity_floor_at(step) for step in range(100)]
    assert floors[0] == 1
    assert floors[30] == pytest.approx(0.2 + 0.8 / 8)
    assert floors[60:] == pytest.approx([0.2] * 40)
    assert floors == sorted(floors, reverse=True)
    assert replace(config, pruning_steps=0).sparsity_floor_at(0) == pytest.approx(0.2), "the paper's"


def test_gradual_pruning_follows_its_tau(task: Task) -> None:
    """Sparsity is part of the loss in the steps that keep more than tau is by then, and in no others."""
    config = replace(CONFIG, pruning_steps=CONFIG.train_steps)
    trainer = Trainer(task, config)
    with SuperNet(task.model.denoiser, task.topology.blocks) as net:
        for step in range(config.train_steps):
            record = trainer.advance(net)
            pays = record.loss - record.consistency * trainer._consistency_weight(net)
            assert (pays > 0.01) == (record.kept > config.sparsity_floor_at(step))


def test_a_checkpoint_from_before_an_option_has_its_default() -> None:
    config = TrainConfig()
    older = {name: value for name, value in config.to_json().items() if name != "pruning_steps"}
    assert config.differences(older) == []
    assert replace(config, pruning_steps=5).differences(older) == ["pruning_steps: 0 then, 5 now"]


@pytest.mark.parametrize(
    "option",
    [{"ratio": 1.0}, {"loss": "psnr"}, {"space": "pixels"}, {"batch_size": 0}, {"pruning_steps": 1001}],
)
def test_bad_options_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(InputError):
        TrainConfig(**option)  # type: ignore[arg-type]
