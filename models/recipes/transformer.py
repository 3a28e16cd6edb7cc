"""tiny-dit's pipeline: a diffusion transformer (DiT) on the latents of tiny-sd's autoencoder.

The sizes are a compromise with two CPU cores. With patches of 2x2 a latent is 16 tokens, and a training step
takes a fifth of the time of 64 single pixels: a small model trained long beats a big one trained short.
The output has no channels for a learned variance. DDIM reads none, and the noise alone trains with one plain
loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel
from torch import nn

from models.recipes.architecture import LATENT_CHANNELS, LATENT_SIZE, build_scheduler
from models.recipes.conditions import NO_CLASS
from models.recipes.fashion_mnist import CLASS_NAMES

BLOCKS, HEADS, HEAD_WIDTH = 12, 4, 28


def build_transformer() -> DiTTransformer2DModel:
    """Twelve blocks of width 112 on [B, 4, 8, 8], ten classes and the null class, initialised as DiT is."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=BLOCKS,
        sample_size=LATENT_SIZE,
        patch_size=2,
        num_embeds_ada_norm=len(CLASS_NAMES),
    )
    _initialise(transformer)
    return transformer


def _initialise(transformer: DiTTransformer2DModel) -> None:
    """adaLN-Zero (Peebles and Xie, section 3.2): every block starts as the identity, the output as zero.

    diffusers leaves its modules to PyTorch's defaults, since it expects trained weights.
    """
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    zero = [block.norm1.linear for block in transformer.transformer_blocks]
    for linear in (*zero, transformer.proj_out_1, transformer.proj_out_2):
        nn.init.zeros_(linear.weight)


def build_pipeline(vae: AutoencoderKL, seed: int) -> DiTPipeline:
    """`vae` and a transformer with random weights drawn from `seed`."""
    torch.manual_seed(seed)
    names = dict(enumerate(CLASS_NAMES))
    pipeline = DiTPipeline(build_transformer(), vae, build_scheduler(), id2label=names)
    pipeline.register_to_config(id2label=names)  # so that model_index.json has them
    return pipeline


def load_pipeline(directory: Path) -> DiTPipeline:
    """The pipeline in `directory`, in float32, with a null class that guidance can use.

    `DiTPipeline` asks for ImageNet's null class, 1000, whatever the model. The transformer made here has ten
    classes, and takes any higher number for "none".
    """

    def clamp_classes(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return args, {**kwargs, "class_labels": kwargs["class_labels"].clamp(max=NO_CLASS)}

    pipeline = DiTPipeline.from_pretrained(directory)
    pipeline.transformer.register_forward_pre_hook(clamp_classes, with_kwargs=True)
    return pipeline
