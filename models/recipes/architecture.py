"""The architecture of tiny-sd: every component of a Stable Diffusion pipeline, scaled to 32x32 images."""

from __future__ import annotations

import json

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.recipes.fashion_mnist import all_captions

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MAX_TOKENS = 16
TEXT_WIDTH = 64
LATENT_CHANNELS = 4
LATENT_SIZE = 8


def build_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE in CLIP's format: any text encodes, and words of the captions are single tokens."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(
        all_captions(),
        trainers.BpeTrainer(end_of_word_suffix=WORD_END, initial_alphabet=bytes_, show_progress=False),
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    pieces = [*bytes_, *(byte + WORD_END for byte in bytes_), *(left + right for left, right in merges)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys([*pieces, START, END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text model; its output is [B, 16, 64]."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_vae() -> AutoencoderKL:
    """An autoencoder from [B, 3, 32, 32] in [-1, 1] to [B, 4, 8, 8]."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=4 * LATENT_SIZE,
    )


def build_unet() -> UNet2DConditionModel:
    """Stable Diffusion's U-Net, four down blocks, a mid block and four up blocks, on [B, 4, 8, 8]."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 80, 80, 80),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=1,
        # diffusers reads `attention_head_dim` as the number of heads, as Stable Diffusion 1.x set it.
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """DDIM with Stable Diffusion 1.x's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def build_pipeline(seed: int) -> StableDiffusionPipeline:
    """The whole pipeline with random weights drawn from `seed`."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    return StableDiffusionPipeline(
        vae=build_vae(),
        text_encoder=build_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=build_unet(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
