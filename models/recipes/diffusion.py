"""Training of tiny-sd's denoiser together with its text encoder, on cached latents."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import compute_snr
from torch import nn

from models.recipes.fashion_mnist import TEMPLATES, all_captions

BATCH_SIZE = 64
CAPTION_DROP = 0.12
SNR_GAMMA = 5.0


class TextToNoise(nn.Module):
    """The two modules that learn: text encoder and U-Net, from token ids to predicted noise."""

    def __init__(self, pipeline: StableDiffusionPipeline):
        super().__init__()
        self.text_encoder, self.unet = pipeline.text_encoder, pipeline.unet

    def forward(
        self, tokens: torch.Tensor, choice: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Noise [B, 4, 8, 8] from captions `tokens` [C, 16], a `choice` [B] of them, x_t and t."""
        text = self.text_encoder(tokens).last_hidden_state[choice]
        return self.unet(noisy, timesteps, text, return_dict=False)[0]


class DiffusionLoss:
    """The min-SNR weighted noise prediction error on a random batch of `latents` [N, 4, 8, 8]."""

    def __init__(
        self,
        model: nn.Module,
        pipeline: StableDiffusionPipeline,
        latents: torch.Tensor,
        labels: torch.Tensor,
    ):
        self.model, self.scheduler = model, pipeline.scheduler
        self.latents, self.labels = latents, labels
        # The last row is the empty caption: what guidance calls unconditional.
        self.tokens = pipeline.tokenizer(
            [*all_captions(), ""], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids

    def __call__(self, generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(self.latents), (BATCH_SIZE,), generator=generator)
        template = torch.randint(len(TEMPLATES), (BATCH_SIZE,), generator=generator)
        dropped = torch.rand(BATCH_SIZE, generator=generator) < CAPTION_DROP
        choice = torch.where(dropped, len(self.tokens) - 1, self.labels[index] * len(TEMPLATES) + template)

        noise = torch.randn(BATCH_SIZE, *self.latents.shape[1:], generator=generator)
        timesteps = torch.randint(
            self.scheduler.config.num_train_timesteps, (BATCH_SIZE,), generator=generator
        )
        noisy = self.scheduler.add_noise(self.latents[index], noise, timesteps)
        # In float32: at this size bf16 gains nothing on a CPU, as flash attention's bf16 backward is slow.
        predicted = self.model(self.tokens, choice, noisy, timesteps)
        snr = compute_snr(self.scheduler, timesteps)
        weight = snr.clamp(max=SNR_GAMMA) / snr
        return (weight * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()
