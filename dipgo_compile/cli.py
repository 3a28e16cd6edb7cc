"""``dipgo-compile``: parse, call, print. Each command lives in ``commands/`` and is imported when it is called.

The help lines stand here instead of in the commands, so that ``--help`` answers at once: some commands need torch to
list their options.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Mapping
from typing import IO, Any

import click

from dipgo_compile import __version__
from dipgo_compile.errors import DipgoError

COMMANDS: Mapping[str, str] = {  # in the order in which one uses them
    "train": "Learn a mask for a model.",
    "mask": "Import, make and show masks.",
    "build": "Compile a mask into a bundle.",
    "verify": "Compare a bundle with PyTorch, call by call.",
    "bench": "Time a bundle against the unpruned model.",
    "inspect": "Show what is in a bundle.",
    "generate": "Draw images with a bundle.",
}
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime",),
    "build": ("diffusers", "jsonschema", "matplotlib", "onnx", "onnx_ir", "onnxscript", "PIL", "rich",
              "safetensors", "torch", "transformers"),
    "train": ("dipgo_trainer", "torchmetrics"),
}  # fmt: skip
INTERRUPTED = 130  # 128 + SIGINT, as shells count
DEBUG = "DIPGO_DEBUG"


class Failure(click.ClickException):
    """An expected error on its way to the terminal: printed on stderr, then the process exits with its code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {self.message}", file=file, err=True)


class LazyGroup(click.Group):
    """Knows its commands by name, and turns every expected error of theirs into a Failure."""

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
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException, BrokenPipeError):
            raise  # click knows what to do
        except (DipgoError, ImportError, OSError, KeyboardInterrupt) as error:
            failure = as_failure(error)
            if failure is None:
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            raise failure from error


def as_failure(error: BaseException) -> Failure | None:
    """How to tell the user about an error; None for one that is a bug of ours, which deserves its traceback."""
    match error:
        case KeyboardInterrupt():
            return Failure("interrupted", INTERRUPTED)
        case DipgoError():
            return Failure(str(error), error.exit_code)
        case ImportError(name=str(name)):
            return missing_package(name.partition(".")[0])
        case OSError(filename=str(path), strerror=str(reason)):
            return Failure(
                str(DipgoError(reason, where=path, mend="check the path, its rights and free space")), 1
            )
    return None


def missing_package(package: str) -> Failure | None:
    """The error for a package that an extra would have brought; None when no extra has it."""
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    if extra is None:
        return None
    error = DipgoError(
        f"this command needs the package {package}, which is not installed",
        mend=f'pip install "dipgo-compile[{extra}]"',
    )
    return Failure(str(error), error.exit_code)


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
    # Notices that these libraries print while they load tell a user of this command nothing.
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


if __name__ == "__main__":
    main()
