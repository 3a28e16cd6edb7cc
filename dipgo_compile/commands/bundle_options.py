"""Options of the commands that run a bundle. Some say of themselves what they are to the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from dipgo_compile.backends.base import MEMORY_MODES

Command = Callable[..., None]
Option = Callable[[Command], Command]

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
model_option = click.option("--model", help="The model's place, if it isn't where the bundle was built from.")
guidance_scale_option = click.option("--guidance-scale", type=float, default=7.5, show_default=True)
negative_prompt_option = click.option("--negative-prompt", default="", help="What to keep away from.")


def prompts_option(about: str) -> Option:
    """``--prompt``, any number of them, which arrive as ``prompts``."""
    return click.option("--prompt", "prompts", multiple=True, required=True, help=about)


def threads_option(about: str) -> Option:
    """``--threads``, which arrives as None unless given."""
    return click.option(
        "--threads", type=click.IntRange(min=1), help=f"{about}  [default: the physical cores]"
    )


def memory_option(about: str) -> Option:
    """``--memory``, one of ``MEMORY_MODES``."""
    return click.option(
        "--memory", type=click.Choice(MEMORY_MODES), default="balanced", show_default=True, help=about
    )


def shape_option(about: str) -> Option:
    """``--shape``, which arrives as ``Shapes.parse`` reads it, or as None."""
    return click.option(
        "--shape", metavar="IMAGESxHEIGHTxWIDTH", help=f"Of a bundle for several: the one to {about}"
    )
