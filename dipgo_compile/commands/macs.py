"""``dipgo-compile macs``: what a model costs, block by block. Needs no weights."""

from __future__ import annotations

from pathlib import Path

import click

from dipgo_compile.commands.result import Result, json_option


@click.command()
@click.argument("model", required=False)
@click.option(
    "--mask",
    "mask_file",
    type=click.Path(path_type=Path),
    help="Count what this mask computes; MODEL, blocks and steps are then its own.",
)
@click.option("--height", type=int, help="Image height in pixels.  [default: the model's]")
@click.option("--width", type=int, help="Image width in pixels.  [default: the model's]")
@click.option(
    "--batch",
    metavar="IMAGES",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Images counted together.",
)
@click.option(
    "--guidance/--no-guidance",
    default=False,
    show_default=True,
    help="Count both samples that classifier-free guidance computes for an image.",
)
@click.option(
    "--granularity",
    type=click.Choice(["block", "layer"]),
    default="block",
    show_default=True,
    help="What is counted as a whole.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Denoiser calls of an image: its steps, with most schedulers.  [default: 1]",
)
@click.option(
    "--attention/--no-attention",
    default=False,
    show_default=True,
    help="Count the products inside attention, queries with keys and scores with values.",
)
@json_option("the counts")
def macs(
    model: str | None,
    mask_file: Path | None,
    height: int | None,
    width: int | None,
    batch: int,
    guidance: bool,
    granularity: str,
    steps: int | None,
    attention: bool,
    result: Result,
) -> None:
    """Count the multiply-accumulates of MODEL, by block and by image.

    MODEL is a diffusers directory, a hub id or random:NAME. A block's count is that of one call for one
    sample. The paper leaves guidance and the products inside attention out for UNets; docs/macs.md in the
    repository holds its figures against these.

    \b
    dipgo-compile macs random:sd15 --steps 50
    dipgo-compile macs random:pixart-alpha --guidance --steps 20
    dipgo-compile macs random:dit-xl-2 --granularity layer --attention --json macs.json
    dipgo-compile macs --mask mask.json
    """
    from dipgo_compile.macs.image import Count, count_image
    from dipgo_compile.mask import Mask
    from dipgo_compile.models.source import load

    mask = None if mask_file is None else Mask.load(mask_file)
    if mask is not None:
        model = model or mask.model.source
        if steps is not None:
            raise click.UsageError("a mask has its own steps: leave out --steps")
    if model is None:
        raise click.UsageError("give MODEL or --mask")
    loaded = load(model, weights=False)
    calls = steps or 1 if mask is None else mask.calls
    counted = count_image(
        loaded,
        Count(calls, batch, guidance, height, width, attention),
        granularity=granularity,
        mask=mask,
    )
    result.report(counted.to_json(), counted.to_text())
