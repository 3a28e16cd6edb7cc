"""``dipgo-compile train``. Options only: the work is in ``session.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dipgo_compile.schedules.schedulers import NAMES_HELP
from dipgo_trainer.config import TrainConfig
from dipgo_trainer.losses import CONSISTENCY, SPACES

DEFAULTS = TrainConfig()


@click.command()
@click.argument("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("mask.json"),
    show_default=True,
    help="Where to write the mask; log, checkpoint and pictures go beside it.",
)
@click.option("--steps", default=50, show_default=True, help="Denoising steps the mask is made for.")
@click.option("--scheduler", help=f"{NAMES_HELP}  [default: the model's own]")
@click.option(
    "--ratio",
    default=DEFAULTS.ratio,
    show_default=True,
    help="Share of the MACs to prune: 0.8 leaves a fifth, which is 5 times faster at best.",
)
@click.option(
    "--granularity",
    type=click.Choice(["block", "layer"]),
    default="block",
    show_default=True,
    help="What is kept or reused as a whole. Layers follow a ratio more closely, and train slower.",
)
@click.option("--blocks", metavar="REGEX", help="Use the module scopes that match REGEX whole, instead.")
@click.option(
    "--reuse",
    type=click.Choice(["output", "residual"]),
    default="output",
    show_default=True,
    help="Reuse a block's last output (the paper), or its last output minus input (transformer blocks).",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Text file, one prompt a line. Text-to-image models need it.",
)
@click.option(
    "--guidance-scale",
    type=float,
    default=DEFAULTS.guidance_scale,
    show_default=True,
    help="Classifier-free guidance; 1 or less switches it off.",
)
@click.option("--train-steps", default=DEFAULTS.train_steps, show_default=True, help="Optimisation steps.")
@click.option(
    "--loss",
    type=click.Choice(list(CONSISTENCY)),
    default=DEFAULTS.loss,
    show_default=True,
    help="How the pruned chain's result is compared with the full chain's.",
)
@click.option(
    "--loss-space",
    type=click.Choice(SPACES),
    default=DEFAULTS.space,
    show_default=True,
    help="Compare final latents, or the images decoded from them (slower).",
)
@click.option(
    "--alpha",
    default=DEFAULTS.alpha,
    show_default=True,
    help="Weight of the sparsity term: higher prunes faster, and looks less at the result.",
)
@click.option(
    "--consistency-weight",
    type=float,
    help="Factor of the consistency loss; 1 is the paper's.  [default: measured on evenly skipped calls]",
)
@click.option(
    "--tau", type=float, help="Kept share of the MACs under which sparsity pauses.  [default: 1 - ratio]"
)
@click.option(
    "--pruning-steps",
    default=DEFAULTS.pruning_steps,
    show_default=True,
    help="Training steps over which tau falls from 1: prunes gradually. 0 is the paper's.",
)
@click.option("--lr", type=float, help="Learning rate.  [default: 0.1; DiT: 10]")
@click.option(
    "--batch-size", default=DEFAULTS.batch_size, show_default=True, help="Images per training step."
)
@click.option(
    "--samples",
    default=DEFAULTS.samples,
    show_default=True,
    help="Different batches of (prompt, noise). The full chain runs once for each, then is remembered.",
)
@click.option(
    "--gradient-checkpointing/--no-gradient-checkpointing",
    default=True,
    show_default=True,
    help="Save memory by computing each call twice. Switch it off for small models: a third faster.",
)
@click.option("--seed", default=DEFAULTS.seed, show_default=True)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Training steps between checkpoints.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint beside OUTPUT.")
@click.option(
    "--log",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON Lines log, one object a training step.  [default: OUTPUT with .log.jsonl]",
)
def train(model: str, output: Path, **options: Any) -> None:
    """Learn which blocks of MODEL to compute at which denoising call, and write a mask.

    MODEL is a diffusers pipeline directory, a hub id or random:NAME. The model itself is not changed: a small
    pruner network is trained with the denoiser frozen, its scores become the mask, and it is thrown away
    (DiP-GO, NeurIPS 2024).

    \b
    dipgo-compile train models/tiny-sd --prompts prompts.txt --steps 50 \\
        --scheduler ddim --ratio 0.8 -o mask.json
    dipgo-compile build --mask mask.json

    Ctrl-C stops at once and leaves a checkpoint; the same command with --resume goes on from there.
    """
    from dipgo_trainer.session import Schedule, Selection, run

    guidance = options["guidance_scale"]
    config = TrainConfig(
        ratio=options["ratio"],
        train_steps=options["train_steps"],
        lr=options["lr"],
        alpha=options["alpha"],
        consistency_weight=options["consistency_weight"],
        tau=options["tau"],
        pruning_steps=options["pruning_steps"],
        loss=options["loss"],
        space=options["loss_space"],
        guidance_scale=guidance if guidance > 1 else None,
        batch_size=options["batch_size"],
        samples=options["samples"],
        seed=options["seed"],
        gradient_checkpointing=options["gradient_checkpointing"],
    )
    mask = run(
        model,
        output,
        config,
        Schedule(options["steps"], options["scheduler"]),
        Selection(options["granularity"], options["blocks"], options["reuse"]),
        prompts=options["prompts"],
        resume=options["resume"],
        checkpoint_every=options["checkpoint_every"],
        log=options["log"],
    )
    click.echo(
        f"{output}: prunes {mask.provenance['pruned_macs']:.1%} of the MACs of {mask.calls} denoiser calls"
    )
    click.echo(f"{len(mask.idle_calls)} calls compute no block; next: dipgo-compile build --mask {output}")
