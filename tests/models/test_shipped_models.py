from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from idx_files import needs_fashion_mnist

from models.recipes import fashion_mnist
from models.recipes.classifier import DEFAULT_DIRECTORY as CLASSIFIER
from models.recipes.classifier import accuracy, load_classifier
from models.recipes.evaluation import Drawing, captions_for, generate
from models.recipes.metrics import class_agreement
from models.recipes.tiny_sd import DEFAULT_DIRECTORY as TINY_SD
from models.recipes.tiny_sd import DEFAULT_GUIDANCE

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(TINY_SD)


def test_both_models_stay_small() -> None:
    files = [path for folder in (TINY_SD, CLASSIFIER) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12 * MEGABYTE


def test_four_steps_give_a_finite_picture_that_follows_the_prompt(pipeline: StableDiffusionPipeline) -> None:
    def draw(prompt: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipeline(prompt, num_inference_steps=4, generator=generator, output_type="pt").images

    boot, trousers = draw("a photo of an ankle boot"), draw("a photo of a pair of trousers")
    assert boot.shape == (1, 3, 32, 32)
    assert boot.isfinite().all()
    assert (boot - trousers).abs().mean() > 0.02


def test_unet_has_nine_blocks(pipeline: StableDiffusionPipeline) -> None:
    unet = pipeline.unet
    assert (len(unet.down_blocks), len(unet.up_blocks)) == (4, 4)
    assert unet.mid_block is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_component_loads_in_the_asked_precision(dtype: torch.dtype) -> None:
    loaded = StableDiffusionPipeline.from_pretrained(TINY_SD, dtype=dtype)
    assert {loaded.unet.dtype, loaded.vae.dtype, loaded.text_encoder.dtype} == {dtype}


def test_tokenizer_takes_any_text(pipeline: StableDiffusionPipeline) -> None:
    tokenizer = pipeline.tokenizer
    assert tokenizer.tokenize("a photo of an ankle boot") == [
        f"{word}</w>" for word in ("a", "photo", "of", "an", "ankle", "boot")
    ]
    assert tokenizer.unk_token_id not in tokenizer("Überzieher, 3 €", add_special_tokens=False).input_ids


def test_images_are_read_as_their_prompted_class(pipeline: StableDiffusionPipeline) -> None:
    drawing = Drawing(40, steps=20, guidance=DEFAULT_GUIDANCE, seed=1)
    images = generate(pipeline, captions_for(drawing.labels), drawing)
    assert class_agreement(images, drawing.labels, load_classifier()) >= 0.75


@needs_fashion_mnist
def test_classifier_reads_the_test_split() -> None:
    assert accuracy(load_classifier(), fashion_mnist.load("test", limit=2000)) >= 0.90


@pytest.mark.parametrize(
    ("folder", "file", "keys"),
    [
        (TINY_SD, "evaluation.json", ["class_agreement", "fid"]),
        (CLASSIFIER, "config.json", ["test_accuracy"]),
    ],
)
def test_card_quotes_the_measured_figures(folder: Path, file: str, keys: list[str]) -> None:
    card, figures = (folder / "README.md").read_text(), json.loads((folder / file).read_text())
    for key in keys:
        quoted = f"{figures[key]:.3f}" if key == "fid" else f"{figures[key]:.1%}".replace("%", " %")
        assert quoted in card, f"{key} of the card is not {quoted}"
