"""The training loss (paper, section 3.4): consistency with the full chain, plus alpha times sparsity."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

SSIM_WINDOW = 11  # Wang et al. (2004): an 11 x 11 Gaussian window of deviation 1.5
SSIM_SIGMA = 1.5


def ssim_loss(pruned: Tensor, full: Tensor) -> Tensor:
    """Negative structural similarity, -1 for equal inputs. Both (images, channels, height, width).

    Latents have no fixed range, so each image is measured in the range of its full-chain value. The window
    shrinks on small latents, to about half their side (5 x 5 on 8 x 8).
    """
    low, high = full.amin((1, 2, 3), keepdim=True), full.amax((1, 2, 3), keepdim=True)
    scale = (high - low).clamp_min(torch.finfo(full.dtype).tiny)
    side = min(SSIM_WINDOW, min(full.shape[-2:]) // 2 + 1)
    window = side if side % 2 else side - 1
    similarity = structural_similarity_index_measure(
        (pruned - low) / scale, (full - low) / scale, sigma=SSIM_SIGMA * window / SSIM_WINDOW, data_range=1.0
    )
    assert isinstance(similarity, Tensor)  # it is a tuple only when the full maps are asked for
    return -similarity


def l1_ssim_loss(pruned: Tensor, full: Tensor) -> Tensor:
    return F.l1_loss(pruned, full) + ssim_loss(pruned, full)


CONSISTENCY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ssim": ssim_loss,
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "l1+ssim": l1_ssim_loss,
}
SPACES = ("latent", "image")


def sparsity(gates: Tensor, weights: Tensor) -> Tensor:
    """Mean over the calls of the sum over the blocks of keep * weight.

    ``gates``: (calls, blocks, 2), columns (reuse, keep). ``weights``: (blocks,), see ``Topology.weights``.
    """
    return (gates[..., 1] * weights).sum(-1).mean()


def consistency_weight(loss_at_full: float, loss_of_even: float, ratio: float) -> float:
    """The factor that puts the consistency loss on the scale of the sparsity term.

    How far a result moves when calls are skipped depends on the model, its schedule and the loss: the
    negative SSIM of a small model may move by 0.003 where Stable Diffusion's moves by 0.3, and under the
    paper's fixed alpha the sparsity term would then drown the signal about which blocks matter. So the loss
    of evenly skipped calls at the same ``ratio`` is the yardstick. Errors of first-order skipping shrink as
    the square of the kept share k, so at k = 1 - ratio one more kept share of MACs improves the loss by 2 *
    (loss_of_even - loss_at_full) / k; sparsity charges it 1. The weight lets sparsity win just until the
    asked-for ratio is passed: half of what balances them.
    """
    stake = max(loss_of_even - loss_at_full, 1e-6)  # float32 noise of a loss near 1
    return (1 - ratio) / (4 * stake)
