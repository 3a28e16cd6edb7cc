"""Training of tiny-sd's autoencoder, and the latents that the denoiser learns from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from models.recipes.classifier import FashionClassifier
from models.recipes.fashion_mnist import FashionMnist

BATCH_SIZE = 32
KL_WEIGHT = 5e-6
PERCEPTUAL_WEIGHT = 0.2


def autoencoder_loss(
    vae: AutoencoderKL, classifier: FashionClassifier, data: FashionMnist, generator: torch.Generator
) -> torch.Tensor:
    """L1 on pixels, L1 on the classifier's activations (sharper texture), and a trace of KL."""
    images = data.rgb(torch.randint(len(data), (BATCH_SIZE,), generator=generator)) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        seen = classifier.activations(decoded / 2 + 0.5)
        with torch.no_grad():
            expected = classifier.activations(images / 2 + 0.5)
    perceptual = sum(F.l1_loss(a.float(), b.float()) for a, b in zip(seen, expected, strict=True))
    pixels = F.l1_loss(decoded.float(), images)
    return pixels + PERCEPTUAL_WEIGHT * perceptual + KL_WEIGHT * posterior.kl().float().mean()


@torch.no_grad()
def encode_all(vae: AutoencoderKL, data: FashionMnist) -> torch.Tensor:
    """The posterior means of `data`, unscaled float32 [N, 4, 8, 8]."""
    batches = torch.arange(len(data)).split(BATCH_SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat(
            [vae.encode(data.rgb(index) * 2 - 1).latent_dist.mode().float() for index in batches]
        )


@torch.no_grad()
def reconstruction_error(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean absolute error of `images` [N, 3, 32, 32] in [0, 1] after encoding and decoding."""
    latents = vae.encode(images * 2 - 1).latent_dist.mode()
    decoded = vae.decode(latents).sample.clamp(-1, 1) / 2 + 0.5
    return (decoded - images).abs().mean().item()
