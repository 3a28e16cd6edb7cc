from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_support import STEPS, Invoke
from click.testing import Result
from PIL import Image

from dipgo_compile.errors import ModelError
from dipgo_compile.generate import Job, encode, generate, trained_guidance_scale
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import load_pipeline
from dipgo_compile.runtime import Runtime

PROMPT = "a photo of a dress"
GRAY_LEVELS = 1  # of 255: float32 results that differ in the last bits may round to neighbouring levels


@pytest.fixture(scope="module")
def pipeline(repository: Path) -> object:
    return load_pipeline(str(repository / "models" / "tiny-sd"))


def test_unpruned_image_is_that_of_diffusers(
    bundle: Path, pipeline: object, tmp_path: Path, invoke: Invoke
) -> None:
    output = tmp_path / "image.png"
    result = invoke(
        "generate", bundle, "--prompt", PROMPT, "--negative-prompt", "a bag", "--seed", 5,
        "--guidance-scale", 3, "-o", output,
    )  # fmt: skip
    assert result.exit_code == 0
    expected = pipeline(  # type: ignore[operator]
        PROMPT, negative_prompt="a bag", num_inference_steps=STEPS, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5),
    ).images[0]  # fmt: skip
    drawn = np.asarray(Image.open(output), dtype=np.int16)
    np.testing.assert_allclose(drawn, np.asarray(expected, dtype=np.int16), atol=GRAY_LEVELS, rtol=0)
    assert drawn.std() > 0


def test_several_images(bundle: Path, tmp_path: Path, invoke: Invoke) -> None:
    result = invoke(
        "generate", bundle, "--prompt", "a dress", "--prompt", "a bag", "--seed", 7, "--count", 2,
        "-o", tmp_path / "image.png", "--json", tmp_path / "images.json",
    )  # fmt: skip
    assert result.exit_code == 0
    images = json.loads((tmp_path / "images.json").read_text())["images"]
    assert [(image["prompt"], image["seed"]) for image in images] == [
        ("a dress", 7), ("a dress", 8), ("a bag", 7), ("a bag", 8)
    ]  # fmt: skip
    assert [Path(image["file"]).name for image in images] == [f"image-{index:03d}.png" for index in range(4)]
    assert len({Path(image["file"]).read_bytes() for image in images}) == 4


def test_last_batch_is_filled_up(other_build: Result, pipeline: object) -> None:
    """Three jobs in batches of two; the same seed gives the same image in either place."""
    with Runtime.load(json.loads(other_build.stdout)["bundle"]) as runtime:
        drawn = list(
            generate(runtime, pipeline, [Job(PROMPT, seed) for seed in (5, 6, 5)], guidance_scale=3.0)
        )
    first, second, third = (np.asarray(result.image, dtype=np.int16) for result in drawn)
    np.testing.assert_allclose(first, third, atol=GRAY_LEVELS, rtol=0)
    assert np.abs(first - second).max() > GRAY_LEVELS


def test_halves_lie_in_the_plans_order(bundle: Path, pipeline: object) -> None:
    plan = Runtime.load(bundle).plan
    guided = encode(pipeline, plan, [PROMPT], "")["encoder_hidden_states"]
    swapped = encode(pipeline, plan, [""], PROMPT)["encoder_hidden_states"]
    torch.testing.assert_close(guided, swapped.flip(0))


def test_refuses_another_pipeline(bundle: Path) -> None:
    class Other:
        unet = None
        name_or_path = "elsewhere"

    with Runtime.load(bundle) as runtime, pytest.raises(ModelError, match="not the UNet2DConditionModel"):
        list(generate(runtime, Other(), [Job(PROMPT, 0)]))


def test_guidance_scale_of_the_mask(mask_file: Path) -> None:
    mask = Mask.load(mask_file)
    assert trained_guidance_scale(mask) == 7.5
    document = mask.to_json()
    document["provenance"] = {"guidance_scale": 3.0}
    assert trained_guidance_scale(Mask.from_json(document)) == 3.0
