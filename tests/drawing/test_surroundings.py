"""Which pipelines can go into a bundle, and what is said of those that can't."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dipgo_compile.build import BuildOptions, build
from dipgo_compile.drawing.surroundings import check_surroundings, load_surroundings, model_index
from dipgo_compile.errors import ModelError
from dipgo_compile.mask import Mask
from dipgo_compile.models import Geometry, InputSpec
from dipgo_compile.models.base import Config
from dipgo_compile.models.source import load, load_pipeline


def test_the_denoiser_is_not_loaded_twice(stable_diffusion: Path) -> None:
    model = load(str(stable_diffusion))
    assert load_surroundings(model, model_index(model.source)).unet is model.denoiser


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer"])
def test_a_missing_part_is_named(stable_diffusion: Path, tmp_path: Path, part: str) -> None:
    path = Path(shutil.copytree(stable_diffusion, tmp_path / "model"))
    index = json.loads((path / "model_index.json").read_text())
    del index[part]
    (path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=f"the pipeline has no {part}") as caught:
        load_surroundings(load(str(path), weights=False), model_index(str(path)))
    assert "unet" in (caught.value.available or ())
    assert part not in (caught.value.available or ())


@pytest.mark.parametrize("source", ["unet", "random:sd15"])
def test_a_denoiser_alone_is_refused_before_it_is_loaded(
    pruned_mask: Mask, stable_diffusion: Path, tmp_path: Path, source: str
) -> None:
    steps: list[str] = []
    with pytest.raises(ModelError, match=f"{source} is no pipeline") as caught:
        build(
            pruned_mask,
            source=source if source.startswith("random:") else str(stable_diffusion / source),
            output=tmp_path / "b.dipgo",
            options=BuildOptions(pipeline=True),
            progress=steps.append,
        )
    assert steps == []
    assert "--model" in str(caught.value)


def test_conditions_of_other_kinds_are_refused(stable_diffusion: Path) -> None:
    """A denoiser that also reads the guidance scale, as those of latent consistency models do."""
    model = load(str(stable_diffusion), weights=False)
    inputs = model.inputs(model.geometry(1))
    (text,) = (item for item in inputs if item.role == "condition")

    class TwoConditions(type(model.family)):  # type: ignore[misc]
        def inputs(self, config: Config, geometry: Geometry) -> tuple[InputSpec, ...]:
            return (*inputs, replace(text, name="timestep_cond"))

    odd = replace(model, family=TwoConditions())
    with pytest.raises(ModelError, match="encoder_hidden_states, timestep_cond cannot be exported") as caught:
        load_surroundings(odd, model_index(model.source))
    assert caught.value.available == ("encoder_hidden_states", "class_labels")


class Louder(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.config, self.dtype = encoder, encoder.config, encoder.dtype

    def forward(self, *arguments: Any, **options: Any) -> tuple[torch.Tensor]:
        return (1.01 * self.encoder(*arguments, **options)[0],)


def change_embeddings(pipeline: Any) -> None:
    """The pipeline scales what its text encoder says."""
    plain, encode = pipeline.text_encoder, pipeline.encode_prompt

    def louder(*arguments: Any, **options: Any) -> Any:
        pipeline.text_encoder = Louder(plain)
        try:
            return encode(*arguments, **options)
        finally:
            pipeline.text_encoder = plain

    pipeline.encode_prompt = louder


class Backwards:
    """A tokenizer whose call does more than its settings say."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        encoded = self.plain(*arguments, **options)
        encoded["input_ids"] = encoded["input_ids"][::-1]
        return encoded


def change_ids(pipeline: Any) -> None:
    pipeline.tokenizer = Backwards(pipeline.tokenizer)


def lose_the_file(pipeline: Any) -> None:
    pipeline.tokenizer = type("SlowTokenizer", (), {})()


def shift_latents(pipeline: Any) -> None:
    pipeline.vae.register_to_config(shift_factor=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_embeddings, "StableDiffusionPipeline does more with '' than its text encoder says"),
        (change_ids, "Backwards does more with '' than its file says"),
        (lose_the_file, "SlowTokenizer has no form that the package tokenizers reads"),
        (shift_latents, "the image decoder shifts its latents: shift_factor"),
    ],
)
def test_pipelines_that_do_more_than_their_parts_are_refused(
    stable_diffusion: Path, change: Callable[[Any], None], message: str
) -> None:
    pipeline = load_pipeline(str(stable_diffusion))
    length = pipeline.tokenizer.model_max_length
    check_surroundings(pipeline, length)  # as it is, it will do
    change(pipeline)
    with pytest.raises(ModelError, match=message) as caught:
        check_surroundings(pipeline, length)
    assert "build without --pipeline" in str(caught.value)
