"""Masks as text and as pictures."""

from __future__ import annotations

from pathlib import Path

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from dipgo_compile.errors import MaskError
from dipgo_compile.macs.counts import Macs
from dipgo_compile.mask import Mask
from dipgo_compile.masks.heatmap import COMPUTED, REUSED, draw_heatmap, grid_text

BLOCKS = ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1")
MACS = Macs(131, dict(zip(BLOCKS, (1, 2, 4, 8, 16), strict=True)))
GRID = """\
down_blocks.0  █·█·   50%
down_blocks.1  █·█·   50%
    mid_block  █···   25%
  up_blocks.0  █·█·   50%
  up_blocks.1  █·██   75%

        calls  4: 1 whole, 1 compute no block
     patterns  4 distinct rows
       thirds  100%, 0%, 50% of the blocks, in the first, middle, last calls
        reuse  the last output
         MACs  374 of 524 per sample (71.37%)
ideal speedup  1.40x"""


def pixels(path: Path, colour: str) -> int:
    """Pixels of exactly this colour in the grid: the shares' bars are in the right-hand quarter."""
    image = np.round(matplotlib.image.imread(path)[:, :, :3] * 255)
    wanted = np.round(np.array(matplotlib.colors.to_rgb(colour)) * 255)
    grid = image[:, : image.shape[1] * 3 // 4]
    return int((grid == wanted).all(axis=-1).sum())


def test_the_grid_as_text(mask: Mask) -> None:
    assert grid_text(mask, MACS) == GRID
    assert grid_text(mask) == GRID.partition("\n         MACs")[0]


def test_the_picture_has_a_cell_for_every_gate(mask: Mask, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    draw_heatmap(mask, path, macs=MACS)
    computed, reused = pixels(path, COMPUTED), pixels(path, REUSED)
    # 10 of 20 cells; the legend's patches and the cells cut off at three quarters are the slack.
    assert computed / (computed + reused) == pytest.approx(0.5, abs=0.06)


def test_scores_shade_the_picture(mask: Mask, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    draw_heatmap(mask, path, scores=[[0.0] * 5, [1.0] * 5, [0.0] * 5, [1.0] * 5])
    darkest, brightest = "#00224e", "#fee838"  # the ends of cividis
    assert pixels(path, darkest) > 1000
    assert pixels(path, brightest) > 1000
    assert pixels(path, COMPUTED) == 0


@pytest.mark.parametrize("name", ["nowhere/mask.png", "mask.docx"])
def test_a_picture_that_cannot_be_written_is_an_error(mask: Mask, name: str, tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="cannot write the picture"):
        draw_heatmap(mask, tmp_path / name)
