"""``random:NAME``: published architectures with seeded random weights, for speed work and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SD_BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
LINEAR_BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}


@dataclass(frozen=True)
class Preset:
    """A denoiser's class and config, its scheduler, and what the text encoder and the autoencoder would have
    told.
    """

    class_name: str
    config: dict[str, Any]
    scheduler_class: str
    scheduler_config: dict[str, Any]
    tokens: int
    vae_scale_factor: int = 8


_PLMS = {**SD_BETAS, "skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False}
_SD15 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
_SDXL = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_PIXART = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
}


def _unet(config: dict[str, Any], scheduler_class: str, scheduler_config: dict[str, Any]) -> Preset:
    return Preset("UNet2DConditionModel", config, scheduler_class, scheduler_config, tokens=77)


def _pixart(config: dict[str, Any]) -> Preset:
    scheduler = "DPMSolverMultistepScheduler"
    return Preset("PixArtTransformer2DModel", config, scheduler, LINEAR_BETAS, tokens=120)


# After the models named. Their parameter counts and MACs (docs/macs.md) hold these configs to them.
PRESETS: dict[str, Preset] = {
    # runwayml/stable-diffusion-v1-5: 859.5 M parameters
    "sd15": _unet(_SD15, "PNDMScheduler", _PLMS),
    # stabilityai/stable-diffusion-2-1, 768x768: 865.9 M
    "sd21": _unet(
        {
            **_SD15,
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        "DDIMScheduler",
        {
            **SD_BETAS,
            "prediction_type": "v_prediction",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
        },
    ),
    # stabilityai/stable-diffusion-xl-base-1.0, 1024x1024: 2567.5 M
    "sdxl": _unet(
        _SDXL, "EulerDiscreteScheduler", {**SD_BETAS, "steps_offset": 1, "timestep_spacing": "leading"}
    ),
    # latent-consistency/lcm-sdxl, 1024x1024: SDXL that reads the guidance scale, and needs four steps
    "lcm-sdxl": _unet(
        {**_SDXL, "time_cond_proj_dim": 256}, "LCMScheduler", {**SD_BETAS, "timestep_spacing": "leading"}
    ),
    # nota-ai/bk-sdm-base: 579.4 M
    "bk-sdm-base": _unet({**_SD15, "layers_per_block": 1}, "PNDMScheduler", _PLMS),
    # nota-ai/bk-sdm-small: 482.3 M
    "bk-sdm-small": _unet({**_SD15, "layers_per_block": 1, "mid_block_type": None}, "PNDMScheduler", _PLMS),
    # facebook/DiT-XL-2-256, 256x256: 749.8 M in diffusers, which gives every block a time embedding
    "dit-xl-2": Preset(
        class_name="DiTTransformer2DModel",
        config={
            "sample_size": 32,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 28,
            "num_attention_heads": 16,
            "attention_head_dim": 72,
            "num_embeds_ada_norm": 1000,
        },
        scheduler_class="DDIMScheduler",
        scheduler_config={**LINEAR_BETAS, "clip_sample": False},
        tokens=0,
    ),
    # PixArt-alpha/PixArt-XL-2-1024-MS, 1024x1024: 611.3 M
    "pixart-alpha": _pixart(_PIXART),
    # PixArt-alpha/PixArt-XL-2-512x512: 610.9 M, without micro-conditions
    "pixart-alpha-512": _pixart({**_PIXART, "sample_size": 64}),
}
