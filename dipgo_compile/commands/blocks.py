"""``dipgo-compile blocks``: which modules of a denoiser could serve as blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dipgo_compile.commands.build import size
from dipgo_compile.commands.onnx_options import announce, onnx_options, size_options, take_reading
from dipgo_compile.commands.result import Result, json_option

if TYPE_CHECKING:
    from dipgo_compile.graphs.candidates import Candidate
    from dipgo_compile.models import Denoiser

ALL = "module"


@click.command()
@click.argument("model")
@click.option(
    "--granularity",
    type=click.Choice(["block", "layer", ALL]),
    default="block",
    show_default=True,
    help="block: as for a UNet in the paper. layer: the modules inside them. module: all there are.",
)
@click.option("--regex", metavar="REGEX", help="Only the modules that REGEX matches whole, instead.")
@onnx_options
@size_options
@json_option("the modules")
def blocks(model: str, granularity: str, regex: str | None, result: Result, **options: Any) -> None:
    """List the modules of MODEL that could serve as blocks of a mask, with the regular expression for them.

    MODEL is a diffusers directory, a hub id, random:NAME or an ONNX file. MACs are of one call for one
    sample. Inputs are the tensors that a module reads, weights left out; outputs those that depend on the
    sample and that others read: what is kept for a call that reuses it. Good blocks hold much work and hand
    on few bytes.

    \b
    dipgo-compile blocks models/tiny-sd --granularity layer
    dipgo-compile blocks denoiser.onnx --regex 'layers\\.\\d+\\.(attn|mlp)'
    """
    from dipgo_compile.graphs.candidates import candidates, pattern_of
    from dipgo_compile.masks.checks import matching_scopes
    from dipgo_compile.models.opening import open_model

    opened = open_model(model, reading=take_reading(options))
    announce(opened)
    geometry = opened.geometry()
    graph = opened.graph(geometry).graph
    sample = next(spec.name for spec in opened.inputs(geometry) if spec.role == "sample")
    scopes = opened.scopes
    if regex is not None:
        chosen = matching_scopes(regex, scopes)
    elif granularity == ALL:
        chosen = tuple(scope for scope in scopes if scope)
    else:
        chosen = opened.blocks(granularity)
    found = candidates(graph, sample, geometry.batch, chosen)
    if granularity == ALL and regex is None:
        found = tuple(candidate for candidate in found if candidate.macs)
    total = opened.macs(geometry, ()).total
    pattern = regex or (None if granularity == ALL else pattern_of(chosen, scopes))
    facts = {
        "model": opened.source,
        "class": opened.class_name,
        "samples": geometry.batch,
        "latents": [geometry.height, geometry.width],
        "macs": total,
        "regex": pattern,
        "blocks": [asdict(candidate) for candidate in found],
    }
    result.report(facts, as_text(opened, found, total, pattern))


def as_text(model: Denoiser, found: Sequence[Candidate], total: int, pattern: str | None) -> str:
    """A line a module, then the regular expression."""
    width = max([len("module"), *(len(candidate.scope) for candidate in found)])
    lines = [f"{'module':<{width}}        MACs   share   inputs              outputs"]
    for candidate in found:
        read = f"{candidate.inputs}, {size(candidate.input_bytes)}"
        written = f"{candidate.outputs}, {size(candidate.output_bytes)}"
        share = candidate.macs / total if total else 0.0
        lines.append(
            f"{candidate.scope:<{width}}  {_count(candidate.macs):>10}  {share:>6.1%}   {read:<18}  {written}"
        )
    outside = total - sum(candidate.macs for candidate in found)
    lines.append(f"{len(found)} of {model.source}; one call for one sample: {_count(total)} MACs")
    if pattern is not None:
        lines.append(f"outside of them: {_count(outside)} MACs, which every call with a block computes")
        lines.append(f"for `mask make` and `train`: --blocks '{pattern}'")
    return "\n".join(lines)


def _count(macs: int) -> str:
    """MACs for people."""
    for unit, each in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if macs >= each:
            return f"{macs / each:.2f} {unit}"
    return str(macs)
