from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_support import STEPS, Invoke
from click.testing import Result
from PIL import Image

from dipgo_compile.drawing.conditions import encode
from dipgo_compile.errors import InputError, ModelError
from dipgo_compile.generate import Job, generate, trained_guidance_scale
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import load_pipeline
from dipgo_compile.runtime import Runtime

PROMPT = "a photo of a dress"
GRAY_LEVELS = 1  # of 255: float32 results that differ in the last bits may round to neighbouring levels


@pytest.fixture(scope="module")
def pipeline(repository: Path) -> object:
    return load_pipeline(str(repository / "models" / "tiny-sd"))


@pytest.mark.parametrize("model", [(), ("--model", "models/tiny-sd")], ids=["bundle", "pytorch"])
def test_unpruned_image_is_that_of_diffusers(
    bundle: Path,
    pipeline: object,
    tmp_path: Path,
    invoke: Invoke,
    model: tuple[str, ...],
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever text encoder and image decoder are used."""
    monkeypatch.chdir(repository)
    output = tmp_path / "image.png"
    result = invoke(
        "generate", bundle, "--prompt", PROMPT, "--negative-prompt", "a bag", "--seed", 5,
        "--guidance-scale", 3, "-o", output, *model,
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


ABSENT = (
    "PIL", "accelerate", "diffusers", "jsonschema", "matplotlib", "onnx", "onnx_ir", "onnxscript", "openvino",
    "rich", "safetensors", "torch", "transformers",
)  # fmt: skip


def test_a_bundle_with_its_pipeline_needs_no_pytorch(bundle: Path, tmp_path: Path, invoke: Invoke) -> None:
    """Of the packages that building takes, none is there: the image is the same."""
    drawn, expected = tmp_path / "drawn.png", tmp_path / "expected.png"
    blocked = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))"
    call = f"from dipgo_compile.cli import main; main(['generate', {str(bundle)!r}, *sys.argv[1:]])"
    options = ["--prompt", PROMPT, "--seed", "7", "-o"]
    subprocess.run([sys.executable, "-c", f"{blocked}; {call}", *options, drawn], check=True)
    assert invoke("generate", bundle, *options, expected).exit_code == 0
    assert drawn.read_bytes() == expected.read_bytes()


def test_other_formats_go_through_pillow(bundle: Path, tmp_path: Path, invoke: Invoke) -> None:
    for name in ("image.png", "image.bmp"):
        assert invoke("generate", bundle, "--prompt", PROMPT, "-o", tmp_path / name).exit_code == 0
    with Image.open(tmp_path / "image.png") as png, Image.open(tmp_path / "image.bmp") as bmp:
        assert bmp.format == "BMP"
        np.testing.assert_array_equal(np.asarray(png), np.asarray(bmp))


def test_tokens_are_those_of_the_pipeline(bundle: Path, pipeline: Any, invoke: Invoke) -> None:
    arguments = ("tokenize", bundle, "--prompt", PROMPT, "--negative-prompt", "a bag")
    expected = pipeline.tokenizer(["a bag", PROMPT], padding="max_length", truncation=True).input_ids
    text = invoke(*arguments).stdout
    assert [[int(token) for token in line.split()] for line in text.splitlines()] == expected
    assert json.loads(invoke(*arguments, "--json").stdout) == {
        "input_ids": expected, "halves": ["uncond", "cond"]
    }  # fmt: skip


def test_tokenize_wants_a_prompt_for_each_image(bundle: Path, invoke: Invoke) -> None:
    result = invoke("tokenize", bundle, "--prompt", "a bag", "--prompt", PROMPT)
    assert result.exit_code == InputError.exit_code
    assert "2 prompts are not one for each of 1 images" in result.stderr


def test_tokenize_says_how_to_get_a_tokenizer(other_build: Result, invoke: Invoke) -> None:
    result = invoke("tokenize", json.loads(other_build.stdout)["bundle"], "--prompt", PROMPT)
    assert result.exit_code == InputError.exit_code
    assert "build it with --pipeline" in result.stderr


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
