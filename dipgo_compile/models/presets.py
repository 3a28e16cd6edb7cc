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


PRESETS: dict[str, Preset] = {
    # runwayml/stable-diffusion-v1-5, unet/config.json: 859.5 M parameters
    "sd15": Preset(
        class_name="UNet2DConditionModel",
        config={
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        scheduler_class="PNDMScheduler",
        scheduler_config={**SD_BETAS, "skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False},
        tokens=77,
    ),
}
