"""Whole diffusers pipelines of a few thousand random weights: denoiser, text encoders, tokenizer, image
decoder. The tokenizer is that of models/tiny-sd.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import diffusers
import torch
import transformers
from transformers import CLIPTextConfig, CLIPTokenizer, T5Config

from dipgo_compile.build import BuildOptions, Exported, build
from dipgo_compile.mask import Mask, ModelRef
from dipgo_compile.models.presets import SD_BETAS
from dipgo_compile.models.source import load, load_pipeline, make_scheduler
from dipgo_compile.schedules.schedulers import scheduler_ref
from tests.families.tiny import DIT, TINY, make_denoiser

ALL_CLASSES = 1000  # DiTPipeline's "no class" is 1000, whatever its model says
TINY_SD = Path(__file__).parents[2] / "models" / "tiny-sd"


class Whole:
    """A saved pipeline, loaded as a user loads it, and what builds need of its denoiser."""

    def __init__(self, kind: str, path: Path) -> None:
        torch.manual_seed(0)
        KINDS[kind]().save_pretrained(path)
        self.kind = kind
        self.pipeline = load_pipeline(str(path))
        self.denoiser = getattr(self.pipeline, "unet", None) or self.pipeline.transformer
        self.model = load(str(path))
        self._blocks = self.model.blocks()
        self._exported: dict[bool, Exported] = {}

    def mask(self, steps: int, scheduler: str | None = None, seed: int | None = None, **options: Any) -> Mask:
        """All ones, or with ``seed`` random rows of every density. ``options`` of the scheduler come on top
        of the model's.
        """
        model = replace(self.model, scheduler_config={**self.model.scheduler_config, **options})
        reference, blocks = scheduler_ref(scheduler, model, steps), self._blocks
        generator = random.Random(seed)
        rows = [[True] * len(blocks) for _ in reference.timesteps]
        for row in rows[1:] if seed is not None else []:
            density = generator.choice([0.0, 0.3, 0.7, 1.0])
            row[:] = [generator.random() < density for _ in blocks]
        return Mask(
            ModelRef(model.source, model.class_name, model.config_sha256),
            reference,
            blocks,
            tuple(map(tuple, rows)),
        )

    def build(self, mask: Mask, path: Path, **options: Any) -> Path:
        """A bundle. The denoiser is exported once with guidance and once without."""
        chosen = BuildOptions(**options)
        if chosen.guidance not in self._exported:
            self._exported[chosen.guidance] = Exported.of(self.model, chosen)
        return build(mask, output=path, options=chosen, exported=self._exported[chosen.guidance]).path

    def scheduled(self, mask: Mask) -> Any:
        """The pipeline, with the mask's scheduler and its own denoiser."""
        self.pipeline.scheduler = make_scheduler(mask.scheduler.class_name, mask.scheduler.config)
        return self.host(self.denoiser)

    def host(self, denoiser: Any) -> Any:
        """The pipeline, with another denoiser."""
        setattr(self.pipeline, "unet" if hasattr(self.pipeline, "unet") else "transformer", denoiser)
        return self.pipeline


Wholes: TypeAlias = Callable[[str], Whole]


def stable_diffusion() -> Any:
    return diffusers.StableDiffusionPipeline(
        unet=_tiny("sd15"), text_encoder=_clip(8), **_common(), **_no_safety_checker()
    )


def stable_diffusion_2() -> Any:
    """2.1: the denoiser predicts the velocity."""
    common = {**_common(), "scheduler": _ddim(prediction_type="v_prediction")}
    return diffusers.StableDiffusionPipeline(
        unet=_tiny("sd21"), text_encoder=_clip(8), **common, **_no_safety_checker()
    )


def bk_sdm() -> Any:
    return diffusers.StableDiffusionPipeline(
        unet=_tiny("bk-sdm-small"), text_encoder=_clip(8), **_common(), **_no_safety_checker()
    )


def latent_consistency() -> Any:
    common = {**_common(), "scheduler": diffusers.LCMScheduler(**SD_BETAS, original_inference_steps=40)}
    return diffusers.LatentConsistencyModelPipeline(
        unet=_tiny("lcm"), text_encoder=_clip(8), **common, **_no_safety_checker()
    )


def stable_diffusion_xl() -> Any:
    common = {**_common(), "scheduler": diffusers.EulerDiscreteScheduler(**SD_BETAS)}
    return diffusers.StableDiffusionXLPipeline(
        unet=_tiny("sdxl"),
        text_encoder=_clip(4),
        text_encoder_2=_clip(4, projection=8),
        tokenizer_2=common["tokenizer"],
        **common,
    )


def stable_diffusion_xl_refiner() -> Any:
    """Image to image, with the second text encoder alone."""
    common = {**_common(), "scheduler": diffusers.EulerDiscreteScheduler(**SD_BETAS)}
    tokenizer = common.pop("tokenizer")
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        unet=_tiny("sdxl-refiner"),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=_clip(8, projection=8),
        tokenizer_2=tokenizer,
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        **common,
    )


def dit() -> Any:
    config = {**DIT, "num_embeds_ada_norm": ALL_CLASSES}
    denoiser = make_denoiser("DiTTransformer2DModel", config)
    made = diffusers.DiTPipeline(transformer=denoiser, vae=_vae(), scheduler=_ddim())
    made.register_to_config(id2label={0: "sneaker", 1: "boot, ankle boot"})
    return made


def pixart() -> Any:
    config = T5Config(
        vocab_size=1000,
        d_model=10,
        d_kv=5,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    common = {**_common(), "scheduler": diffusers.DPMSolverMultistepScheduler(**SD_BETAS)}
    text_encoder = transformers.T5EncoderModel(config).eval()
    return diffusers.PixArtAlphaPipeline(
        transformer=_tiny("pixart-alpha-512"), text_encoder=text_encoder, **common
    )


KINDS: Mapping[str, Callable[[], Any]] = {
    made.__name__: made
    for made in (
        stable_diffusion,
        stable_diffusion_2,
        bk_sdm,
        latent_consistency,
        stable_diffusion_xl,
        stable_diffusion_xl_refiner,
        dit,
        pixart,
    )
}


def _tiny(name: str) -> Any:
    return make_denoiser(*TINY[name])


def _common() -> dict[str, Any]:
    tokenizer = CLIPTokenizer.from_pretrained(TINY_SD / "tokenizer")
    return {"tokenizer": tokenizer, "vae": _vae(), "scheduler": _ddim()}


def _ddim(**options: Any) -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(
        **SD_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **options
    )


def _no_safety_checker() -> dict[str, Any]:
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def _vae() -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()


def _clip(width: int, projection: int | None = None) -> Any:
    config = CLIPTextConfig(
        vocab_size=582,
        bos_token_id=580,
        eos_token_id=581,
        pad_token_id=581,
        max_position_embeddings=16,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=projection or width,
    )
    made = transformers.CLIPTextModel if projection is None else transformers.CLIPTextModelWithProjection
    return made(config).eval()
