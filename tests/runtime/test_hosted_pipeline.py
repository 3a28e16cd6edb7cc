"""An unchanged diffusers pipeline with a plan in the place of its U-Net."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from dipgo_compile.executor import Session
from dipgo_compile.plan import Interface, Plan, Target
from dipgo_compile.program import (
    Allocation,
    Array,
    Call,
    Coefficient,
    Combine,
    Engine,
    MemoryPlan,
    Program,
    Run,
    TensorSpec,
    Term,
)
from dipgo_compile.running.hosted import HostedDenoiser

STEPS = 3
SAMPLE = TensorSpec("float32", (2, 4, 8, 8))
LATENTS = TensorSpec("float32", (1, 4, 8, 8))
TEXT = TensorSpec("float32", (2, 7, 16))


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    made = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=None,
        tokenizer=None,
        unet=unet.eval(),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


class UNetEngine:
    """The U-Net itself as the only engine, so that only the hosting is under test."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> Callable[[], None]:
        sample, timestep, text = (torch.from_numpy(array) for array in inputs)
        (answer,) = outputs
        assert answer is not None

        def run() -> None:
            with torch.no_grad():
                np.copyto(answer, self.unet(sample, timestep, text, return_dict=False)[0].numpy())

        return run


def dense_plan(pipeline: StableDiffusionPipeline) -> Plan:
    """Every call computes everything. The combines between calls stand for the scheduler a host replaces."""
    pipeline.scheduler.set_timesteps(STEPS)
    timesteps = [float(t) for t in pipeline.scheduler.timesteps]
    instructions: list[Run | Combine] = []
    specs = {"latents": LATENTS, "encoder_hidden_states": TEXT}
    for index in range(STEPS):
        source = "latents" if index == 0 else f"e{index - 1}"
        instructions.append(Combine((Term(source, Coefficient(1.0)),), f"s{index}"))
        instructions.append(
            Run("unet", index, (f"s{index}", f"t{index}", "encoder_hidden_states"), (f"e{index}",))
        )
        specs |= {f"s{index}": SAMPLE, f"e{index}": SAMPLE, f"t{index}": TensorSpec("float32", (1,))}
    values = [name for name in specs if not name.startswith("t")]
    program = Program(
        engines=(Engine("unet", (), ("sample", "timestep", "encoder_hidden_states"), ("noise_pred",)),),
        specs=specs,
        inputs=("latents", "encoder_hidden_states"),
        constants={f"t{index}": np.array([t], np.float32) for index, t in enumerate(timesteps)},
        instructions=tuple(instructions),
        calls=tuple(Call(t, f"s{index}", (f"e{index}",)) for index, t in enumerate(timesteps)),
        output=f"e{STEPS - 1}",
    )
    places = {name: Allocation(4096 * index, specs[name].nbytes, 0, 99) for index, name in enumerate(values)}
    return Plan(
        program=program,
        memory=MemoryPlan(places, 4096 * len(values), 4096 * len(values)),
        model={"class": "UNet2DConditionModel", "config": dict(pipeline.unet.config)},
        interface=Interface(
            "sample", "timestep", ("encoder_hidden_states",), "latents", guidance=("uncond", "cond")
        ),
        target=Target("cpu", "fp32"),
        schedule={"class": "DDIMScheduler", "num_inference_steps": STEPS},
        macs={"dense": 1, "kept": 1},
        passes=(),
        engine_files={},
    )


def generate(pipeline: StableDiffusionPipeline, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    prompt, negative = torch.randn((2, 1, 7, 16), generator=generator)
    return np.asarray(
        pipeline(
            prompt_embeds=prompt,
            negative_prompt_embeds=negative,
            num_inference_steps=STEPS,
            guidance_scale=5.0,
            generator=generator,
            output_type="np",
        ).images
    )


def test_an_unchanged_pipeline_makes_the_same_images(pipeline: StableDiffusionPipeline) -> None:
    unet = pipeline.unet
    before = [generate(pipeline, seed) for seed in range(2)]
    engines: Mapping[str, UNetEngine] = {"unet": UNetEngine(unet)}
    denoiser = HostedDenoiser(Session(dense_plan(pipeline), engines))
    pipeline.unet = denoiser
    try:
        after = [generate(pipeline, seed) for seed in range(2)]
    finally:
        pipeline.unet = unet
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, rtol=0)  # the same operations in the same order
    assert np.abs(before[0] - before[1]).max() > 0.05  # the images are not all one grey


def test_the_denoiser_can_be_registered(pipeline: StableDiffusionPipeline) -> None:
    unet = pipeline.unet
    denoiser = HostedDenoiser(Session(dense_plan(pipeline), {"unet": UNetEngine(unet)}))
    try:
        pipeline.register_modules(unet=denoiser)
        assert pipeline.components["unet"] is denoiser
        assert generate(pipeline, 0).shape == (1, 16, 16, 3)
    finally:
        pipeline.register_modules(unet=unet)
