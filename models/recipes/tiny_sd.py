"""tiny-sd from data to model card: `python -m models.recipes.tiny_sd train`, then `evaluate`."""

from __future__ import annotations

from pathlib import Path

import click
from diffusers import StableDiffusionPipeline

from models.recipes import fashion_mnist, options
from models.recipes.architecture import build_pipeline
from models.recipes.autoencoder import autoencoder_loss, encode_all, reconstruction_error
from models.recipes.classifier import load_classifier
from models.recipes.conditions import Captions
from models.recipes.diffusion import DiffusionLoss, TextToNoise
from models.recipes.evaluation import Drawing, captions_for, evaluate_model
from models.recipes.fashion_mnist import FashionMnist
from models.recipes.saving import save_pipeline
from models.recipes.training import LoopSettings, TrainingLoop

DEFAULT_DIRECTORY = Path(__file__).parent.parent / "tiny-sd"
DEFAULT_GUIDANCE = 3.0


@click.group()
def main() -> None:
    """tiny-sd: a complete Stable Diffusion pipeline that draws 32x32 Fashion-MNIST images.

    \b
    python -m models.recipes.classifier train     the judge, needed first
    python -m models.recipes.tiny_sd train        autoencoder, then denoiser and text encoder
    python -m models.recipes.tiny_sd evaluate     class agreement, FID and a picture for the card
    """


@main.command()
@options.data
@options.limit
@click.option("--vae-steps", default=2000, show_default=True, help="Optimizer steps of the autoencoder.")
@click.option("--steps", default=3000, show_default=True, help="Optimizer steps of the denoiser.")
@options.seed
@options.resume
@options.work("build/tiny-sd")
@options.output(DEFAULT_DIRECTORY)
def train(
    data_dir: Path,
    limit: int | None,
    vae_steps: int,
    steps: int,
    seed: int,
    resume: bool,
    work: Path,
    output: Path,
) -> None:
    """Train and save the pipeline to OUTPUT, which is refreshed at every checkpoint.

    Ctrl-C saves before it stops; the same command with --resume goes on from there.
    """
    data = fashion_mnist.load("train", data_dir, limit)
    pipeline = build_pipeline(seed)
    _train_autoencoder(pipeline, data, vae_steps, seed, resume, work / "vae")
    _train_denoiser(pipeline, data, steps, seed, resume, work / "unet", output)


def _train_autoencoder(
    pipeline: StableDiffusionPipeline, data: FashionMnist, steps: int, seed: int, resume: bool, work: Path
) -> None:
    vae, classifier = pipeline.vae, load_classifier()
    settings = LoopSettings(steps=steps, learning_rate=1e-3, seed=seed)
    loop = TrainingLoop(vae, lambda g: autoencoder_loss(vae, classifier, data, g), settings, work)
    loop.run(resume)
    loop.ema.copy_to(vae.parameters())
    vae.eval().requires_grad_(False)
    error = reconstruction_error(vae, data.rgb(slice(500)))
    click.echo(f"autoencoder: mean absolute error {error:.4f} of the range of a pixel")


def _train_denoiser(
    pipeline: StableDiffusionPipeline,
    data: FashionMnist,
    steps: int,
    seed: int,
    resume: bool,
    work: Path,
    output: Path,
) -> None:
    latents = encode_all(pipeline.vae, data)
    scale = 1 / latents.std().item()
    pipeline.vae.register_to_config(scaling_factor=scale)
    model = TextToNoise(pipeline)
    settings = LoopSettings(steps=steps, learning_rate=1e-3, seed=seed)
    loss = DiffusionLoss(model, pipeline.scheduler, latents * scale, Captions(data.labels))
    loop = TrainingLoop(model, loss, settings, work)
    loop.run(resume, on_checkpoint=lambda: save_pipeline(pipeline, output))
    click.echo(f"{output}: trained for {loop.seconds / 60:.0f} minutes")


@main.command()
@options.evaluation(DEFAULT_DIRECTORY, DEFAULT_GUIDANCE)
def evaluate(data_dir: Path, count: int, steps: int, guidance: float, seed: int, model: Path) -> None:
    """Generate images, judge them, and write evaluation.json and samples.png into MODEL."""
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    drawing = Drawing(count, steps, guidance, seed)
    evaluate_model("tiny_sd", model, pipeline, captions_for(drawing.labels), drawing, data_dir)


if __name__ == "__main__":
    main()
