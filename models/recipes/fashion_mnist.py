"""Fashion-MNIST as image tensors and captions.

The data comes from the Debian package `dataset-fashion-mnist`; `--data DIR` points the recipes at any
other folder holding the same four idx files.
"""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

DEFAULT_DATA_DIR = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
PROMPTS_FILE = Path(__file__).parent.parent / "prompts" / "fashion.txt"
IMAGE_SIZE = 32

# The data set's label order; "dress" etc. are singular so that every template reads as English.
CLASS_NAMES = (
    "t-shirt", "pair of trousers", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

TEMPLATES = (
    "a photo of {noun}",
    "a picture of {noun}",
    "an image of {noun}",
    "a small photo of {noun}",
    "a gray photo of {noun}",
    "{noun}",
)


@dataclass(frozen=True)
class FashionMnist:
    """One split: `images` uint8 [N, 1, 32, 32], `labels` int64 [N] in 0..9."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def rgb(self, index: torch.Tensor | slice) -> torch.Tensor:
        """The chosen images as float32 [B, 3, 32, 32] in [0, 1], three equal channels."""
        return self.images[index].float().div(255).expand(-1, 3, -1, -1)


def load(split: str, data_dir: Path = DEFAULT_DATA_DIR, limit: int | None = None) -> FashionMnist:
    """Read `split` ("train": 60,000 images, "test": 10,000), or its first `limit` images."""
    stem = {"train": "train", "test": "t10k"}[split]
    images = _read_idx(Path(data_dir) / f"{stem}-images-idx3-ubyte.gz")[:limit]
    labels = _read_idx(Path(data_dir) / f"{stem}-labels-idx1-ubyte.gz")[:limit]
    if len(images) != len(labels):
        raise ValueError(f"{data_dir}: {len(images)} {split} images but {len(labels)} labels")
    margin = (IMAGE_SIZE - images.shape[-1]) // 2
    padded = F.pad(torch.from_numpy(images)[:, None], [margin] * 4)
    return FashionMnist(images=padded, labels=torch.from_numpy(labels).long())


def _read_idx(path: Path) -> np.ndarray:
    """Decode a gzipped idx file of unsigned bytes: magic 0x000008NN, NN big-endian sizes, the bytes."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Install the data set with `apt-get install {DEBIAN_PACKAGE}`, "
            "or pass --data DIR with the four Fashion-MNIST idx files."
        )
    content = gzip.decompress(path.read_bytes())
    zero, kind, rank = struct.unpack_from(">HBB", content)
    if (zero, kind) != (0, 8):
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    shape = struct.unpack_from(f">{rank}I", content, offset=4)
    data = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank)
    if data.size != np.prod(shape):
        raise ValueError(f"{path} is truncated: {data.size} bytes for shape {shape}")
    return data.reshape(shape).copy()


def caption(label: int, template: int = 0) -> str:
    """The caption of class `label` in the words of TEMPLATES[template]."""
    name = CLASS_NAMES[label]
    article = "an" if name[0] in "aeiou" else "a"
    return TEMPLATES[template].format(noun=f"{article} {name}")


def all_captions() -> list[str]:
    """Every class in every template, class by class: index = label * len(TEMPLATES) + template."""
    return [caption(label, t) for label in range(len(CLASS_NAMES)) for t in range(len(TEMPLATES))]


def write_prompts(path: Path = PROMPTS_FILE) -> None:
    """Write the prompt list that pruner training reads, one prompt a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(all_captions()) + "\n")


if __name__ == "__main__":
    write_prompts()
