"""The shipped diffusion transformer: as diffusers loads it, and as a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline
from safetensors.torch import load_file

from dipgo_compile.build import build
from dipgo_compile.compare import compare
from dipgo_compile.generate import Job, generate
from dipgo_compile.mask import Mask, ModelRef
from dipgo_compile.models.source import executed_scopes, load
from dipgo_compile.runtime import Runtime
from dipgo_compile.schedules.schedulers import scheduler_ref
from models.recipes.classifier import load_classifier
from models.recipes.fashion_mnist import CLASS_NAMES
from models.recipes.metrics import class_agreement
from models.recipes.tiny_dit import DEFAULT_DIRECTORY as TINY_DIT
from models.recipes.tiny_dit import DEFAULT_GUIDANCE
from models.recipes.transformer import load_pipeline

STEPS = 12
MASKS = sorted((TINY_DIT / "masks").glob("*.json"))


@pytest.fixture(scope="module")
def pipeline() -> DiTPipeline:
    return load_pipeline(TINY_DIT)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every third call whole, of the next one the last five blocks, of the third nothing."""
    model = load(str(TINY_DIT))
    blocks = model.blocks()
    ending = (False,) * 7 + (True,) * 5
    cycle = ((True,) * len(blocks), ending, (False,) * len(blocks))
    mask = Mask(
        ModelRef(model.source, model.class_name, model.config_sha256),
        scheduler_ref("ddim", model, STEPS),
        blocks,
        tuple(cycle[call % 3] for call in range(STEPS)),
    )
    return build(mask, output=tmp_path_factory.mktemp("bundle") / "tiny-dit.dipgo").path


def test_it_is_complete_and_small() -> None:
    loaded = DiTPipeline.from_pretrained(TINY_DIT)
    assert loaded.labels == {name: label for label, name in enumerate(CLASS_NAMES)}
    assert {loaded.transformer.dtype, loaded.vae.dtype} == {torch.float32}
    (weights,) = (TINY_DIT / "transformer").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    assert sum(path.stat().st_size for path in TINY_DIT.rglob("*") if path.is_file()) <= 10_000_000


def test_the_null_class_of_diffusers_works(pipeline: DiTPipeline) -> None:
    """`DiTPipeline` passes 1000 for "no class"; the recipe's loader makes it the model's own null class."""
    inputs = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    null, imagenets, boot = (
        pipeline.transformer(*inputs, class_labels=torch.tensor([label])).sample for label in (10, 1000, 9)
    )
    assert torch.equal(null, imagenets)
    assert (null - boot).abs().max() > 0.1


def test_the_bundle_agrees_with_the_supernet(bundle: Path) -> None:
    compare(bundle, guidance_scale=DEFAULT_GUIDANCE).check()


def test_the_bundle_draws_what_is_asked_for(bundle: Path, pipeline: DiTPipeline) -> None:
    labels = torch.arange(20) % len(CLASS_NAMES)
    jobs = [Job(CLASS_NAMES[label], seed) for seed, label in enumerate(labels.tolist())]
    with Runtime.load(bundle) as runtime:
        drawn = list(generate(runtime, pipeline, jobs, guidance_scale=DEFAULT_GUIDANCE))
    images = torch.from_numpy(np.stack([np.asarray(one.image) for one in drawn])).permute(0, 3, 1, 2) / 255
    assert class_agreement(images, labels, load_classifier()) >= 0.7  # chance is 0.1


@pytest.mark.parametrize("path", MASKS, ids=[path.stem for path in MASKS])
def test_masks_are_the_models_and_their_cards_quote_them(path: Path) -> None:
    mask, model = Mask.load(path), load(str(TINY_DIT), weights=False)
    mask.check_against(model, executed_scopes(model))
    card = (TINY_DIT / "masks" / "README.md").read_text()
    early, middle, late = (f"{share:.0%}".replace("%", " %") for share in mask.kept_by_third)
    assert f"| `{path.name}` | {early} | {middle} | {late} |" in card


def test_card_quotes_the_measured_figures() -> None:
    card, figures = (
        (TINY_DIT / "README.md").read_text(),
        json.loads((TINY_DIT / "evaluation.json").read_text()),
    )
    assert f"{figures['class_agreement']:.1%}".replace("%", " %") in card
    assert f"{figures['fid']:.3f}" in card
