"""What ``encode`` makes for a plan, beyond what whole pipelines show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from whole import Whole, Wholes

from dipgo_compile.build import BuildOptions, build
from dipgo_compile.bundle import open_bundle
from dipgo_compile.drawing.conditions import encode
from dipgo_compile.errors import InputError, ModelError
from dipgo_compile.plan import Plan
from dipgo_compile.program import TensorSpec

PROMPT = "a photo of a dress"


@pytest.fixture(scope="module")
def pixart(wholes: Wholes) -> Whole:
    return wholes("pixart")


@pytest.fixture(scope="module")
def plan(pixart: Whole, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return open_bundle(pixart.build(pixart.mask(2), tmp_path_factory.mktemp("plan") / "m.dipgo")).plan


def asking(plan: Plan, conditions: tuple[str, ...], **specs: TensorSpec) -> Plan:
    """The plan with other conditions."""
    interface = replace(plan.interface, conditions=conditions)
    return replace(
        plan, interface=interface, program=replace(plan.program, specs={**plan.program.specs, **specs})
    )


def test_padding_is_masked_and_halves_lie_in_the_plans_order(pixart: Whole, plan: Plan) -> None:
    made = encode(pixart.pipeline, plan, [PROMPT], "")
    swapped = encode(pixart.pipeline, plan, [""], PROMPT)
    mask = made["encoder_attention_mask"]
    assert mask.dtype == torch.int64
    assert mask[0].sum() < mask[1].sum() < mask.shape[1]  # "" first, both padded
    for name, value in made.items():
        torch.testing.assert_close(value, swapped[name].flip(0))


def test_sizes_of_images(pixart: Whole, plan: Plan) -> None:
    """PixArt-alpha at 1024 x 1024 was trained on them."""
    _, _, height, width = plan.program.specs[plan.interface.latents].shape
    sized = asking(
        plan,
        (*plan.interface.conditions, "resolution", "aspect_ratio"),
        resolution=TensorSpec("float32", (2, 2)),
        aspect_ratio=TensorSpec("float32", (2, 1)),
        latents=TensorSpec("float32", (1, 4, height, 2 * width)),
    )
    made = encode(pixart.pipeline, sized, [PROMPT], "")
    assert made["resolution"].tolist() == [[2.0 * height, 4.0 * width]] * 2  # two pixels a latent
    assert made["aspect_ratio"].tolist() == [[0.5]] * 2


def test_conditions_that_no_pipeline_makes(pixart: Whole, plan: Plan) -> None:
    with pytest.raises(ModelError, match="cannot make the conditions mood") as caught:
        encode(pixart.pipeline, asking(plan, ("mood",)), [PROMPT], "")
    assert "encoder_attention_mask + encoder_hidden_states" in caught.value.available


def test_a_model_that_reads_the_guidance_scale_is_not_guided_twice(wholes: Wholes, tmp_path: Path) -> None:
    mask = wholes("latent_consistency").mask(2)
    with pytest.raises(InputError, match="guided twice") as caught:
        build(mask, output=tmp_path / "m.dipgo", options=BuildOptions(guidance=True))
    assert "--no-guidance" in str(caught.value.mend)
    assert not list(tmp_path.iterdir())
