"""Training of the denoisers on cached latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, StableDiffusionPipeline
from diffusers.training_utils import compute_snr
from torch import nn

from models.recipes.fashion_mnist import all_captions

SNR_GAMMA = 5.0

Conditions = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""From the indices [B] of images to what the denoiser is told about each (`conditions.py`)."""


class TextToNoise(nn.Module):
    """The two modules that learn tiny-sd: text encoder and U-Net, from captions to predicted noise."""

    def __init__(self, pipeline: StableDiffusionPipeline):
        super().__init__()
        self.text_encoder, self.unet = pipeline.text_encoder, pipeline.unet
        tokens = pipeline.tokenizer(
            [*all_captions(), ""], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        self.register_buffer("tokens", tokens, persistent=False)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Noise [B, 4, 8, 8] from x_t, t [B] and indices of captions [B]."""
        text = self.text_encoder(self.tokens).last_hidden_state[captions]
        # In float32: at this size bf16 gains nothing on a CPU, as flash attention's bf16 backward is slow.
        return self.unet(noisy, timesteps, text, return_dict=False)[0]


class ClassToNoise(nn.Module):
    """tiny-dit's transformer, from classes to predicted noise."""

    def __init__(self, transformer: DiTTransformer2DModel):
        super().__init__()
        self.transformer = transformer
        # `conditions.py` drops labels. The transformer's own dropout, in training mode, would draw from the
        # global generator, and for each block anew.
        for block in transformer.transformer_blocks:
            block.norm1.emb.class_embedder.dropout_prob = 0.0

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Noise [B, 4, 8, 8] from x_t, t [B] and classes [B]."""
        return self.transformer(noisy, timesteps, classes, return_dict=False)[0]


class DiffusionLoss:
    """The min-SNR weighted noise prediction error on a random batch of `latents` [N, 4, 8, 8]."""

    def __init__(
        self,
        model: nn.Module,
        scheduler: DDIMScheduler,
        latents: torch.Tensor,
        conditions: Conditions,
        batch_size: int = 64,
    ):
        self.model, self.scheduler = model, scheduler
        self.latents, self.conditions, self.batch_size = latents, conditions, batch_size

    def __call__(self, generator: torch.Generator) -> torch.Tensor:
        size = (self.batch_size,)
        index = torch.randint(len(self.latents), size, generator=generator)
        told = self.conditions(index, generator)
        noise = torch.randn(*size, *self.latents.shape[1:], generator=generator)
        timesteps = torch.randint(self.scheduler.config.num_train_timesteps, size, generator=generator)
        noisy = self.scheduler.add_noise(self.latents[index], noise, timesteps)
        predicted = self.model(noisy, timesteps, told)
        snr = compute_snr(self.scheduler, timesteps)
        weight = snr.clamp(max=SNR_GAMMA) / snr
        return (weight * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()
