"""tiny-dit from data to model card: `python -m models.recipes.tiny_dit train`, then `evaluate`."""

from __future__ import annotations

from pathlib import Path

import click
from diffusers import AutoencoderKL

from models.recipes import fashion_mnist, options
from models.recipes.autoencoder import encode_all
from models.recipes.conditions import Classes
from models.recipes.diffusion import ClassToNoise, DiffusionLoss
from models.recipes.evaluation import Drawing, evaluate_model
from models.recipes.saving import save_pipeline
from models.recipes.tiny_sd import DEFAULT_DIRECTORY as TINY_SD
from models.recipes.training import LoopSettings, TrainingLoop
from models.recipes.transformer import build_pipeline, load_pipeline

DEFAULT_DIRECTORY = Path(__file__).parent.parent / "tiny-dit"
DEFAULT_GUIDANCE = 2.0
BATCH_SIZE = 64


@click.group()
def main() -> None:
    """tiny-dit: a class-conditional diffusion transformer that draws 32x32 Fashion-MNIST images.

    \b
    python -m models.recipes.tiny_sd train        its autoencoder, needed first
    python -m models.recipes.tiny_dit train       the transformer
    python -m models.recipes.tiny_dit evaluate    class agreement, FID and a picture for the card
    """


@main.command()
@options.data
@options.limit
@click.option("--steps", default=5000, show_default=True, help="Optimizer steps.")
@options.seed
@options.resume
@options.work("build/tiny-dit")
@options.output(DEFAULT_DIRECTORY)
def train(
    data_dir: Path, limit: int | None, steps: int, seed: int, resume: bool, work: Path, output: Path
) -> None:
    """Train and save the pipeline to OUTPUT, which is refreshed at every checkpoint.

    Ctrl-C saves before it stops; the same command with --resume goes on from there.
    """
    data = fashion_mnist.load("train", data_dir, limit)
    vae = AutoencoderKL.from_pretrained(TINY_SD, subfolder="vae")
    vae.register_to_config(_name_or_path=f"models/{TINY_SD.name}")  # what is saved names no path of a machine
    latents = encode_all(vae, data) * vae.config.scaling_factor
    pipeline = build_pipeline(vae, seed)
    model = ClassToNoise(pipeline.transformer)
    loss = DiffusionLoss(model, pipeline.scheduler, latents, Classes(data.labels), BATCH_SIZE)
    settings = LoopSettings(steps=steps, learning_rate=1e-3, seed=seed)
    loop = TrainingLoop(model, loss, settings, work)
    loop.run(resume, on_checkpoint=lambda: save_pipeline(pipeline, output))
    click.echo(f"{output}: trained for {loop.seconds / 60:.0f} minutes")


@main.command()
@options.evaluation(DEFAULT_DIRECTORY, DEFAULT_GUIDANCE)
def evaluate(data_dir: Path, count: int, steps: int, guidance: float, seed: int, model: Path) -> None:
    """Generate images, judge them, and write evaluation.json and samples.png into MODEL."""
    drawing = Drawing(count, steps, guidance, seed)
    evaluate_model("tiny_dit", model, load_pipeline(model), drawing.labels.tolist(), drawing, data_dir)


if __name__ == "__main__":
    main()
