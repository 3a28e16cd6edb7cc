"""What a bundle with its pipeline draws, against the same loop with PyTorch at both ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline

from dipgo_compile.bundle import open_bundle
from dipgo_compile.drawing.draw import Job
from dipgo_compile.errors import InputError
from dipgo_compile.generate import generate
from dipgo_compile.models.source import load_pipeline
from dipgo_compile.runtime import Runtime

GRAY_LEVELS = 1  # of 255: float32 results that differ in the last bits may round to neighbouring levels
JOBS = (Job("a photo of a dress", 5), Job("a bag", 2**32 + 7), Job("«ünïcode» " * 20, 0))


@pytest.fixture(scope="module")
def pruned(pruned_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(pruned_bundle) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def dit_runtime(dit_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(dit_bundle) as runtime:
        yield runtime


def through_diffusers(runtime: Runtime, source: Path, jobs: Sequence[Job], **options: object) -> np.ndarray:
    drawn = generate(runtime, load_pipeline(str(source)), jobs, **options)  # type: ignore[arg-type]
    return np.stack([np.asarray(image.image, dtype=np.int16) for image in drawn])


def test_the_plan_says_what_the_parts_are(pruned_bundle: Path) -> None:
    plan = open_bundle(pruned_bundle).plan
    assert plan.pipeline is not None
    assert set(plan.pipeline.files) == {"text_encoder.onnx", "image_decoder.onnx", "tokenizer.json"}
    assert set(plan.pipeline.files) <= set(plan.files)
    assert plan.pipeline.guidance_scale == 2.0  # the mask's
    assert plan.pipeline.image_decoder.outputs["pixels"].shape == (2, 16, 16, 3)


def test_a_class_conditional_pipeline_has_no_text_encoder(dit_bundle: Path) -> None:
    parts = open_bundle(dit_bundle).plan.pipeline
    assert parts is not None
    assert (parts.text_encoder, parts.tokenizer, parts.files) == (None, None, ("image_decoder.onnx",))


def test_a_pruned_image_is_that_of_pytorchs_ends(pruned: Runtime, stable_diffusion: Path) -> None:
    """Three prompts in batches of two, one of them longer than the text encoder reads."""
    expected = through_diffusers(pruned, stable_diffusion, JOBS, negative_prompt="a shoe", guidance_scale=2.0)
    drawn = np.concatenate([pruned.draw(job.prompt, seed=job.seed, negative_prompt="a shoe") for job in JOBS])
    np.testing.assert_allclose(drawn.astype(np.int16), expected, atol=GRAY_LEVELS, rtol=0)
    assert expected.std() > 0
    assert np.abs(expected[0] - expected[1]).max() > GRAY_LEVELS


@pytest.mark.parametrize("scale", [2.0, 1.0])
def test_split_guidance_draws_the_same(
    pruned: Runtime, split_bundle: Path, stable_diffusion: Path, scale: float
) -> None:
    """By the bundle's own ends and by PyTorch's, three images in batches of two."""
    prompts, options = [job.prompt for job in JOBS], {"negative_prompt": "a shoe", "guidance_scale": scale}
    expected = pruned.draw(prompts, seed=3, **options).astype(np.int16)
    jobs = [Job(prompt, 3 + index) for index, prompt in enumerate(prompts)]
    with Runtime.load(split_bundle) as split:
        drawn = split.draw(prompts, seed=3, **options).astype(np.int16)
        by_diffusers = through_diffusers(split, stable_diffusion, jobs, **options)
    np.testing.assert_allclose(drawn, expected, atol=GRAY_LEVELS, rtol=0)
    np.testing.assert_allclose(by_diffusers, expected, atol=GRAY_LEVELS, rtol=0)


def test_the_guidance_scale_is_the_masks(pruned: Runtime) -> None:
    np.testing.assert_array_equal(
        pruned.draw("a bag", seed=1), pruned.draw("a bag", seed=1, guidance_scale=2.0)
    )
    assert (pruned.draw("a bag", seed=1, guidance_scale=7.5) != pruned.draw("a bag", seed=1)).any()


def test_the_prompt_counts(pruned: Runtime) -> None:
    assert (pruned.draw("a bag", seed=1) != pruned.draw("a dress", seed=1)).any()


def test_conditions_are_those_of_the_pipeline(pruned: Runtime, stable_diffusion: Path) -> None:
    pipeline = load_pipeline(str(stable_diffusion))
    prompts = ["a photo of a dress", "a bag"]
    cond, uncond = pipeline.encode_prompt(prompts, "cpu", 1, True, negative_prompt=["a shoe"] * 2)[:2]
    encoded = pruned.encode(pruned.pipeline.tokenize(prompts, "a shoe"))["encoder_hidden_states"]
    expected = torch.cat([uncond, cond]).detach().numpy()
    np.testing.assert_allclose(encoded, expected, atol=1e-5, rtol=0)  # of layer-normalised values around 1


@pytest.mark.parametrize(("prompt", "number"), [("trouser", "1"), ("top", "0"), ("7", "7")])
def test_a_class_goes_by_name_or_number(dit_runtime: Runtime, dit: Path, prompt: str, number: str) -> None:
    """The loop computes in bfloat16, where there is such a thing; the image decoder always in float32."""
    drawn = dit_runtime.draw(prompt, seed=3, guidance_scale=4.0).astype(np.int16)
    expected = through_diffusers(dit_runtime, dit, [Job(number, 3)], guidance_scale=4.0)
    np.testing.assert_allclose(drawn, expected, atol=GRAY_LEVELS, rtol=0)
    other = dit_runtime.draw("8", seed=3, guidance_scale=4.0)
    assert np.abs(drawn - other).max() > GRAY_LEVELS


def test_an_unknown_class_lists_those_there_are(dit_runtime: Runtime) -> None:
    for prompt in ("dress", "1000"):
        with pytest.raises(InputError, match=f"no class '{prompt}'") as caught:
            dit_runtime.draw(prompt)
        assert caught.value.available == ("0 to 999", "T-shirt", "top", "trouser")
    with pytest.raises(InputError, match="its condition is a class"):
        dit_runtime.encode(np.zeros((2, 16), np.int64))


def test_labels_come_from_the_pipeline(dit_runtime: Runtime, dit: Path) -> None:
    assert dit_runtime.pipeline.parts.classes == DiTPipeline.from_pretrained(dit).labels
