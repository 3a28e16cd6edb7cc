"""PNG files, read back by Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dipgo_compile.drawing.png import MAX_STORED, encode_png, write_png
from dipgo_compile.errors import InputError


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (32, 32), (200, 120), (1, 21844), (1, 21845)])
def test_pillow_reads_the_same_pixels(size: tuple[int, int], tmp_path: Path) -> None:
    """One stored block and several; 21,844 pixels of a row and its filter fill the first block exactly but
    for two bytes, one pixel more begins another.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    write_png(tmp_path / "image.png", pixels)
    with Image.open(tmp_path / "image.png") as image:
        assert image.format == "PNG" and image.mode == "RGB"
        image.verify()  # the sums of all chunks
    with Image.open(tmp_path / "image.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_file_is_as_long_as_its_format_says() -> None:
    """Nothing is compressed: other runtimes write the same bytes."""
    data = 100 * (1 + 3 * 300)
    blocks = -(-data // MAX_STORED)
    zlib_stream = 2 + 5 * blocks + data + 4
    assert len(encode_png(np.zeros((100, 300, 3), np.uint8))) == 8 + (12 + 13) + (12 + zlib_stream) + 12


def test_a_view_is_written_as_it_looks() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    assert encode_png(pixels[::2, ::-1]) == encode_png(pixels[::2, ::-1].copy())


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="not an image"):
        encode_png(array)
