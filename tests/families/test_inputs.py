"""What a denoiser reads follows from its config; what cannot be compiled is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dipgo_trainer.samples import text_conditions

from dipgo_compile.errors import InputError, ModelError
from dipgo_compile.models import Geometry, family_of
from dipgo_compile.models.source import Model, example_inputs, executed_scopes, load
from tests.families.tiny import TINY, TOKENS, UNET, make, make_model, save

UNET_CLASS = "UNet2DConditionModel"
EMBEDDED: dict[str, tuple[dict[str, Any], tuple[tuple[str, str, tuple[int, ...]], ...]]] = {
    "classes": ({"num_class_embeds": 5}, (("class_labels", "int64", (1,)),)),
    "timestep": ({"class_embed_type": "timestep"}, (("class_labels", "float32", (1,)),)),
    "identity": ({"class_embed_type": "identity"}, (("class_labels", "float32", (1, 32)),)),
    "projection": (
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 7},
        (("class_labels", "float32", (1, 7)),),
    ),
    "guidance scale": ({"time_cond_proj_dim": 6}, (("timestep_cond", "float32", (1, 6)),)),
    "text": ({"addition_embed_type": "text", "addition_embed_type_num_heads": 2}, ()),
    "projected text": ({"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 5}, ()),
}


@pytest.mark.parametrize("kind", EMBEDDED)
def test_what_is_added_to_the_time_embedding(kind: str) -> None:
    options, expected = EMBEDDED[kind]
    model = make_model(UNET_CLASS, {**UNET, **options})
    specs = model.inputs(model.geometry(1))
    found = tuple((spec.name, spec.spec.dtype, spec.spec.shape) for spec in specs[3:])
    assert found == expected
    assert specs[2].spec.shape == (1, TOKENS, options.get("encoder_hid_dim", UNET["cross_attention_dim"]))
    answer = model.predict(example_inputs(specs))
    assert answer.shape == (1, 4, 8, 8)


@pytest.mark.parametrize("name", TINY)
def test_a_denoiser_takes_its_inputs_in_any_batch(name: str) -> None:
    model = make(name)
    specs = model.inputs(model.geometry(batch=3))
    answer = model.predict(example_inputs(specs))
    assert answer.shape[0] == 3 and answer.shape[2:] == (8, 8)
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize(("name", "time_ids"), [("sdxl", 6), ("sdxl-refiner", 5)])
def test_the_refiner_reads_a_score_in_the_place_of_a_size(name: str, time_ids: int) -> None:
    """Both configs leave 8 for the pooled text, which is what the encoders of either give."""
    specs = make(name).inputs(Geometry(2, 8, 8, TOKENS))
    assert {spec.name: spec.spec.shape for spec in specs[3:]} == {
        "text_embeds": (2, 8),
        "time_ids": (2, time_ids),
    }


def test_the_published_configs_of_stable_diffusion_xl() -> None:
    """stabilityai/stable-diffusion-xl-base-1.0 and -refiner-1.0: either's pooled text has 1280 channels."""
    published = {
        "base": {"cross_attention_dim": 2048, "projection_class_embeddings_input_dim": 2816},
        "refiner": {"cross_attention_dim": 1280, "projection_class_embeddings_input_dim": 2560},
    }
    shapes = {}
    for name, widths in published.items():
        config = {"in_channels": 4, "out_channels": 4, "addition_embed_type": "text_time", **widths}
        specs = family_of(UNET_CLASS).inputs(
            {**config, "addition_time_embed_dim": 256}, Geometry(1, 8, 8, 77)
        )
        shapes[name] = [spec.spec.shape for spec in specs[3:]]
    assert shapes == {"base": [(1, 1280), (1, 6)], "refiner": [(1, 1280), (1, 5)]}


def test_conditions_that_forward_takes_in_a_dictionary() -> None:
    family = make("lcm-sdxl").family
    flat = {"sample": 1, "timestep": 2, "encoder_hidden_states": 3, "text_embeds": 4, "time_ids": 5}
    assert family.arguments(flat) == {
        "sample": 1,
        "timestep": 2,
        "encoder_hidden_states": 3,
        "added_cond_kwargs": {"text_embeds": 4, "time_ids": 5},
    }
    plain = {"sample": 1, "timestep": 2, "encoder_hidden_states": 3}
    assert family.arguments(plain) == plain


REFUSED = {
    "addition_embed_type": "image",
    "encoder_hid_dim_type": "ip_image_proj",
    "attention_type": "gated",
    "in_channels": 9,
    "cross_attention_dim": (8, 16),
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_no_prompt_gives_is_refused(option: str) -> None:
    model = make("sd15")
    other = replace(model, config={**model.config, option: REFUSED[option]})
    with pytest.raises(ModelError) as caught:
        other.blocks()
    assert caught.value.where == option


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("dit", (8, 16), "square"),
        ("dit", (9, 9), "patches of 2"),
        ("pixart-alpha", (8, 9), "a width of 9"),
    ],
)
def test_sizes_that_a_transformer_cannot_draw(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(name).inputs(Geometry(1, *size, TOKENS))


def test_a_config_may_name_height_and_width(tmp_path: Path) -> None:
    model = make_model(UNET_CLASS, {**UNET, "sample_size": (8, 16)})
    assert model.geometry(2) == Geometry(2, 8, 16, TOKENS)
    with pytest.raises(InputError, match="no height of its own"):
        make_model(UNET_CLASS, {**UNET, "sample_size": None}).geometry(1)


def test_without_a_mid_block_there_is_none() -> None:
    model = make("bk-sdm-small")
    assert model.blocks() == ("down_blocks.0", "down_blocks.1", "up_blocks.0", "up_blocks.1")
    assert not any(scope.startswith("mid_block") for scope in executed_scopes(model))


def test_prompts_alone_do_not_condition_every_model() -> None:
    with pytest.raises(InputError, match="reads text_embeds, time_ids besides encoder_hidden_states"):
        text_conditions(make("sdxl"), None, ["a bag"])


@pytest.mark.parametrize("name", ["sdxl", "dit", "pixart-alpha"])
def test_a_saved_pipeline_is_loaded_again(name: str, tmp_path: Path) -> None:
    made, loaded = make(name), load(str(save(name, tmp_path)))
    assert loaded.class_name == made.class_name
    assert loaded.config_sha256 == made.config_sha256
    assert loaded.tokens == {"sdxl": 77, "dit": 0, "pixart-alpha": 120}[name]
    assert_same_answer(made, loaded)


def assert_same_answer(one: Model, other: Model) -> None:
    """The same weights, and so the same answer but for rounding: where a weight lies in memory may change the
    order in which a matrix product is summed, on some processors.
    """
    weights = dict(one.denoiser.state_dict()), dict(other.denoiser.state_dict())
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    inputs = example_inputs(one.inputs(one.geometry(1)))
    torch.testing.assert_close(one.predict(inputs), other.predict(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dit", "pixart-alpha-512"])
@pytest.mark.parametrize("weights", [True, False])
def test_published_transformers_carry_an_older_class_name(name: str, weights: bool, tmp_path: Path) -> None:
    """DiT's and PixArt's repositories say ``Transformer2DModel``; the kind of norm tells them apart."""
    made = make(name)
    made.denoiser.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": "Transformer2DModel"}))
    loaded = load(str(tmp_path), weights=weights)
    assert loaded.class_name == made.class_name
    assert loaded.tokens == made.family.tokens
    if weights:
        assert_same_answer(made, loaded)
