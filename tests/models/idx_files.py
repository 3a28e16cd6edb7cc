"""Fashion-MNIST's file format, written; and the mark of tests that need the real data set."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from models.recipes.fashion_mnist import DEBIAN_PACKAGE, DEFAULT_DATA_DIR

needs_fashion_mnist = pytest.mark.skipif(
    not DEFAULT_DATA_DIR.is_dir(), reason=f"needs the Debian package {DEBIAN_PACKAGE}"
)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write unsigned bytes in the gzipped idx format."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
