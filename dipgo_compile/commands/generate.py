"""``dipgo-compile generate``: images from a bundle."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipgo_compile.bundle import MASK
from dipgo_compile.commands.bundle_options import (
    bundle_argument,
    memory_option,
    negative_prompt_option,
    prompts_option,
    threads_option,
)
from dipgo_compile.commands.progress import Steps, counter
from dipgo_compile.commands.result import Result, json_option
from dipgo_compile.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from dipgo_compile.drawing.draw import Drawn, Ends, Job
    from dipgo_compile.runtime import Runtime


@click.command()
@bundle_argument
@prompts_option(
    "What to draw; a class name or number for class-conditional models. Can be given more than once."
)
@negative_prompt_option
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the first image of a prompt; the next has the next.",
)
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="Images per prompt.")
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="The picture to begin with, resized to the bundle's size; the bundle was built with --start-step.",
)
@click.option(
    "--height",
    type=click.IntRange(min=1),
    help="Of a bundle for several sizes: the picture's, in pixels.  [default: the largest]",
)
@click.option("--width", type=click.IntRange(min=1), help="Likewise.")
@click.option("--guidance-scale", type=float, help="Strength of the prompt.  [default: the mask's, else 7.5]")
@memory_option("low gives memory back as soon as it is read; fast fills it before the first image.")
@threads_option("Threads.")
@click.option(
    "--affinity",
    help='Processors of all threads but the first: "1,2;3-4" puts the second on processors 1 and 2, the '
    "third on 3 and 4. They count from 1.",
)
@click.option(
    "--cuda-graphs/--no-cuda-graphs",
    default=True,
    help="On a GPU: capture each run once and replay it.  [default: capture]",
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
    image: Path | None,
    guidance_scale: float | None,
    memory: str,
    threads: int | None,
    affinity: str | None,
    cuda_graphs: bool,
    model: str | None,
    output: Path,
    height: int | None,
    width: int | None,
    result: Result,
    **options: Any,
) -> None:
    """Draw images with BUNDLE. The same seed gives the same noise as a diffusers pipeline draws.

    With a bundle that was built with --pipeline, this takes neither PyTorch nor the model: only the package
    tokenizers, besides those that run bundles.

    \b
    dipgo-compile generate mask.dipgo --prompt "a photo of a sneaker" --seed 7 -o sneaker.png
    dipgo-compile generate mask.dipgo --prompt "a dress" --prompt "a bag" --count 4
    dipgo-compile generate sizes.dipgo --prompt "a dress" --height 768 --width 512
    dipgo-compile generate from-step-20.dipgo --image sketch.png --prompt "a boot" -o boot.png
    """
    from dipgo_compile.bundle import open_bundle
    from dipgo_compile.drawing.draw import Job, batches, check_image
    from dipgo_compile.runtime import Runtime

    check_output(output)
    jobs = [Job(prompt, seed + index) for prompt in prompts for index in range(count)]
    picture = None if image is None else read_image(image)
    with Steps() as steps:
        steps("load the bundle")
        shapes = open_bundle(bundle, verify=False).shapes
        shape = next(batches(shapes, len(jobs), height, width))
        runtime = Runtime.load(
            bundle,
            memory=memory,
            threads=threads,
            affinity=affinity,
            cuda_graphs=cuda_graphs,
            shape=shape,
        )
        check_image(runtime.plan, picture is not None)
        ends, options["guidance_scale"] = _ends(runtime, model, picture, guidance_scale, steps)
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
        f"{entry['file']}  {entry['seconds']:.2f} s  seed {entry['seed']}  {entry['prompt']}"
        for entry in drawn
    )
    result.report({"bundle": str(bundle), "images": drawn}, "\n".join(lines))


def check_output(output: Path) -> None:
    """Refuse a place that can't take a picture, before minutes are spent on it. Raises InputError."""
    from dipgo_compile.drawing.draw import PNG

    if output.suffix.lower() != PNG and output.suffix.lower() not in _formats():
        raise InputError(
            f"no picture format goes by the ending {output.suffix!r}",
            where=output,
            available=(PNG, ".jpg"),
        )
    if not output.parent.is_dir():
        raise InputError("the directory of the picture does not exist", where=output.parent, mend="create it")


def read_image(path: Path) -> Image:
    """A picture in RGB. Raises InputError."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path).convert("RGB")
    except UnidentifiedImageError:
        raise InputError("this is not a picture", where=path, available=(".png", ".jpg")) from None
    except OSError as error:  # missing, a directory, or cut off
        reason = error.strerror or error
        raise InputError(f"cannot read the picture: {reason}", where=path, mend="check the file") from None


def file_names(output: Path, count: int) -> list[Path]:
    """The name itself for one picture; numbered names for several."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{index:03d}{output.suffix}") for index in range(count)]


def _formats() -> Collection[str]:
    """The endings that Pillow knows."""
    from PIL import Image

    return Image.registered_extensions()


def _ends(
    runtime: Runtime, model: str | None, image: Image | None, guidance_scale: float | None, steps: Steps
) -> tuple[Ends, float | None]:
    """What makes conditions and pixels, and the guidance scale of the denoising loop."""
    plan, parts = runtime.plan, runtime.plan.pipeline
    guided = plan.interface.guidance is not None
    if parts is not None and model is None and image is None:
        return runtime.pipeline, parts.guidance_scale if guided and guidance_scale is None else guidance_scale
    steps("load the pipeline")
    from dipgo_compile.drawing.conditions import reads_guidance
    from dipgo_compile.generate import DiffusersEnds, trained_guidance_scale
    from dipgo_compile.mask import Mask
    from dipgo_compile.models.source import load_pipeline

    pipeline = load_pipeline(model or plan.model["source"])
    if guidance_scale is None and (guided or reads_guidance(plan)):
        guidance_scale = trained_guidance_scale(Mask.load(runtime.bundle.path / MASK))
    ends = DiffusersEnds(pipeline, plan, guidance_scale, image)
    return ends, None if reads_guidance(plan) else guidance_scale


def _draw(runtime: Runtime, ends: Ends, jobs: Sequence[Job], **options: Any) -> Iterator[Drawn]:
    """The pictures, with a progress bar over the denoiser calls that compute anything."""
    from dipgo_compile.drawing.draw import batches, draw

    rounds = sum(1 for _ in batches(runtime.shapes, len(jobs)))
    calls = rounds * len(runtime.plan.program.calls_with_runs())
    done = 0
    with counter("denoiser calls") as count:

        def step(call: int) -> None:
            nonlocal done
            done += 1
            count(done, calls)

        yield from draw(runtime, ends, jobs, callback=step, **options)
