"""``dipgo-compile mask make``: masks by simple rules, the baselines for trained ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dipgo_compile.commands.onnx_options import (
    announce,
    onnx_options,
    scheduler_config_option,
    size_options,
    take_reading,
)
from dipgo_compile.schedules.schedulers import NAMES_HELP

if TYPE_CHECKING:
    from dipgo_compile.mask import Keep, Mask, Reuse
    from dipgo_compile.models import Denoiser

Command = TypeVar("Command", bound=Callable[..., Any])
Rule = Callable[["Denoiser", tuple[str, ...], int], "Keep"]
"""Rows from the model, its blocks in execution order, and the number of calls."""


def schedule_options(command: Command) -> Command:
    """Options that fix the denoising loop, and the file to write."""
    scheduler = click.option("--scheduler", help=f"{NAMES_HELP}  [default: the model's own]")
    steps = click.option(
        "--steps", type=click.IntRange(min=1), default=50, show_default=True, help="Denoising steps."
    )
    output = click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default=Path("mask.json"),
        show_default=True,
        help="The mask to write.",
    )
    return scheduler(steps(output(command)))


def mask_options(command: Command, granularity: str = "block") -> Command:
    """What every kind of mask is made of: a model, its blocks, what is reused of them, and a schedule.
    ``granularity``: the default.
    """
    choice = click.option(
        "--granularity",
        type=click.Choice(["block", "layer"]),
        default=granularity,
        show_default=True,
        help="What is computed or reused as a whole. The layers of a transformer: attentions, feed-forwards.",
    )
    reuse = click.option(
        "--reuse",
        type=click.Choice(["output", "residual"]),
        default="output",
        show_default=True,
        help="What a reused block gives: its last output, or its input plus its last residual (output minus "
        "input), which suits the blocks of a transformer.",
    )
    pattern = click.option(
        "--blocks",
        "pattern",
        metavar="REGEX",
        help="Use the module scopes that REGEX matches whole, instead.",
    )
    command = onnx_options(size_options(scheduler_config_option(command)))
    return click.argument("model")(choice(pattern(reuse(schedule_options(command)))))


layer_options = partial(mask_options, granularity="layer")


@click.group()
def make() -> None:
    """Make a mask by a simple rule.

    MODEL is a diffusers directory, a hub id, random:NAME or an ONNX file. The first call is always computed
    whole.

    \b
    dipgo-compile mask make all models/tiny-sd -o dense.json
    dipgo-compile mask make random models/tiny-sd --ratio 0.8 --seed 1 -o random.json
    dipgo-compile mask make skip-calls models/tiny-sd --keep-calls 10 -o ten-calls.json
    dipgo-compile mask make deepcache models/tiny-sd --interval 5 --branch 0 -o deepcache.json
    dipgo-compile mask make fixed-interval facebook/DiT-XL-2-256 --every 3 -o every3.json
    dipgo-compile mask make l2c-style facebook/DiT-XL-2-256 --every 2 -o alternate.json
    """


@make.command("all")
@mask_options
def all_(**options: Any) -> None:
    """Compute everything: the unpruned model.

    \b
    dipgo-compile mask make all models/tiny-sd --scheduler ddim --steps 50 -o dense.json
    """
    from dipgo_compile.masks.heuristics import every

    _make(lambda model, blocks, calls: every(calls, len(blocks), 1), {"method": "all"}, **options)


@make.command("random")
@mask_options
@click.option(
    "--ratio", type=click.FloatRange(0, 1, max_open=True), required=True, help="Share of the MACs to prune."
)
@click.option("--seed", type=int, default=0, show_default=True)
def random_(ratio: float, seed: int, **options: Any) -> None:
    """Reuse blocks at random until a share of the MACs is pruned, to within 0.0125.

    \b
    dipgo-compile mask make random models/tiny-sd --ratio 0.8 --seed 1 -o random.json
    """

    def rule(model: Denoiser, blocks: tuple[str, ...], calls: int) -> Keep:
        from dipgo_compile.masks.heuristics import random_keep

        macs = model.macs(model.geometry(), blocks, options["reuse"])
        consumers = _consumers(model, blocks, options["reuse"])
        return random_keep(calls, blocks, ratio, seed, macs, consumers)

    _make(rule, {"method": "random", "ratio": ratio, "seed": seed}, weights=True, **options)


@make.command("skip-calls")
@mask_options
@click.option("--every", "interval", metavar="K", type=click.IntRange(min=1), help="Compute every K-th call.")
@click.option("--keep-calls", "count", metavar="N", type=click.IntRange(min=1), help="Compute N calls.")
def skip_calls(interval: int | None, count: int | None, **options: Any) -> None:
    """Compute every K-th or N evenly spaced calls whole, and no block in the others.

    Of whole blocks, output reuse repeats the noise prediction; residual reuse adds what all blocks together
    last added (Delta-DiT).

    \b
    dipgo-compile mask make skip-calls models/tiny-sd --every 5 -o every5.json
    dipgo-compile mask make skip-calls models/tiny-sd --keep-calls 10 -o ten-calls.json
    """
    if (interval is None) == (count is None):
        raise click.UsageError("give --every K or --keep-calls N")

    def rule(model: Denoiser, blocks: tuple[str, ...], calls: int) -> Keep:
        from dipgo_compile.masks.heuristics import evenly_spaced, every

        if interval is not None:
            return every(calls, len(blocks), interval)
        assert count is not None
        return evenly_spaced(calls, len(blocks), count)

    _make(rule, {"method": "skip-calls", "every": interval, "keep_calls": count}, **options)


@make.command()
@mask_options
@click.option(
    "--interval",
    metavar="N",
    type=click.IntRange(min=1),
    required=True,
    help="Compute every N-th call whole.",
)
@click.option(
    "--branch",
    metavar="B",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Between them compute the B + 1 first and last blocks.",
)
def deepcache(interval: int, branch: int, **options: Any) -> None:
    """Compute the deep blocks every N-th call only, the shallow ones always (DeepCache, CVPR 2024).

    \b
    dipgo-compile mask make deepcache models/tiny-sd --interval 5 --branch 0 -o deepcache.json
    """

    def rule(model: Denoiser, blocks: tuple[str, ...], calls: int) -> Keep:
        from dipgo_compile.mask import legalize
        from dipgo_compile.masks.heuristics import deepcache

        keep = deepcache(calls, len(blocks), interval, branch)
        return legalize(keep, blocks, _consumers(model, blocks, options["reuse"]))

    _make(rule, {"method": "deepcache", "interval": interval, "branch": branch}, weights=True, **options)


@make.command("fixed-interval")
@layer_options
@click.option(
    "--every",
    "interval",
    metavar="N",
    type=click.IntRange(min=1),
    required=True,
    help="Compute them every N-th call.",
)
def fixed_interval(interval: int, **options: Any) -> None:
    """Compute the layers every N-th call, and reuse what they gave in the others (FORA, 2024).

    What stands around a transformer's layers is computed at every call: residual connections, modulation and
    gates of the timestep, the first and the last projection.

    \b
    dipgo-compile mask make fixed-interval facebook/DiT-XL-2-256 --every 3 -o every3.json
    """
    from dipgo_compile.masks.heuristics import every

    provenance = {"method": "fixed-interval", "every": interval}
    _make(lambda model, blocks, calls: every(calls, len(blocks), interval), provenance, **options)


@make.command("l2c-style")
@layer_options
@click.option(
    "--every",
    "interval",
    metavar="K",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Compute every K-th call whole.",
)
def l2c_style(interval: int, **options: Any) -> None:
    """Compute every K-th call whole; between them the layers take turns.

    The first call after a whole one computes the 1st, 3rd, 5th, ... layer, the next one the 2nd, 4th, 6th,
    and so on: in a DiT these are all attentions and all feed-forwards. Learning-to-Cache (NeurIPS 2024), with
    K of 2, learns which layers to compute; this is the rule that needs no training.

    \b
    dipgo-compile mask make l2c-style facebook/DiT-XL-2-256 --every 2 -o alternate.json
    dipgo-compile mask make l2c-style random:dit-xl-2 --every 2 --granularity block --reuse residual -o d.json
    """

    def rule(model: Denoiser, blocks: tuple[str, ...], calls: int) -> Keep:
        from dipgo_compile.mask import legalize
        from dipgo_compile.masks.heuristics import alternate

        keep = alternate(calls, len(blocks), interval)
        return legalize(keep, blocks, _consumers(model, blocks, options["reuse"]))

    _make(rule, {"method": "l2c-style", "every": interval}, weights=True, **options)


def report(mask: Mask, model: Denoiser, output: Path) -> None:
    """Print what a mask that was just written saves."""
    ratio = mask.macs_ratio(model.macs(model.geometry(), mask.blocks, mask.reuse))
    click.echo(
        f"{output}: computes {ratio:.1%} of the MACs of {mask.calls} calls, ideal speedup {1 / ratio:.2f}x"
    )


def _make(
    rule: Rule,
    provenance: Mapping[str, Any],
    *,
    model: str,
    granularity: str,
    pattern: str | None,
    reuse: Reuse,
    scheduler: str | None,
    steps: int,
    output: Path,
    weights: bool = False,
    scheduler_config: Path | None,
    **onnx: Any,
) -> None:
    from dipgo_compile.graphs.candidates import pattern_of
    from dipgo_compile.mask import Mask
    from dipgo_compile.masks.checks import matching_scopes
    from dipgo_compile.models.opening import open_model
    from dipgo_compile.models.reading import ONNX_CLASS
    from dipgo_compile.schedules.schedulers import scheduler_ref

    loaded = open_model(model, reading=take_reading(onnx), scheduler_config=scheduler_config, weights=weights)
    announce(loaded)
    blocks = matching_scopes(pattern, loaded.scopes) if pattern else loaded.blocks(granularity)
    if loaded.class_name == ONNX_CLASS:  # it has no granularities that a reader could look up
        pattern = pattern or pattern_of(blocks, loaded.scopes)
    if reuse == "residual":
        loaded.check_residuals(blocks)
    schedule = scheduler_ref(scheduler, loaded, steps)
    mask = Mask(
        model=loaded.ref(),
        scheduler=schedule,
        blocks=blocks,
        keep=rule(loaded, blocks, len(schedule.timesteps)),
        reuse=reuse,
        provenance={**provenance, "blocks": pattern or granularity},
    )
    mask.save(output)
    report(mask, loaded, output)


def _consumers(model: Denoiser, blocks: tuple[str, ...], reuse: Reuse) -> Mapping[str, frozenset[str | None]]:
    """Who reads whom, from the exported graph: that is what a build will cut."""
    from dipgo_compile.graphs.partition import partition

    geometry = model.geometry()
    return partition(model.graph(geometry), blocks, model.inputs(geometry)).consumers(reuse)
