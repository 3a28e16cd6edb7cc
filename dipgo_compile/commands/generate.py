"""``dipgo-compile generate``: images from a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from dipgo_compile.backends.base import MEMORY_MODES
from dipgo_compile.commands.result import Result, json_option
from dipgo_compile.errors import InputError
from dipgo_compile.progress import Steps


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
@click.option("--model", help="The pipeline with text encoder and image decoder.  [default: the bundle's]")
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

    \b
    dipgo-compile generate mask.dipgo --prompt "a photo of a sneaker" --seed 7 -o sneaker.png
    dipgo-compile generate mask.dipgo --prompt "a dress" --prompt "a bag" --count 4
    """
    from dipgo_compile.runtime import Runtime

    check_output(output)
    with Steps() as steps:
        steps("load the bundle")
        runtime = Runtime.load(bundle, memory=memory)
        steps("load the pipeline")
        from dipgo_compile.generate import Job
        from dipgo_compile.models.source import load_pipeline

        pipeline = load_pipeline(model or runtime.plan.model["source"])
    jobs = [Job(prompt, seed + index) for prompt in prompts for index in range(count)]
    drawn = []
    for path, made in zip(
        file_names(output, len(jobs)), _draw(runtime, pipeline, jobs, **options), strict=True
    ):
        made.image.save(path)
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
    from PIL import Image

    formats = Image.registered_extensions()
    if output.suffix.lower() not in formats:
        raise InputError(
            f"no picture format goes by the ending {output.suffix!r}",
            where=output,
            available=(".png", ".jpg"),
        )
    if not output.parent.is_dir():
        raise InputError("the directory of the picture does not exist", where=output.parent, mend="create it")


def file_names(output: Path, count: int) -> list[Path]:
    """The name itself for one picture; numbered names for several."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{index:03d}{output.suffix}") for index in range(count)]


def _draw(runtime: Any, pipeline: Any, jobs: Sequence[Any], **options: Any) -> Iterator[Any]:
    """The pictures, with a progress bar over the denoiser calls that compute anything."""
    from dipgo_compile.generate import generate, images_together, trained_guidance_scale
    from dipgo_compile.live import counter
    from dipgo_compile.mask import Mask

    if options["guidance_scale"] is None and runtime.plan.interface.guidance is not None:
        options["guidance_scale"] = trained_guidance_scale(Mask.load(runtime.bundle.path / "mask.json"))
    batches = -(-len(jobs) // images_together(runtime.plan))
    calls = batches * len(runtime.plan.program.calls_with_runs())
    done = 0
    with counter("denoiser calls") as count:

        def step(call: int) -> None:
            nonlocal done
            done += 1
            count(done, calls)

        yield from generate(runtime, pipeline, jobs, callback=step, **options)
