"""What the reuse of a denoiser's blocks demands, and what it leaves to be computed.

Found out by a call on the meta device, which shows shapes and dependence and computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dipgo_compile.masks.checks import no_residual
from dipgo_compile.models.source import Model, example_inputs

if TYPE_CHECKING:
    from dipgo_compile.mask import Reuse

Hook = Callable[[nn.Module, Any, Any, Any], Any]


def block_input(args: Any, kwargs: Any) -> Tensor | None:
    """The tensor that a block's residual is relative to: its first tensor argument."""
    return next((leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)), None)


def has_residual(source: Tensor | None, output: Any) -> bool:
    """Whether a block that reads ``source`` answers with one tensor of its shape."""
    leaves = pytree.tree_leaves(output)
    return (
        source is not None
        and len(leaves) == 1
        and isinstance(leaves[0], Tensor)
        and leaves[0].shape == source.shape
    )


def check_residuals(model: Model, blocks: Sequence[str]) -> None:
    """Refuse blocks that have no residual to reuse. Raises MaskError, which names them all."""
    without: list[str] = []

    def look(scope: str) -> Hook:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not has_residual(block_input(args, kwargs), output):
                without.append(scope)

        return hook

    denoiser = model.on_meta()
    with torch.no_grad(), _hooks(denoiser, blocks, look):
        denoiser(**model.family.arguments(_inputs(model)))
    if without:
        raise no_residual(without)


def idle_call_computes(model: Model, blocks: Sequence[str], reuse: Reuse) -> bool:
    """Whether a call that reuses all ``blocks`` has anything to compute.

    It has when its noise prediction depends on its sample or its timestep: by a way past the blocks, such as
    the residual connections around attention and feed-forward, or through them under ``residual`` reuse.
    Otherwise the noise prediction is that of the call before.
    """

    def cut(_: str) -> Hook:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            constant = pytree.tree_map_only(Tensor, Tensor.detach, output)
            return constant if reuse == "output" else block_input(args, kwargs) + constant

        return hook

    denoiser, inputs = model.on_meta(), _inputs(model)
    changing = [inputs[s.name] for s in model.inputs(model.geometry(1)) if s.role in ("sample", "timestep")]
    for tensor in changing:
        tensor.requires_grad_()
    with torch.enable_grad(), _hooks(denoiser, blocks, cut):
        noise_pred: Tensor = denoiser(**model.family.arguments(inputs), return_dict=False)[0]
    if not noise_pred.requires_grad:
        return False
    gradients = torch.autograd.grad(noise_pred.sum(), changing, allow_unused=True)
    return any(gradient is not None for gradient in gradients)


def _inputs(model: Model) -> dict[str, Tensor]:
    return example_inputs(model.inputs(model.geometry(1)), device="meta")


@contextmanager
def _hooks(denoiser: nn.Module, blocks: Sequence[str], make: Callable[[str], Hook]) -> Iterator[None]:
    """Forward hooks on the blocks, as long as the context lasts."""
    handles = [
        denoiser.get_submodule(scope).register_forward_hook(make(scope), with_kwargs=True) for scope in blocks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
