"""What reuse demands of blocks, and what it leaves to be computed."""

from __future__ import annotations

from typing import Any

import pytest

from dipgo_compile.errors import MaskError
from dipgo_compile.macs.counts import count_macs
from dipgo_compile.masks.reuse import check_residuals, idle_call_computes
from dipgo_compile.models.source import executed_scopes


@pytest.mark.parametrize(
    ("granularity", "reuse", "computes"),
    [("block", "output", True), ("block", "residual", True), ("layer", "output", True)],
)
def test_an_idle_call_of_a_dit_computes(small_dit: Any, granularity: str, reuse: Any, computes: bool) -> None:
    """Its head reads the timestep."""
    assert idle_call_computes(small_dit, small_dit.blocks(granularity), reuse) == computes


@pytest.mark.parametrize(
    ("pattern", "computes"),
    [
        (r"(down|up)_blocks\.\d+|mid_block", False),
        (r"mid_block\.attentions\.0", True),  # past it go the skip connections
    ],
)
def test_an_idle_call_of_a_unet(small_unet: Any, pattern: str, computes: bool) -> None:
    from dipgo_compile.masks.checks import matching_scopes

    blocks = matching_scopes(pattern, executed_scopes(small_unet))
    assert idle_call_computes(small_unet, blocks, "output") == computes
    macs = count_macs(small_unet, small_unet.geometry(1), blocks)
    assert macs.of_call(()) == (macs.glue if computes else 0)


def test_the_denoiser_is_left_as_it_was(small_dit: Any) -> None:
    idle_call_computes(small_dit, small_dit.blocks(), "residual")
    check_residuals(small_dit, small_dit.blocks())
    assert not any(module._forward_hooks for module in small_dit.denoiser.modules())
    assert not any(parameter.requires_grad for parameter in small_dit.denoiser.parameters())


def test_blocks_without_a_residual_are_named_together(small_dit: Any, small_unet: Any) -> None:
    for granularity in ("block", "layer"):
        check_residuals(small_dit, small_dit.blocks(granularity))
    with pytest.raises(MaskError, match="4 of these blocks") as error:
        check_residuals(small_unet, small_unet.blocks())
    assert error.value.where == "down_blocks.0, down_blocks.1, up_blocks.0, up_blocks.1"
