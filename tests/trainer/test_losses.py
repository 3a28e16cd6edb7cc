from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dipgo_trainer.losses import CONSISTENCY, sparsity, ssim_loss


def images(side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [4, 8, 16, 64])
def test_ssim_at_any_latent_size(side: int) -> None:
    full = images(side)
    assert ssim_loss(full, full).item() == pytest.approx(-1.0, abs=1e-5)  # float32 sums over a window
    near, far = (ssim_loss(full + scale * images(side, 1), full).item() for scale in (0.1, 1.0))
    assert -1 < near < far < 0.5


def test_ssim_by_hand() -> None:
    """One 8 x 8 channel, a 5 x 5 Gaussian window over reflected borders, the constants of Wang et al.
    (2004)."""
    full, pruned = images(8)[:1, :1], images(8, 1)[:1, :1]
    low, span = full.min(), full.max() - full.min()
    x, y = (pruned - low) / span, (full - low) / span
    position = torch.arange(5.0) - 2
    line = torch.exp(-(position**2) / (2 * (1.5 * 5 / 11) ** 2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2
    x, y = (F.pad(value, (2, 2, 2, 2), mode="reflect") for value in (x, y))
    mx, my, xx, yy, xy = (F.conv2d(value, window) for value in (x, y, x * x, y * y, x * y))
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mx * my + c1) * (2 * (xy - mx * my) + c2)) / (
        (mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2)
    )
    # float32 variances are differences of nearly equal numbers
    assert ssim_loss(pruned, full).item() == pytest.approx(-similarity.mean().item(), abs=1e-4)


def test_ssim_ignores_the_latents_scale() -> None:
    full, pruned = images(8), images(8) + 0.2 * images(8, 1)
    assert ssim_loss(7 * pruned + 3, 7 * full + 3).item() == pytest.approx(
        ssim_loss(pruned, full).item(), abs=1e-5
    )


@pytest.mark.parametrize("name", CONSISTENCY)
def test_every_loss_is_least_at_the_full_result_and_has_a_gradient(name: str) -> None:
    full = images(8)
    pruned = (full + 0.1 * images(8, 1)).requires_grad_()
    loss = CONSISTENCY[name](pruned, full)
    loss.backward()
    assert CONSISTENCY[name](full, full) < loss
    assert pruned.grad is not None
    assert pruned.grad.isfinite().all()
    assert pruned.grad.any()


def test_sparsity() -> None:
    keep = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    gates = torch.stack([1 - keep, keep], -1)
    assert sparsity(gates, torch.tensor([0.25, 1.0])).item() == pytest.approx((1.25 + 1.0) / 2)
