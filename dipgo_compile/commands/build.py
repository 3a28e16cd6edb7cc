"""``dipgo-compile build``: a mask becomes a bundle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipgo_compile.bundle import CACHE
from dipgo_compile.commands.onnx_options import announce, onnx_options, take_reading
from dipgo_compile.commands.progress import Steps
from dipgo_compile.commands.result import Result, json_option
from dipgo_compile.models.reading import Reading, is_onnx
from dipgo_compile.shapes import Size, parse_images, parse_sizes

if TYPE_CHECKING:
    from dipgo_compile.build import BuildReport
    from dipgo_compile.mask import Mask
    from dipgo_compile.models import Denoiser


@click.command()
@click.option(
    "--mask", type=click.Path(path_type=Path), required=True, help="The mask file; it names its model."
)
@click.option("--model", help="Compile for this model instead: a directory, a hub id or random:NAME.")
@click.option(
    "--onnx",
    metavar="FILE",
    help="Compile this ONNX file instead, exported from the mask's model or another with its blocks.",
)
@click.option(
    "--blocks",
    "pattern",
    metavar="REGEX",
    help="ONNX: the modules that are the mask's blocks, in its order, where they are called otherwise.",
)
@onnx_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The bundle to write.  [default: the mask's name with .dipgo, in the working directory]",
)
@click.option(
    "--backend",
    default="onnxruntime",
    show_default=True,
    help="onnxruntime, or openvino, which is faster in bf16 on processors that have it.",
)
@click.option(
    "--target",
    "provider",
    default="cpu",
    show_default=True,
    help="cpu, or cuda where the backend is onnxruntime.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="Precision of the arithmetic: fp32; fp16 where the target is cuda, which halves the bundle too; "
    "bf16 where the backend is openvino.",
)
@click.option(
    "--batch",
    "images",
    metavar="IMAGES",
    default="1",
    show_default=True,
    help="Images denoised together: a number, or for a bundle that serves several a range, 1..4, or a list, "
    "1,2,8.",
)
@click.option(
    "--size",
    metavar="HEIGHTxWIDTH,...",
    help="Size of the images in pixels, of an ONNX file of the latents; or several, for a bundle that serves "
    "them all, each with every number of images.  [default: the model's]",
)
@click.option("--height", type=int, help="The height alone.  [default: the model's]")
@click.option("--width", type=int, help="The width alone.  [default: the model's]")
@click.option(
    "--guidance/--no-guidance",
    default=None,
    help="Classifier-free guidance: twice the work; its scale is chosen when an image is made.  "
    "[default: guidance, unless the model was distilled to do without it, or is an ONNX file whose order "
    "nobody told]",
)
@click.option(
    "--split-guidance",
    is_flag=True,
    help="Compute the two halves of the guided batch one after the other: less memory for activations, and "
    "half the work at a guidance scale of 1. At other scales one batch may be faster.",
)
@click.option(
    "--pipeline",
    is_flag=True,
    help="Put text encoder, tokenizer and image decoder into the bundle too: generate then needs neither the "
    "model nor PyTorch.",
)
@click.option(
    "--start-step",
    metavar="K",
    type=click.IntRange(min=0),
    help="Build for image to image: begin with an image, noised, at step K. For a strength s and N steps, "
    "K is N - floor(s * N).",
)
@click.option(
    "--fuse",
    type=click.Choice(["auto", "patterns", "atoms", "none"]),
    default="auto",
    show_default=True,
    help="patterns: an engine for each set of blocks that a call computes. atoms: each block in one engine. "
    "auto: the best mixture, by estimate. none: one engine a block.",
)
@click.option(
    "--max-engines",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="The most patterns that auto may choose, unless more make no more engines: each takes time to load.",
)
@click.option(
    "--disable-pass",
    "disabled",
    metavar="NAME",
    multiple=True,
    help="Leave out a compiler pass or a rewrite of the graph, for bisecting. Can be given more than once.",
)
@json_option("the summary")
def build(
    mask: Path,
    model: str | None,
    onnx: str | None,
    pattern: str | None,
    output: Path | None,
    images: str,
    size: str | None,
    result: Result,
    **options: Any,
) -> None:
    """Compile a mask for its model into a bundle, a directory that ONNX Runtime or OpenVINO can run.

    \b
    dipgo-compile build --mask mask.json
    dipgo-compile build --mask mask.json -o small.dipgo --size 256x256 --batch 4
    dipgo-compile build --mask mask.json --batch 1..4 --size 512x512,768x512
    dipgo-compile build --mask mask.json --backend openvino --precision bf16
    dipgo-compile build --mask mask.json --target cuda --precision fp16
    dipgo-compile build --mask mask.json --pipeline
    dipgo-compile build --mask mask.json --onnx denoiser.onnx --guidance-order uncond,cond
    dipgo-compile build --mask mask.json --start-step 20 -o from-step-20.dipgo
    dipgo-compile build --mask mask.json --split-guidance -o small-memory.dipgo
    """
    from dipgo_compile.mask import Mask

    if onnx and model:
        raise click.UsageError("give --onnx or --model")
    batches, sizes = parse_images(images), take_sizes(size, options)
    loaded, reading = Mask.load(mask), take_reading(options)
    opened = None
    if onnx or is_onnx(model or loaded.model.source):
        loaded, opened = _open_onnx(loaded, onnx, model, reading, pattern)
    elif pattern or not reading.is_size_alone():
        raise click.UsageError("--blocks and the options for ONNX files go with an ONNX file")
    with Steps() as steps:
        steps("import the compiler")
        from dipgo_compile.build import BuildOptions
        from dipgo_compile.build import build as compile_mask

        if sizes:  # the first was for reading the file
            options |= {"height": None, "width": None}
        chosen = BuildOptions(batches=batches, sizes=sizes, **options)
        report = compile_mask(
            loaded,
            source=model,
            model=opened,
            output=output or Path(f"{mask.stem}.dipgo"),
            options=chosen,
            progress=steps,
        )
    facts = summary(report)
    result.report(facts, as_text(facts))


def take_sizes(text: str | None, options: dict[str, Any]) -> tuple[Size, ...]:
    """The sizes of ``--size``. The first becomes the options ``height`` and ``width``, by which an ONNX file
    is read. Raises InputError, UsageError.
    """
    if text is None:
        return ()
    if options["height"] or options["width"]:
        raise click.UsageError("give --size, or --height and --width")
    sizes = parse_sizes(text)
    options["height"], options["width"] = sizes[0]
    return sizes


def _open_onnx(
    mask: Mask, onnx: str | None, model: str | None, reading: Reading, pattern: str | None
) -> tuple[Mask, Denoiser]:
    """The file, and the mask, which with ``--onnx`` becomes one for this file."""
    from dipgo_compile.masks.adopt import adopt, unproven, with_guidance_of
    from dipgo_compile.models.onnx_file import open_onnx

    reading = with_guidance_of(mask, reading).over(Reading.from_json(mask.model.onnx))
    opened = open_onnx(onnx or model or mask.model.source, reading)
    announce(opened)
    if onnx is None:
        return mask, opened
    if (note := unproven(mask, opened)) is not None:
        click.echo(f"note: {note}", err=True)
    return adopt(mask, opened, pattern), opened


def summary(report: BuildReport) -> dict[str, Any]:
    """What a build made, as JSON. ``shapes`` count latents, that of plan.json first, and engines, MACs and
    arena are that one's; ``macs`` are of its images over all calls. Sizes are bytes.
    """
    plan = report.plan
    on_disk = sum(file.stat().st_size for file in report.path.iterdir() if file.is_file())
    cached = sum(file.stat().st_size for file in (report.path / CACHE).rglob("*") if file.is_file())
    return {
        "bundle": str(report.path),
        "shapes": [asdict(shape) for shape in report.shapes],
        "calls": {"total": len(plan.program.calls), "run": len(plan.program.calls_with_runs())},
        "engines": len(plan.program.engines),
        "pipeline": None if plan.pipeline is None else list(plan.pipeline.files),
        "macs": dict(plan.macs),
        "arena_bytes": plan.memory.arena_bytes,
        "naive_bytes": plan.memory.naive_bytes,
        "disk_bytes": on_disk,
        "cache_bytes": cached,
        "seconds": dict(report.seconds),
    }


def as_text(facts: dict[str, Any]) -> str:
    """The summary for people; sizes on disk are of all shapes together."""
    calls, macs = facts["calls"], facts["macs"]
    kept = macs["kept"] / macs["dense"]
    shapes = len(facts["shapes"])
    rows = (
        *((("shapes", f"{shapes}; what follows is of the largest"),) if shapes > 1 else ()),
        ("calls", f"{calls['run']} of {calls['total']} run the denoiser"),
        ("engines", str(facts["engines"])),
        *((("pipeline", ", ".join(facts["pipeline"])),) if facts["pipeline"] else ()),
        ("MACs", f"{kept:.1%} of the unpruned model's: {1 / kept:.2f} times faster at best"),
        ("arena", f"{size(facts['arena_bytes'])}; {size(facts['naive_bytes'])} without sharing"),
        ("on disk", f"{size(facts['disk_bytes'])}; cache of this machine {size(facts['cache_bytes'])}"),
    )
    return "\n".join([facts["bundle"], *(f"  {name:<9}{value}" for name, value in rows)])


def size(count: int) -> str:
    """Bytes for people."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count} bytes"
