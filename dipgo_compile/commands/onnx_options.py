"""Options of the commands that take an ONNX file: what it doesn't say of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dipgo_compile.models.reading import TIMESTEP_KINDS, Reading, parse_dims

if TYPE_CHECKING:
    from dipgo_compile.models import Denoiser

Command = TypeVar("Command", bound=Callable[..., Any])
NAMES = ("sample", "timestep", "timestep_kind", "noise_pred", "guidance_order", "cuts", "tokens", "dims")


def onnx_options(command: Command) -> Command:
    """They arrive as keywords; ``take_reading`` makes a ``Reading`` of them."""
    options = (
        click.option("--sample", metavar="NAME", help="ONNX: the input that is the noisy sample."),
        click.option("--timestep", metavar="NAME", help="ONNX: the input that says how noisy it is."),
        click.option(
            "--timestep-kind",
            type=click.Choice(TIMESTEP_KINDS),
            help="ONNX: that input reads the scheduler's timestep, or its sigma.",
        ),
        click.option("--noise-pred", metavar="NAME", help="ONNX: the output that is the noise prediction."),
        click.option(
            "--guidance-order",
            metavar="FIRST,SECOND",
            help="ONNX: uncond,cond (as Stable Diffusion) or cond,uncond (as DiT). Without it the file is "
            "compiled without guidance: a wrong order would guide away from the prompt.",
        ),
        click.option(
            "--cuts",
            metavar="TENSOR,...",
            help="ONNX: blocks are what lies between these tensors, each named after the one it ends with. "
            "For files without module names.",
        ),
        click.option("--tokens", type=click.IntRange(min=1), help="ONNX: length of the prompt's embedding."),
        click.option(
            "--dim",
            "dims",
            metavar="NAME=N",
            multiple=True,
            help="ONNX: size of a free dimension, by its name or as INPUT.AXIS. Can be given more than once.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def size_options(command: Command) -> Command:
    """The latents' sizes, and the scheduler's configuration, where no other option has them."""
    options = (
        click.option("--height", type=click.IntRange(min=1), help="ONNX: height of the latents."),
        click.option("--width", type=click.IntRange(min=1), help="ONNX: width of the latents."),
    )
    for option in reversed(options):
        command = option(command)
    return command


scheduler_config_option = click.option(
    "--scheduler-config",
    type=click.Path(path_type=Path),
    help="ONNX: a diffusers scheduler_config.json.  [default: scheduler/scheduler_config.json beside the "
    "file or its directory]",
)


def take_reading(options: dict[str, Any]) -> Reading:
    """Removes the options from the keywords. Raises InputError."""
    told = {name: options.pop(name) for name in NAMES}
    dims = parse_dims(told.pop("dims"))
    dims |= {name: options[name] for name in ("height", "width") if options.get(name)}
    if told["tokens"]:
        dims["tokens"] = told["tokens"]
    del told["tokens"]
    for name in ("guidance_order", "cuts"):
        told[name] = tuple(part.strip() for part in (told[name] or "").split(",") if part.strip())
    return Reading(**told, dims=dims)


def announce(model: Denoiser) -> None:
    """Print, on stderr, what was guessed of an ONNX file."""
    for note in getattr(model, "notes", ()):
        click.echo(f"note: {note}", err=True)
