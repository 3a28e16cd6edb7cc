"""``dipgo-compile tokenize``: the token ids of prompts, for programs that have no tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dipgo_compile.commands.bundle_options import bundle_argument, negative_prompt_option, prompts_option
from dipgo_compile.errors import InputError


@click.command()
@bundle_argument
@prompts_option("What to draw. Of a bundle that draws several images together, one each, or one for all.")
@negative_prompt_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON: input_ids, and the order of the halves.")
def tokenize(bundle: Path, prompts: tuple[str, ...], negative_prompt: str, as_json: bool) -> None:
    """Print what the text encoder of BUNDLE reads: a line of token ids for each sample of the denoiser.

    Under guidance those are two an image, whose halves lie in the order of the bundle: as a rule first the
    negative prompt, then the prompt. BUNDLE must have been built with --pipeline.

    \b
    dipgo-compile tokenize mask.dipgo --prompt "a photo of a dress"
    """
    from dipgo_compile.bundle import open_bundle
    from dipgo_compile.drawing.draw import images_together
    from dipgo_compile.drawing.tokens import PromptTokenizer, halves

    opened = open_bundle(bundle, verify=False)  # sizes and the plan are checked, the weights needn't be read
    images = images_together(opened.plan)
    if any(shape.images == len(prompts) for shape in opened.shapes):
        images = len(prompts)
    elif len(prompts) != 1:
        raise InputError(
            f"{len(prompts)} prompts are not one for each of {images} images",
            where=bundle,
            available=(str(opened.shapes),),
            mend="give one prompt, or one an image",
        )
    ids = PromptTokenizer(opened).input_ids(prompts * (images // len(prompts)), negative_prompt).tolist()
    if as_json:
        click.echo(json.dumps({"input_ids": ids, "halves": halves(opened.plan)}))
    else:
        click.echo("\n".join(" ".join(map(str, row)) for row in ids))
