"""``dipgo-compile verify``: does a bundle compute what its mask says?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipgo_compile.commands.bundle_options import (
    bundle_argument,
    guidance_scale_option,
    model_option,
    shape_option,
    threads_option,
)
from dipgo_compile.commands.progress import counter
from dipgo_compile.commands.result import Result, json_option

if TYPE_CHECKING:
    from dipgo_compile.measure.comparison import Comparison


@click.command()
@bundle_argument
@model_option
@click.option("--prompt", help="Real text instead of random conditions; the model needs a text encoder.")
@click.option("--seed", default=0, show_default=True, help="Of the noise and the random conditions.")
@guidance_scale_option
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="Accepted difference of a noise prediction, absolute.  [default: 1e-3 in fp32, 0.02 in fp16, 0.1 "
    "in bf16]",
)
@click.option(
    "--latents-tolerance",
    type=click.FloatRange(min=0),
    help="Accepted relative L2 difference of the final latents.  [default: 1e-3 in fp32, 0.01 in fp16, 0.4 "
    "in bf16]",
)
@click.option(
    "--precision",
    help="Compute in this one, not the bundle's: fp32 shows whether a plan is right apart from rounding.",
)
@threads_option("Threads of the plan.")
@shape_option("compare.  [default: all, one after the other]")
@json_option("the result; of several shapes a list of them, as `shapes`, and whether all have `passed`")
def verify(
    bundle: Path,
    model: str | None,
    tolerance: float | None,
    latents_tolerance: float | None,
    precision: str | None,
    shape: str | None,
    result: Result,
    **options: Any,
) -> None:
    """Compare BUNDLE with PyTorch, where the same model skips the same blocks, call by call. Of an ONNX file
    the file itself is the reference, in ONNX Runtime.

    Leaves with exit code 11 when a result is further off than the tolerance.
    """
    from dipgo_compile.bundle import open_bundle
    from dipgo_compile.compare import compare
    from dipgo_compile.measure.comparison import Tolerance, default_tolerance
    from dipgo_compile.models.opening import open_built

    opened = open_bundle(bundle, verify=False)
    shapes = [opened.shapes.parse(shape)] if shape is not None else list(opened.shapes)
    accepted = None
    if tolerance is not None or latents_tolerance is not None:
        usual = default_tolerance(precision or opened.plan.target.precision)
        accepted = Tolerance(
            usual.noise_pred if tolerance is None else tolerance,
            usual.latents if latents_tolerance is None else latents_tolerance,
        )
    options |= {"tolerance": accepted, "precision": precision}
    options |= {"model": open_built(opened.plan, model)}  # once, for all shapes
    with counter("denoiser calls compared") as progress:

        def count(done: int, calls: int) -> None:
            progress(len(found) * calls + done, len(shapes) * calls)

        found: list[Comparison] = []
        for one in shapes:
            found.append(compare(bundle, shape=one, progress=count, **options))
    if len(opened.shapes) == 1:
        result.report(found[0].to_json(), as_text(found[0]))
    else:
        labels = [opened.shapes.label(one) for one in shapes]
        pairs = list(zip(labels, found, strict=True))
        listed = [{"shape": label, **comparison.to_json()} for label, comparison in pairs]
        passed = all(comparison.passed for comparison in found)
        texts = [f"shape {label}\n{as_text(comparison)}" for label, comparison in pairs]
        result.report({"bundle": str(bundle), "passed": passed, "shapes": listed}, "\n\n".join(texts))
    for comparison in found:
        comparison.check()


def as_text(found: Comparison) -> str:
    """One line a call, then the whole loop and the verdict."""
    limit = found.tolerance.noise_pred
    lines = ["call  timestep  denoiser  max |difference|"]
    for call in found.calls:
        verdict = "" if call.max_abs_diff <= limit else f"  > {limit:g}"
        runs = "runs" if call.computed else "reused"
        lines.append(f"{call.call:>4}  {call.timestep:>8g}  {runs:<8}  {call.max_abs_diff:>16.2e}{verdict}")
    lines.append(
        f"final latents: relative L2 difference {found.latents_relative_l2:.2e} "
        f"(accepted: {found.tolerance.latents:g})"
    )
    worst = max(found.calls, key=lambda call: call.max_abs_diff)
    lines.append(
        f"{'PASSED' if found.passed else 'FAILED'}: {len(found.calls)} calls, worst {worst.max_abs_diff:.2e} "
        f"at call {worst.call} (accepted: {limit:g})"
    )
    return "\n".join(lines)
