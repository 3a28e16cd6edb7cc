"""Measures a pipeline that draws Fashion-MNIST images, and draws its sample grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from tqdm import tqdm

from models.recipes import fashion_mnist
from models.recipes.classifier import FashionClassifier, load_classifier
from models.recipes.fashion_mnist import CLASS_NAMES, TEMPLATES, FashionMnist, caption
from models.recipes.metrics import class_agreement, fid
from models.recipes.saving import replace_file, write_json

BATCH_SIZE = 100
GRID = 60


def evaluation_labels(count: int) -> torch.Tensor:
    """`count` labels, int64, that go round the classes."""
    return torch.arange(count) % len(CLASS_NAMES)


def captions_for(labels: torch.Tensor) -> list[str]:
    """A caption for each label; they go round the templates."""
    return [
        caption(label, template=index // len(CLASS_NAMES) % len(TEMPLATES))
        for index, label in enumerate(labels.tolist())
    ]


@dataclass(frozen=True)
class Drawing:
    """How many images are drawn, balanced over the classes, and how."""

    count: int
    steps: int
    guidance: float
    seed: int

    @property
    def labels(self) -> torch.Tensor:
        return evaluation_labels(self.count)


def generate(
    pipeline: DiffusionPipeline, asked: Sequence[str] | Sequence[int], drawing: Drawing
) -> torch.Tensor:
    """[N, 3, 32, 32] in [0, 1], an image for each caption or class that is `asked` for."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(drawing.seed)
    batches = []
    for start in tqdm(range(0, len(asked), BATCH_SIZE), desc="generating", unit="batch"):
        result = pipeline(
            asked[start : start + BATCH_SIZE],
            num_inference_steps=drawing.steps,
            guidance_scale=drawing.guidance,
            generator=generator,
            output_type="pt",
        )
        batches.append(result.images.float())
    return torch.cat(batches)


def evaluate_model(
    recipe: str,
    directory: Path,
    pipeline: DiffusionPipeline,
    asked: Sequence[str] | Sequence[int],
    drawing: Drawing,
    data_dir: Path,
) -> None:
    """Draw, judge, and write evaluation.json and samples.png beside the model. `recipe` is its module."""
    images = generate(pipeline, asked, drawing)
    training, test = fashion_mnist.load("train", data_dir), fashion_mnist.load("test", data_dir)
    figures = {
        "command": f"python -m models.recipes.{recipe} evaluate --images {drawing.count}"
        f" --steps {drawing.steps} --guidance {drawing.guidance:g} --seed {drawing.seed}",
        "scheduler": type(pipeline.scheduler).__name__,
        "images": drawing.count,
        "steps": drawing.steps,
        "guidance_scale": drawing.guidance,
        "seed": drawing.seed,
        **measure(images, drawing.labels, load_classifier(), training, test),
    }
    write_json(directory / "evaluation.json", figures)
    grid = image_grid(images[:GRID], columns=10)
    replace_file(directory / "samples.png", lambda path: grid.save(path, "PNG"))
    click.echo(f"class agreement {figures['class_agreement']:.1%}, FID {figures['fid']:.3f}")


def measure(
    images: torch.Tensor,
    labels: torch.Tensor,
    classifier: FashionClassifier,
    training: FashionMnist,
    test: FashionMnist,
) -> dict[str, float]:
    """Class agreement and FID of `images`, with the same figures of as many training images beside them."""
    reference = test.images.float() / 255
    real = training.images[: len(images)].float() / 255
    return {
        "class_agreement": round(class_agreement(images, labels, classifier), 4),
        "fid": round(fid(images, reference, classifier), 4),
        "class_agreement_of_test_images": round(class_agreement(reference, test.labels, classifier), 4),
        "fid_of_training_images": round(fid(real, reference, classifier), 4),
    }


def image_grid(images: torch.Tensor, columns: int, zoom: int = 2) -> Image.Image:
    """[N, 3, H, W] in [0, 1] as one picture, row by row, each pixel `zoom` screen pixels wide."""
    count, channels, height, width = images.shape
    rows = images.reshape(count // columns, columns, channels, height, width)
    sheet = rows.permute(0, 3, 1, 4, 2).reshape(count // columns * height, columns * width, channels)
    picture = Image.fromarray((sheet * 255).round().byte().numpy())
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
