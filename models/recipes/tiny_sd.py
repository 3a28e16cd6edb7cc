"""tiny-sd from data to model card: `python -m models.recipes.tiny_sd train`, then `evaluate`."""

from __future__ import annotations

from pathlib import Path

import click
from diffusers import StableDiffusionPipeline

from models.recipes import fashion_mnist
from models.recipes.architecture import build_pipeline
from models.recipes.autoencoder import autoencoder_loss, encode_all, reconstruction_error
from models.recipes.classifier import load_classifier
from models.recipes.diffusion import DiffusionLoss, TextToNoise
from models.recipes.evaluation import evaluation_labels, generate, image_grid, measure
from models.recipes.fashion_mnist import FashionMnist
from models.recipes.saving import replace_file, save_pipeline, write_json
from models.recipes.training import LoopSettings, TrainingLoop

DEFAULT_DIRECTORY = Path(__file__).parent.parent / "tiny-sd"
DEFAULT_GUIDANCE = 3.0
GRID = 60

data_option = click.option(
    "--data", "data_dir", type=click.Path(path_type=Path), default=fashion_mnist.DEFAULT_DATA_DIR,
    show_default=True, help="Folder with the four Fashion-MNIST idx.gz files.",
)  # fmt: skip


@click.group()
def main() -> None:
    """tiny-sd: a complete Stable Diffusion pipeline that draws 32x32 Fashion-MNIST images.

    \b
    python -m models.recipes.classifier train     the judge, needed first
    python -m models.recipes.tiny_sd train        autoencoder, then denoiser and text encoder
    python -m models.recipes.tiny_sd evaluate     class agreement, FID and a picture for the card
    """


@main.command()
@data_option
@click.option("--limit", type=int, help="Use only the first LIMIT training images: for smoke tests.")
@click.option("--vae-steps", default=2000, show_default=True, help="Optimizer steps of the autoencoder.")
@click.option("--steps", default=3000, show_default=True, help="Optimizer steps of the denoiser.")
@click.option("--seed", default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the checkpoints in WORK.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/tiny-sd"),
              show_default=True, help="Folder for checkpoints and logs.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), default=DEFAULT_DIRECTORY, show_default=True)
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
    loop = TrainingLoop(model, DiffusionLoss(model, pipeline, latents * scale, data.labels), settings, work)
    loop.run(resume, on_checkpoint=lambda: save_pipeline(pipeline, output))
    click.echo(f"{output}: trained for {loop.seconds / 60:.0f} minutes")


@main.command()
@data_option
@click.option("--images", "count", default=2000, show_default=True, help="How many images to judge.")
@click.option("--steps", default=50, show_default=True, help="DDIM steps per image.")
@click.option("--guidance", default=DEFAULT_GUIDANCE, show_default=True, help="Guidance scale.")
@click.option("--seed", default=0, show_default=True)
@click.option("--model", type=click.Path(path_type=Path), default=DEFAULT_DIRECTORY, show_default=True)
def evaluate(data_dir: Path, count: int, steps: int, guidance: float, seed: int, model: Path) -> None:
    """Generate images, judge them, and write evaluation.json and samples.png into MODEL."""
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    labels = evaluation_labels(count)
    images = generate(pipeline, labels, steps, guidance, seed)
    figures = {
        "command": f"python -m models.recipes.tiny_sd evaluate --images {count} --steps {steps}"
        f" --guidance {guidance:g} --seed {seed}",
        "scheduler": type(pipeline.scheduler).__name__,
        "images": count,
        "steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
        **measure(
            images,
            labels,
            load_classifier(),
            fashion_mnist.load("train", data_dir),
            fashion_mnist.load("test", data_dir),
        ),
    }
    write_json(model / "evaluation.json", figures)
    replace_file(model / "samples.png", lambda path: image_grid(images[:GRID], columns=10).save(path, "PNG"))
    click.echo(f"class agreement {figures['class_agreement']:.1%}, FID {figures['fid']:.3f}")


if __name__ == "__main__":
    main()
