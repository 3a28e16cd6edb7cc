"""Whole pipelines of a few thousand random weights, as diffusers stores them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dipgo_compile.mask import Mask, ModelRef, SchedulerRef
from dipgo_compile.models.source import load, make_scheduler
from dipgo_compile.schedules.schedulers import resolve_scheduler

CLASSES = {0: "T-shirt, top", 1: "trouser"}


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)


def autoencoder() -> AutoencoderKL:
    """Pixels are twice as many as latents along each axis."""
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.7,
    )


def save_stable_diffusion(path: Path, tokenizer: Path) -> Path:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    words = CLIPTokenizer.from_pretrained(tokenizer)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(config),
        tokenizer=words,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(path)
    return path


def save_dit(path: Path) -> Path:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,  # the variance too, which nothing reads
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    with torch.no_grad():  # DiT begins with a head of zeros, which would draw the same whatever the class
        transformer.proj_out_2.weight.normal_()
    DiTPipeline(transformer, autoencoder(), scheduler()).save_pretrained(path)
    index = path / "model_index.json"  # where the pipeline reads the names of classes, but never writes them
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": CLASSES}))
    return path


def make_mask(source: Path, scheduler_name: str, rows: tuple[tuple[int, ...], ...]) -> Mask:
    """A mask for all blocks, one row of indices of reused blocks per denoiser call."""
    model = load(str(source), weights=False)
    name, config = resolve_scheduler(scheduler_name, model)
    made = make_scheduler(name, config)
    made.set_timesteps(len(rows))
    blocks = model.blocks()
    return Mask(
        model=ModelRef(str(source), model.class_name, model.config_sha256),
        scheduler=SchedulerRef(name, config, len(rows), tuple(float(t) for t in made.timesteps)),
        blocks=blocks,
        keep=tuple(tuple(index not in row for index in range(len(blocks))) for row in rows),
        provenance={"method": "hand", "guidance_scale": 2.0},
    )
