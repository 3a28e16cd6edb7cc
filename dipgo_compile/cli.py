"""``dipgo-compile``: parse, call, print. A command lives in ``commands/`` and is imported when it is called.

The help lines stand here instead of in the commands, so that ``--help`` answers at once: some commands need
torch to list their options.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

import click

from dipgo_compile import __version__
from dipgo_compile.errors import DipgoError

COMMANDS: Mapping[str, str] = {  # in the order in which one uses them
    "train": "Learn a mask for a model.",
    "blocks": "List what could serve as blocks of a mask.",
    "mask": "Import, make and show masks.",
    "macs": "Count the MACs of a model, by block.",
    "build": "Compile a mask into a bundle.",
    "verify": "Compare a bundle with its model, call by call.",
    "bench": "Time a bundle against the unpruned model.",
    "inspect": "Show what is in a bundle.",
    "generate": "Draw images with a bundle.",
    "tokenize": "Turn a prompt into a bundle's token ids.",
}
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime",),
    "text": ("tokenizers",),
    "build": ("diffusers", "jsonschema", "matplotlib", "onnx", "onnx_ir", "onnxscript", "PIL", "rich",
              "safetensors", "torch", "transformers"),
    "train": ("dipgo_trainer", "torchmetrics"),
}  # fmt: skip
DEBUG = "DIPGO_DEBUG"


class Interrupted(DipgoError):
    """Ctrl-C."""

    exit_code = 130  # 128 + SIGINT, as shells count


class LazyGroup(click.Group):
    """Imports a command when it is called; ends with a message and an exit code on an expected error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"dipgo_compile.commands.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        quiet_libraries()
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException, BrokenPipeError):
            raise  # click knows what to do
        except (DipgoError, ImportError, OSError, KeyboardInterrupt) as error:
            expected = as_expected(error)
            if expected is None:
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            click.echo(f"{click.style('error:', fg='red', bold=True)} {expected}", err=True)
            ctx.exit(expected.exit_code)


def as_expected(error: BaseException) -> DipgoError | None:
    """An error as users are told of it; None for a bug of ours, which deserves its traceback."""
    match error:
        case DipgoError():
            return error
        case KeyboardInterrupt():
            return Interrupted("interrupted")
        case ImportError(name=str(name)):
            return missing_package(name.partition(".")[0])
        case OSError(filename=str(path), strerror=str(reason)):
            return DipgoError(reason, where=path, mend="check the path, its rights and free space")
    return None


def quiet_libraries() -> None:
    """Keep to themselves what diffusers and transformers would tell developers as they are imported."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")


def missing_package(package: str) -> DipgoError | None:
    """The error for a package that an extra would have brought; None when no extra has it."""
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    if extra is None:
        return None
    return DipgoError(
        f"this command needs the package {package}, which is not installed",
        mend=f'pip install "dipgo-compile[{extra}]"',
    )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dipgo-compile")
@click.option(
    "--debug", is_flag=True, envvar=DEBUG, help=f"Show where an error comes from (or set {DEBUG}=1)."
)
def main(debug: bool) -> None:
    """Make diffusion models fast that DiP-GO has pruned.

    \b
    dipgo-compile train models/tiny-sd --prompts models/prompts/fashion.txt --ratio 0.8 -o mask.json
    dipgo-compile build --mask mask.json
    dipgo-compile bench mask.dipgo
    """


if __name__ == "__main__":
    main()
