from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from idx_files import write_idx

from models.recipes import fashion_mnist
from models.recipes.fashion_mnist import CLASS_NAMES, PROMPTS_FILE, TEMPLATES, all_captions, caption


def test_images_are_padded_with_black_and_labels_kept(synthetic_data: Path) -> None:
    data = fashion_mnist.load("train", synthetic_data)
    assert data.images.shape == (40, 1, 32, 32)
    assert data.images[:, :, 2:30, 2:30].min() > 0
    assert data.images.sum() == data.images[:, :, 2:30, 2:30].sum()
    assert data.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_rgb_repeats_gray_and_scales_to_one(synthetic_data: Path) -> None:
    data = fashion_mnist.load("test", synthetic_data, limit=5)
    rgb = data.rgb(slice(0, 3))
    assert rgb.shape == (3, 3, 32, 32)
    assert rgb.max() == data.images[:3].max() / 255
    assert (rgb[:, 0] == rgb[:, 2]).all()


def test_missing_data_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"apt-get install dataset-fashion-mnist.*--data"):
        fashion_mnist.load("train", tmp_path)


def test_truncated_file_is_refused(synthetic_data: Path) -> None:
    path = synthetic_data / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-10]))
    with pytest.raises(ValueError, match="truncated"):
        fashion_mnist.load("train", synthetic_data)


def test_file_of_other_numbers_is_refused(synthetic_data: Path) -> None:
    path = synthetic_data / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"\0\0\x0d" + gzip.decompress(path.read_bytes())[3:]))
    with pytest.raises(ValueError, match="not an idx file of unsigned bytes"):
        fashion_mnist.load("train", synthetic_data)


def test_counts_must_agree(synthetic_data: Path) -> None:
    write_idx(synthetic_data / "t10k-labels-idx1-ubyte.gz", np.zeros(39))
    with pytest.raises(ValueError, match="40 test images but 39 labels"):
        fashion_mnist.load("test", synthetic_data)


@pytest.mark.parametrize(
    ("label", "expected"),
    [(9, "a photo of an ankle boot"), (8, "a photo of a bag"), (1, "a photo of a pair of trousers")],
)
def test_captions_use_the_right_article(label: int, expected: str) -> None:
    assert caption(label) == expected


def test_prompt_file_holds_every_class_in_every_template() -> None:
    prompts = PROMPTS_FILE.read_text().splitlines()
    assert prompts == all_captions()
    assert len(set(prompts)) == len(CLASS_NAMES) * len(TEMPLATES)
