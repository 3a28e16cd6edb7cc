"""A mask is refused by a model that it wasn't made for."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from dipgo_compile.errors import MaskError
from dipgo_compile.mask import Mask
from dipgo_compile.masks.checks import matching_scopes

SCOPES = (
    "",
    "conv_in",
    "down_blocks.0",
    "down_blocks.0.resnets.0",
    "down_blocks.1",
    "mid_block",
    "mid_block.resnets.0",
    "up_blocks.0",
    "up_blocks.0.resnets.0",
    "up_blocks.1",
    "conv_out",
)
MakeMask = Callable[..., Mask]


def test_its_own_model_takes_it(mask: Mask, described: SimpleNamespace) -> None:
    mask.check_against(described, SCOPES)


def test_another_class_is_refused(mask: Mask, described: SimpleNamespace) -> None:
    described.class_name = "DiTTransformer2DModel"
    with pytest.raises(MaskError, match="for a UNet2DConditionModel, not for somewhere"):
        mask.check_against(described, SCOPES)


def test_another_configuration_is_refused(mask: Mask, described: SimpleNamespace) -> None:
    described.config_sha256 = "1" * 64
    with pytest.raises(MaskError, match="another configuration of UNet2DConditionModel") as caught:
        mask.check_against(described, SCOPES)
    assert caught.value.available == ("1" * 64,)


def test_a_misspelt_block_gets_a_suggestion(make_mask: MakeMask, described: SimpleNamespace) -> None:
    misspelt = make_mask(blocks=("down_blocks.0", "down_blocks.1", "mid_blok", "up_blocks.0", "up_blocks.1"))
    with pytest.raises(MaskError, match="no block 'mid_blok'") as caught:
        misspelt.check_against(described, SCOPES)
    assert caught.value.mend == "did you mean 'mid_block'?"


def test_blocks_out_of_order_are_refused(make_mask: MakeMask, described: SimpleNamespace) -> None:
    shuffled = make_mask(blocks=("down_blocks.0", "mid_block", "down_blocks.1", "up_blocks.0", "up_blocks.1"))
    with pytest.raises(MaskError, match=r"not in execution order: 'mid_block' where 'down_blocks\.1'"):
        shuffled.check_against(described, SCOPES)


def test_a_missing_block_is_refused(make_mask: MakeMask, described: SimpleNamespace) -> None:
    short = make_mask(("11",), ("down_blocks.0", "up_blocks.1"))
    with pytest.raises(MaskError, match=r"leaves out: down_blocks\.1, mid_block, up_blocks\.0"):
        short.check_against(described, SCOPES)


def test_the_layers_are_a_granularity_too(make_mask: MakeMask, described: SimpleNamespace) -> None:
    layers = ("down_blocks.0.resnets.0", "mid_block.resnets.0", "up_blocks.0.resnets.0")
    make_mask(("111",), layers).check_against(described, SCOPES)
    with pytest.raises(
        MaskError, match=r"'layer' has blocks that the mask leaves out: mid_block\.resnets\.0"
    ):
        make_mask(("11",), layers[::2]).check_against(described, SCOPES)


def test_a_mixture_needs_no_completeness(make_mask: MakeMask, described: SimpleNamespace) -> None:
    make_mask(("11",), ("down_blocks.0", "mid_block.resnets.0")).check_against(described, SCOPES)


def test_a_pattern_allows_some_blocks_and_wants_them_all(
    make_mask: MakeMask, described: SimpleNamespace
) -> None:
    chosen = {"provenance": {"blocks": r"up_blocks\.\d"}}
    make_mask(("11",), ("up_blocks.0", "up_blocks.1"), **chosen).check_against(described, SCOPES)
    with pytest.raises(MaskError, match=r"leaves out: up_blocks\.1"):
        make_mask(("1",), ("up_blocks.0",), **chosen).check_against(described, SCOPES)


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "not a regular expression"), ("up", "no module scope")]
)
def test_patterns_that_choose_nothing_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        matching_scopes(pattern, SCOPES)
