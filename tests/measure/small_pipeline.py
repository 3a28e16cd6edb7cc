"""A denoiser of a few thousand parameters in a directory that looks like a diffusers pipeline's."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from dipgo_compile.mask import Mask, ModelRef, SchedulerRef
from dipgo_compile.models.source import load, make_scheduler
from dipgo_compile.schedulers import resolve_scheduler

UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}


def save_pipeline(path: Path, seed: int) -> Path:
    """A denoiser with random weights and a DDIM scheduler."""
    torch.manual_seed(seed)
    UNet2DConditionModel(**UNET).save_pretrained(path / "unet")
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    scheduler.save_pretrained(path / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def make_mask(source: str, scheduler_class: str, rows: tuple[str, ...]) -> Mask:
    """A mask for all blocks of the pipeline at ``source``, one row per denoiser call."""
    model = load(source)
    name, config = resolve_scheduler(scheduler_class, model)
    scheduler = make_scheduler(name, config)
    scheduler.set_timesteps(len(rows))
    return Mask(
        model=ModelRef(source, model.class_name, model.config_sha256),
        scheduler=SchedulerRef(name, config, len(rows), tuple(float(t) for t in scheduler.timesteps)),
        blocks=model.blocks(),
        keep=tuple(tuple(character == "1" for character in row) for row in rows),
        provenance={"method": "hand", "ratio": 0.5},
    )
