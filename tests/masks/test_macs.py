"""MACs agree with the paper's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dipgo_compile.errors import MaskError
from dipgo_compile.macs.counts import Macs, count_macs
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import load

PAPER_SD15 = (32.94, 31.32, 31.46, 3.78, 6.03, 12.90, 75.14, 79.12, 66.04)  # 1e9 MACs a block
PAPER_TOLERANCE = 0.01  # its figures are rounded, and its counter takes in a little more: 0.05 % in all


@pytest.fixture(scope="module")
def sd15() -> tuple[Any, Macs]:
    model = load("random:sd15", weights=False)
    return model, count_macs(model, model.geometry(1), model.blocks())


def test_sd15_by_block(sd15: tuple[Any, Macs]) -> None:
    model, macs = sd15
    assert [macs.by_scope[block] / 1e9 for block in model.blocks()] == pytest.approx(
        PAPER_SD15, rel=PAPER_TOLERANCE
    )
    assert macs.total / 1e9 == pytest.approx(338.8, rel=PAPER_TOLERANCE)


def test_the_released_mask_keeps_a_fifth(sd15: tuple[Any, Macs], released: Mask) -> None:
    _, macs = sd15
    assert released.macs_ratio(macs) == pytest.approx(0.1998, abs=5e-5)  # all printed digits
    assert released.kept_macs(macs) / 1e12 == pytest.approx(3.38, rel=PAPER_TOLERANCE)


def test_the_released_mask_fits_the_preset(sd15: tuple[Any, Macs], released: Mask) -> None:
    model, _ = sd15
    released.check_against(model, model.blocks())


def test_one_convolution_by_hand(small_unet: Any) -> None:
    macs = count_macs(small_unet, small_unet.geometry(1), ("conv_in",))
    assert macs.by_scope["conv_in"] == 8 * 8 * 8 * 4 * 3 * 3  # height, width, channels out and in, kernel
    assert macs.glue == macs.total - macs.by_scope["conv_in"]


def test_the_batch_does_not_count_and_nothing_is_computed(small_unet: Any) -> None:
    ran = []
    handle = small_unet.denoiser.register_forward_hook(lambda *_: ran.append(1))
    try:
        one, two = (count_macs(small_unet, small_unet.geometry(batch), ("mid_block",)) for batch in (1, 2))
    finally:
        handle.remove()
    assert one == two
    assert not ran


def test_attention_products_do_not_count(small_unet: Any) -> None:
    scope = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    macs = count_macs(small_unet, small_unet.geometry(1), (scope,))
    linears = [
        layer
        for layer in small_unet.denoiser.get_submodule(scope).modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    assert macs.by_scope[scope] == 64 * sum(layer.weight.numel() for layer in linears)  # 8 x 8 positions


def test_an_unknown_scope_is_an_error(small_unet: Any) -> None:
    with pytest.raises(MaskError, match="no block 'mid_blok'"):
        count_macs(small_unet, small_unet.geometry(1), ("mid_blok",))


def test_a_call_that_keeps_nothing_costs_nothing() -> None:
    macs = Macs(100, {"a": 10, "b": 20})
    assert [macs.of_call(kept) for kept in ((), ("a",), ("a", "b"))] == [0, 80, 100]
