"""``dipgo-compile generate``: images from a bundle."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipgo_compile.backends.base import MEMORY_MODES
from dipgo_compile.bundle import MASK
from dipgo_compile.commands.result import Result, json_option
from dipgo_compile.errors import InputError
from dipgo_compile.progress import Steps

if TYPE_CHECKING:
    from dipgo_compile.drawing import Drawn, Ends, Job
    from dipgo_compile.runtime import Runtime


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    required=True,
    help="What to draw; a class name or number for class-conditional models. Can be given more than once.",
)
@click.option("--negative-prompt", default="", help="What to keep away from.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the first image of a prompt; the next has the next.",
)
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="Images per prompt.")
@click.option("--guidance-scale", type=float, help="Strength of the prompt.  [default: the mask's, else 7.5]")
@click.option(
    "--memory",
    type=click.Choice(MEMORY_MODES),
    default="balanced",
    show_default=True,
    help="low gives memory back as soon as it is read; fast fills it before the first image.",
)
@click.option(
    "--model",
    help="A diffusers pipeline with text encoder and image decoder.  [default: the bundle's own parts, if it "
    "was built with --pipeline; else the model it was built from]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("image.png"),
    show_default=True,
    help="The picture; of several, the pattern of their names: image-000.png, image-001.png, ...",
)
@json_option("prompts, seeds, files and seconds")
def generate(
    bundle: Path,
    prompts: tuple[str, ...],
    seed: int,
    count: int,
    memory: str,
    model: str | None,
    output: Path,
    result: Result,
    **options: Any,
) -> None:
    """Draw images with BUNDLE. The same seed gives the same noise as a diffusers pipeline draws.

    With a bundle that was built with --pipeline, this takes neither PyTorch nor the model: only the package
    tokenizers, besides those that run bundles.

    \b
    dipgo-compile generate mask.dipgo --prompt "a photo of a sneaker" --seed 7 -o sneaker.png
    dipgo-compile generate mask.dipgo --prompt "a dress" --prompt "a bag" --count 4
    """
    from dipgo_compile.drawing import Job
    from dipgo_compile.runtime import Runtime

    check_output(output)
    with Steps() as steps:
        steps("load the bundle")
        runtime = Runtime.load(bundle, memory=memory)
        ends, scale = _ends(runtime, model, steps)
    if options["guidance_scale"] is None and runtime.plan.interface.guidance is not None:
        options["guidance_scale"] = scale
    jobs = [Job(prompt, seed + index) for prompt in prompts for index in range(count)]
    drawn = []
    for path, made in zip(file_names(output, len(jobs)), _draw(runtime, ends, jobs, **options), strict=True):
        made.save(path)
        drawn.append(
            {
                "file": str(path),
                "prompt": made.job.prompt,
                "seed": made.job.seed,
                "seconds": round(made.seconds, 6),
            }
        )
    lines = (
        f"{image['file']}  {image['seconds']:.2f} s  seed {image['seed']}  {image['prompt']}"
        for image in drawn
    )
    result.report({"bundle": str(bundle), "images": drawn}, "\n".join(lines))


def check_output(output: Path) -> None:
    """Refuse a place that can't take a picture, before minutes are spent on it. Raises InputError."""
    from dipgo_compile.drawing import PNG

    if output.suffix.lower() != PNG and output.suffix.lower() not in _formats():
        raise InputError(
            f"no picture format goes by the ending {output.suffix!r}",
            where=output,
            available=(PNG, ".jpg"),
        )
    if not output.parent.is_dir():
        raise InputError("the directory of the picture does not exist", where=output.parent, mend="create it")


def file_names(output: Path, count: int) -> list[Path]:
    """The name itself for one picture; numbered names for several."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{index:03d}{output.suffix}") for index in range(count)]


def _formats() -> Collection[str]:
    """The endings that Pillow knows."""
    from PIL import Image

    return Image.registered_extensions()


def _ends(runtime: Runtime, model: str | None, steps: Steps) -> tuple[Ends, float]:
    """What makes conditions and pixels, and the guidance scale to draw with unless told otherwise."""
    parts = runtime.plan.pipeline
    if parts is not None and model is None:
        return runtime.pipeline, parts.guidance_scale
    steps("load the pipeline")
    from dipgo_compile.generate import DiffusersEnds, trained_guidance_scale
    from dipgo_compile.mask import Mask
    from dipgo_compile.models.source import load_pipeline

    pipeline = load_pipeline(model or runtime.plan.model["source"])
    scale = trained_guidance_scale(Mask.load(runtime.bundle.path / MASK))
    return DiffusersEnds(pipeline, runtime.plan), scale


def _draw(runtime: Runtime, ends: Ends, jobs: Sequence[Job], **options: Any) -> Iterator[Drawn]:
    """The pictures, with a progress bar over the denoiser calls that compute anything."""
    from dipgo_compile.drawing import draw, images_together
    from dipgo_compile.live import counter

    batches = -(-len(jobs) // images_together(runtime.plan))
    calls = batches * len(runtime.plan.program.calls_with_runs())
    done = 0
    with counter("denoiser calls") as count:

        def step(call: int) -> None:
            nonlocal done
            done += 1
            count(done, calls)

        yield from draw(runtime, ends, jobs, callback=step, **options)
