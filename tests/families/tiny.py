"""Denoisers of a few thousand random weights, one of every family and kind of condition.

Other directories of tests import this too: ``from tests.families.tiny import make``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dipgo_compile.models import family_of
from dipgo_compile.models.presets import SD_BETAS
from dipgo_compile.models.source import Model, make_scheduler

UNET: Mapping[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
DIT: Mapping[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "sample_size": 8,
    "num_embeds_ada_norm": 10,
}
_SDXL = {
    **UNET,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 8,
}
_REFINER = {**_SDXL, "projection_class_embeddings_input_dim": 5 * 8 + UNET["cross_attention_dim"]}
_PIXART = {
    "num_attention_heads": 2,
    "attention_head_dim": 6,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "sample_size": 8,
    "cross_attention_dim": 12,
    "caption_channels": 10,
}
_UNET_CLASS, _DIT_CLASS, _PIXART_CLASS = (
    "UNet2DConditionModel",
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel",
)

TINY: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sd15": (_UNET_CLASS, UNET),
    "sd21": (_UNET_CLASS, {**UNET, "attention_head_dim": (2, 4), "use_linear_projection": True}),
    "sdxl": (_UNET_CLASS, _SDXL),
    "sdxl-refiner": (_UNET_CLASS, _REFINER),
    "lcm": (_UNET_CLASS, {**UNET, "time_cond_proj_dim": 6}),
    "lcm-sdxl": (_UNET_CLASS, {**_SDXL, "time_cond_proj_dim": 6}),
    "bk-sdm-small": (_UNET_CLASS, {**UNET, "mid_block_type": None}),
    "class-unet": (_UNET_CLASS, {**UNET, "num_class_embeds": 5}),
    "dit": (_DIT_CLASS, DIT),
    "pixart-alpha": (_PIXART_CLASS, {**_PIXART, "use_additional_conditions": True}),
    "pixart-alpha-512": (_PIXART_CLASS, _PIXART),
}
"""Class and config by name; names are those of presets where there is one."""

TOKENS = 3
SCHEDULER = "DDIMScheduler"
SCHEDULER_CONFIG = {**SD_BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
SCHEDULER_OPTIONS = {"sd21": {"prediction_type": "v_prediction"}}
_PLACES = {_UNET_CLASS: ("unet", "StableDiffusionPipeline"), _DIT_CLASS: ("transformer", "DiTPipeline")}


def make(name: str, seed: int = 0) -> Model:
    """The tiny model ``name``, with a DDIM scheduler and latents as large as the image."""
    return make_model(*TINY[name], seed=seed, scheduler_options=SCHEDULER_OPTIONS.get(name, {}))


def make_model(
    class_name: str, config: Mapping[str, Any], *, seed: int = 0, scheduler_options: Mapping[str, Any] = {}
) -> Model:
    """A denoiser of any class and config, in the same surroundings."""
    denoiser = make_denoiser(class_name, config, seed)
    scheduler = make_scheduler(SCHEDULER, {**SCHEDULER_CONFIG, **scheduler_options})
    return Model(
        source=f"tests/{class_name}",
        family=family_of(class_name),
        denoiser=denoiser,
        config=dict(denoiser.config),
        scheduler_class=SCHEDULER,
        scheduler_config=dict(scheduler.config),
        tokens=TOKENS,
        vae_scale_factor=1,
    )


def make_denoiser(class_name: str, config: Mapping[str, Any], seed: int = 0) -> Any:
    """Frozen, in eval mode."""
    import diffusers

    torch.manual_seed(seed)
    denoiser = getattr(diffusers, class_name)(**config).eval().requires_grad_(False)
    # adaLN-zero starts a transformer as the identity, where every mask gives the same.
    for parameter in denoiser.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return denoiser


def save(name: str, path: Path, seed: int = 0) -> Path:
    """The tiny model and its scheduler as a diffusers pipeline's directory, without encoders and decoder."""
    model = make(name, seed)
    place, pipeline = _PLACES.get(model.class_name, ("transformer", "PixArtAlphaPipeline"))
    model.denoiser.save_pretrained(path / place)  # type: ignore[operator]
    make_scheduler(SCHEDULER, model.scheduler_config).save_pretrained(path / "scheduler")
    index = {
        "_class_name": pipeline,
        place: ["diffusers", model.class_name],
        "scheduler": ["diffusers", SCHEDULER],
    }
    (path / "model_index.json").write_text(json.dumps(index))
    return path
