"""Bundles that begin with an image, against diffusers' image-to-image pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from whole import Whole, Wholes

from dipgo_compile.bundle import open_bundle
from dipgo_compile.cli import main
from dipgo_compile.compare import compare
from dipgo_compile.drawing.conditions import encode
from dipgo_compile.errors import InputError, ScheduleError
from dipgo_compile.generate import Job as ImageJob
from dipgo_compile.generate import generate
from dipgo_compile.mask import Mask
from dipgo_compile.measure.comparison import relative_l2
from dipgo_compile.measure.rows import Job, dense, plan, prepare, supernet
from dipgo_compile.measure.rows import torch as torch_row
from dipgo_compile.models.source import make_scheduler
from dipgo_compile.program import Array
from dipgo_compile.runtime import Runtime

STEPS, SEED, SCALE = 6, 5, 3.0
PROMPT = "a photo of a dress"
TOLERANCE = 1e-3  # relative L2; float32 rounding gives 1e-6, another start or scale of the noise 1e-1
GRAY_LEVELS = 1  # of 255: what differs in the last bits may round to neighbouring levels
# Name, step, a strength that stands for it. PLMS's second and third call share a timestep.
STARTS = [
    ("ddim", 2, 0.7),
    ("plms", 1, 0.84),
    ("dpm++2m-karras", 3, 0.5),
    ("euler", 0, 1.0),
    ("heun", 4, 0.34),
]


@pytest.fixture(scope="module")
def whole(wholes: Wholes) -> Whole:
    return wholes("stable_diffusion")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def pruned(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pruned") / "m.dipgo"
    return whole.build(whole.mask(STEPS, "ddim", seed=4), path, start_step=2)


def drawn(whole: Whole, mask: Mask, strength: float, image: Any, output_type: str) -> Any:
    """What the image-to-image pipeline makes with the denoiser that the pipeline has."""
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(
        **whole.pipeline.components, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(mask.scheduler.class_name, mask.scheduler.config)
    return pipeline(
        PROMPT,
        image=image,
        strength=strength,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        generator=torch.Generator().manual_seed(SEED),
        output_type=output_type,
    ).images


def image_latents() -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def denoised(whole: Whole, runtime: Runtime) -> Array:
    conditions = encode(whole.pipeline, runtime.plan, [PROMPT], "")
    return runtime.denoise(
        seed=SEED, guidance_scale=SCALE, image_latents=image_latents().numpy(), **conditions
    )


@pytest.mark.parametrize(("name", "step", "strength"), STARTS)
def test_an_unpruned_bundle_is_the_pipeline(
    name: str, step: int, strength: float, whole: Whole, tmp_path: Path
) -> None:
    mask = whole.mask(STEPS, name)
    whole.scheduled(mask)
    expected = drawn(whole, mask, strength, image_latents(), "latent").numpy()
    with Runtime.load(whole.build(mask, tmp_path / "m.dipgo", start_step=step)) as runtime:
        assert relative_l2(denoised(whole, runtime), expected) < TOLERANCE
        whole.host(runtime.as_unet())
        hosted = drawn(whole, mask, strength, image_latents(), "latent").numpy()
        assert relative_l2(hosted, expected) < TOLERANCE
    whole.scheduled(mask)


def test_the_refiner_of_stable_diffusion_xl_is_its_pipeline(
    wholes: Wholes, picture: Image.Image, tmp_path: Path
) -> None:
    """It reads an aesthetic score, which is another one in the half without the prompt."""
    refiner = wholes("stable_diffusion_xl_refiner")
    mask = refiner.mask(STEPS)
    (expected,) = refiner.scheduled(mask)(
        PROMPT,
        image=picture,
        strength=0.5,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        generator=torch.Generator().manual_seed(SEED),
    ).images
    with Runtime.load(refiner.build(mask, tmp_path / "m.dipgo", start_step=3)) as runtime:
        assert runtime.plan.condition("time_ids").shape == (2, 5)
        (made,) = generate(
            runtime, refiner.pipeline, [ImageJob(PROMPT, SEED)], guidance_scale=SCALE, image=picture
        )
    pixels = made.pixels.astype(np.int16)
    np.testing.assert_allclose(pixels, np.asarray(expected, np.int16), atol=GRAY_LEVELS, rtol=0)


def test_a_pruned_bundle_is_the_supernet(pruned: Path) -> None:
    compare(pruned, seed=SEED, guidance_scale=SCALE).check()


def test_the_calls_before_are_dropped_and_the_first_is_whole(whole: Whole, pruned: Path) -> None:
    made, mask = open_bundle(pruned).plan, whole.mask(STEPS, "ddim", seed=4)
    assert [call.timestep for call in made.program.calls] == list(mask.scheduler.timesteps[2:])
    assert 0 in made.program.calls_with_runs() and not all(mask.keep[2])
    assert made.schedule["start_step"] == 2
    unpruned = open_bundle(whole.build(whole.mask(STEPS), pruned.with_name("dense.dipgo"))).plan
    assert made.macs["dense"] * STEPS == unpruned.macs["dense"] * (STEPS - 2)
    assert made.macs["dense"] / (STEPS - 2) <= made.macs["kept"] < made.macs["dense"]
    assert Mask.load(pruned / "mask.json").keep == mask.keep


def test_rows_of_a_benchmark_begin_there_too(whole: Whole, pruned: Path, tmp_path: Path) -> None:
    bundle = open_bundle(pruned)
    job = Job(str(pruned), whole.model.source, str(tmp_path), 1, SCALE, start_step=2)
    prepare.store_inputs(bundle, tmp_path)
    prepare.store_dense(bundle, job.source, tmp_path)
    latents = {row.__name__: row.load(job)() for row in (dense, torch_row, plan, supernet)}
    assert relative_l2(latents[dense.__name__], latents[torch_row.__name__]) < TOLERANCE
    assert relative_l2(latents[plan.__name__], latents[supernet.__name__]) < TOLERANCE
    assert relative_l2(latents[plan.__name__], latents[dense.__name__]) > 10 * TOLERANCE


def test_older_readers_ask_for_the_image_by_name(pruned: Path) -> None:
    interface = json.loads((pruned / "plan.json").read_text())["interface"]
    assert interface["image_latents"] in interface["conditions"]
    assert open_bundle(pruned).plan.interface.conditions == ("encoder_hidden_states",)


def test_an_image_too_many_or_too_few(whole: Whole, pruned: Path, tmp_path: Path) -> None:
    with Runtime.load(pruned) as runtime:
        conditions = encode(whole.pipeline, runtime.plan, [PROMPT], "")
        with pytest.raises(InputError, match="none was given") as caught:
            runtime.denoise(seed=SEED, **conditions)
        assert "image_latents" in str(caught.value.mend)
        with pytest.raises(InputError, match="has shape"):
            runtime.denoise(seed=SEED, image_latents=image_latents()[:, :3], **conditions)
        with pytest.raises(InputError, match="none was given"):
            generate(runtime, whole.pipeline, [ImageJob(PROMPT, SEED)])
    bundle = whole.build(whole.mask(STEPS), tmp_path / "m.dipgo")
    with Runtime.load(bundle) as runtime, pytest.raises(InputError, match="noise alone"):
        runtime.denoise(seed=SEED, image_latents=image_latents(), **conditions)


@pytest.mark.parametrize(("scheduler", "step"), [("ddim", STEPS), ("FlowMatchEulerDiscreteScheduler", 2)])
def test_steps_that_no_loop_begins_with(scheduler: str, step: int, whole: Whole, tmp_path: Path) -> None:
    mask = whole.mask(STEPS, scheduler)
    with pytest.raises(ScheduleError, match="cannot begin with"):
        whole.build(mask, tmp_path / "m.dipgo", start_step=step)


def test_on_the_command_line(whole: Whole, picture: Image.Image, tmp_path: Path) -> None:
    mask = whole.mask(STEPS, "euler-ancestral")
    (expected,) = drawn(whole, mask, 0.5, picture, "pil")
    mask.save(tmp_path / "mask.json")
    picture.save(tmp_path / "from.png")
    bundle, output = tmp_path / "m.dipgo", tmp_path / "to.png"
    build = ["build", "--mask", tmp_path / "mask.json", "--start-step", 3, "-o", bundle]
    draw = ["generate", bundle, "--prompt", PROMPT, "--seed", SEED, "--guidance-scale", SCALE, "-o", output]
    for arguments in (build, [*draw, "--image", tmp_path / "from.png"]):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    pixels = np.asarray(Image.open(output), np.int16)
    np.testing.assert_allclose(pixels, np.asarray(expected, np.int16), atol=GRAY_LEVELS, rtol=0)
    assert "EulerAncestralDiscreteScheduler, 6 steps from step 3" in _inspect(bundle)

    refused = CliRunner().invoke(main, [str(argument) for argument in draw])
    assert refused.exit_code != 0 and "--image FILE" in refused.output
    refused = CliRunner().invoke(main, [*map(str, draw), "--image", str(tmp_path / "mask.json")])
    assert refused.exit_code != 0 and "not a picture" in refused.output


def _inspect(bundle: Path) -> str:
    return CliRunner().invoke(main, ["inspect", str(bundle)], catch_exceptions=False).output
