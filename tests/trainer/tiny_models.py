"""Denoisers of a few thousand parameters, with random weights."""

from __future__ import annotations

import torch
from dipgo_trainer.cascade import Topology

from dipgo_compile.mask import Keep, Mask, ModelRef, SchedulerRef
from dipgo_compile.models import family_of
from dipgo_compile.models.presets import SD_BETAS
from dipgo_compile.models.source import Model, make_scheduler

UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "sample_size": 8,
    "num_embeds_ada_norm": 10,
}
TOKENS = 3
SCHEDULER = "DDIMScheduler"
SCHEDULER_CONFIG = {**SD_BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


def build(class_name: str, config: dict[str, object]) -> Model:
    import diffusers

    torch.manual_seed(0)
    denoiser = getattr(diffusers, class_name)(**config).eval().requires_grad_(False)
    # adaLN-zero starts a DiT as the identity, where every mask gives the same: make all weights count.
    for parameter in denoiser.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    scheduler = make_scheduler(SCHEDULER, SCHEDULER_CONFIG)
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


def conditions_of(model: Model, images: int = 1, guided: bool = True) -> dict[str, torch.Tensor]:
    """Random conditions, batched for guidance."""
    generator = torch.Generator().manual_seed(1)
    specs = model.inputs(model.geometry(images * (1 + guided)))
    made = {}
    for spec in specs:
        if spec.role == "condition":
            shape = spec.spec.shape
            made[spec.name] = (
                torch.randn(shape, generator=generator)
                if spec.limit is None
                else torch.randint(spec.limit, shape, generator=generator)
            )
    return made


def noise_of(images: int = 1, seed: int = 2) -> torch.Tensor:
    return torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def scheduler_ref(steps: int, class_name: str = SCHEDULER) -> SchedulerRef:
    scheduler = make_scheduler(class_name, SCHEDULER_CONFIG)
    scheduler.set_timesteps(steps)
    config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    return SchedulerRef(class_name, config, steps, tuple(float(t) for t in scheduler.timesteps))


def mask_of(
    model: Model, blocks: tuple[str, ...], keep: Keep, schedule: SchedulerRef, reuse: str = "output"
) -> Mask:
    return Mask(ModelRef(model.source, model.class_name, model.config_sha256), schedule, blocks, keep, reuse)  # type: ignore[arg-type]


def chain_topology(blocks: tuple[str, ...], macs: tuple[int, ...] | None = None, glue: int = 10) -> Topology:
    """Blocks one after the other, each read by the next, the last by the output."""
    following = (*blocks[1:], None)
    consumers = {block: frozenset({reader}) for block, reader in zip(blocks, following, strict=True)}
    return Topology(blocks, consumers, macs or (100,) * len(blocks), glue)
