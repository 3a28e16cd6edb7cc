"""A small Fashion-MNIST classifier: the judge of generated images and the metric space of their FID."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from models.recipes import fashion_mnist
from models.recipes.fashion_mnist import CLASS_NAMES, FashionMnist
from models.recipes.saving import replace_directory, write_json
from models.recipes.training import LoopSettings, TrainingLoop

DEFAULT_DIRECTORY = Path(__file__).parent.parent / "fashion-classifier"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
BATCH_SIZE = 256


class FashionClassifier(nn.Module):
    """A convolutional network on [B, C, 32, 32] images in [0, 1]; channels are averaged to gray."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128), num_classes: int = len(CLASS_NAMES)):
        super().__init__()
        self.widths = widths
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1, stride=2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )
            for inputs, outputs in pairwise((1, *widths))
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def activations(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The output of each stage: [B, 32, 16, 16], [B, 64, 8, 8], [B, 128, 4, 4]."""
        outputs = [images.mean(dim=1, keepdim=True) * 2 - 1]
        for stage in self.stages:
            outputs.append(stage(outputs[-1]))
        return outputs[1:]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Penultimate features, [B, 128], non-negative."""
        return self.activations(images)[-1].mean(dim=(2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class logits, [B, 10]."""
        return self.head(self.features(images))


def load_classifier(directory: Path = DEFAULT_DIRECTORY) -> FashionClassifier:
    """The shipped classifier in float32 and evaluation mode, without gradients."""
    config = json.loads((Path(directory) / CONFIG).read_text())
    classifier = FashionClassifier(tuple(config["widths"]), config["num_classes"])
    weights = load_file(Path(directory) / WEIGHTS)
    classifier.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def predict(classifier: FashionClassifier, images: torch.Tensor) -> torch.Tensor:
    """The class of each image of [N, C, 32, 32] in [0, 1], as int64 [N], computed in batches."""
    return torch.cat([classifier(batch).argmax(dim=1) for batch in images.split(BATCH_SIZE)])


def accuracy(classifier: FashionClassifier, data: FashionMnist) -> float:
    """The share of `data` that the classifier reads right, in [0, 1]."""
    return (predict(classifier, data.images.float() / 255) == data.labels).float().mean().item()


def classifier_loss(
    classifier: FashionClassifier, data: FashionMnist, generator: torch.Generator
) -> torch.Tensor:
    """Smoothed cross-entropy on a random batch, half of it mirrored, all of it shifted by up to 2 pixels."""
    index = torch.randint(len(data), (BATCH_SIZE,), generator=generator)
    images = data.images[index].float() / 255
    mirrored = torch.rand(BATCH_SIZE, 1, 1, 1, generator=generator) < 0.5
    images = torch.where(mirrored, images.flip(3), images)
    shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
    images = images.roll(shift, dims=(2, 3))  # the padding makes the wrapped rows blank
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(images)
    return F.cross_entropy(logits.float(), data.labels[index], label_smoothing=0.05)


def save_classifier(classifier: FashionClassifier, measured: dict[str, float | int], directory: Path) -> None:
    """Write fp16 weights and a config that holds the architecture and the `measured` figures."""
    weights = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in classifier.state_dict().items()
    }
    config = {"widths": classifier.widths, "num_classes": classifier.head.out_features, **measured}

    def write(staging: Path) -> None:
        save_file(weights, staging / WEIGHTS)
        write_json(staging / CONFIG, config)

    replace_directory(directory, write)


@click.group()
def main() -> None:
    """The Fashion-MNIST classifier that judges what tiny-sd draws."""


@main.command()
@click.option("--data", "data_dir", type=click.Path(path_type=Path), default=fashion_mnist.DEFAULT_DATA_DIR,
              show_default=True, help="Folder with the four Fashion-MNIST idx.gz files.")  # fmt: skip
@click.option("--steps", default=1500, show_default=True, help="Optimizer steps of 256 images.")
@click.option("--seed", default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in WORK.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/fashion-classifier"),
              show_default=True, help="Folder for the checkpoint and the log.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), default=DEFAULT_DIRECTORY, show_default=True)
def train(data_dir: Path, steps: int, seed: int, resume: bool, work: Path, output: Path) -> None:
    """Train for a few minutes, measure the accuracy on the test split, and save to OUTPUT."""
    torch.manual_seed(seed)
    training, test = fashion_mnist.load("train", data_dir), fashion_mnist.load("test", data_dir)
    classifier = FashionClassifier().to(memory_format=torch.channels_last)
    # No averaging of weights: batch statistics would belong to other weights than the averaged ones.
    settings = LoopSettings(steps=steps, learning_rate=3e-3, ema_decay=0.0, weight_decay=0.05, seed=seed)
    loop = TrainingLoop(classifier, lambda g: classifier_loss(classifier, training, g), settings, work)
    loop.run(resume)
    classifier.eval()
    measured = {
        "test_accuracy": round(accuracy(classifier, test), 4),
        "training_steps": loop.step,
        "training_seconds": round(loop.seconds),
        "seed": seed,
    }
    save_classifier(classifier, measured, output)
    click.echo(f"{output}: test accuracy {measured['test_accuracy']:.2%}")


if __name__ == "__main__":
    main()
