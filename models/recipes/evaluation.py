"""Measures a text-to-image pipeline on Fashion-MNIST captions and draws its sample grid."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from models.recipes.classifier import FashionClassifier
from models.recipes.fashion_mnist import CLASS_NAMES, TEMPLATES, FashionMnist, caption
from models.recipes.metrics import class_agreement, fid

BATCH_SIZE = 100


def evaluation_labels(count: int) -> torch.Tensor:
    """`count` labels, int64, that go round the classes."""
    return torch.arange(count) % len(CLASS_NAMES)


def generate(
    pipeline: StableDiffusionPipeline, labels: torch.Tensor, steps: int, guidance: float, seed: int
) -> torch.Tensor:
    """One image per label, [N, 3, 32, 32] in [0, 1]; the captions go round the templates."""
    pipeline.set_progress_bar_config(disable=True)
    prompts = [
        caption(label, template=index // len(CLASS_NAMES) % len(TEMPLATES))
        for index, label in enumerate(labels.tolist())
    ]
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for start in tqdm(range(0, len(prompts), BATCH_SIZE), desc="generating", unit="batch"):
        result = pipeline(
            prompts[start : start + BATCH_SIZE],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generator,
            output_type="pt",
        )
        batches.append(result.images.float())
    return torch.cat(batches)


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
