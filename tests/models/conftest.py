"""A synthetic stand-in for Fashion-MNIST, so that the recipes are tested without the data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from idx_files import write_idx


@pytest.fixture
def synthetic_data(tmp_path: Path) -> Path:
    """A folder with 40 random images a split, labels going round the ten classes."""
    directory = tmp_path / "data"
    directory.mkdir()
    rng = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        write_idx(directory / f"{stem}-images-idx3-ubyte.gz", rng.integers(1, 256, size=(40, 28, 28)))
        write_idx(directory / f"{stem}-labels-idx1-ubyte.gz", np.arange(40) % 10)
    return directory
