"""The gates' gradient, analytically and against finite differences of the soft mixture."""

from __future__ import annotations

import pytest
import torch
from dipgo_trainer.gating import gate
from dipgo_trainer.rollout import gated_chain
from dipgo_trainer.supernet import SuperNet
from tiny_models import conditions_of, noise_of, scheduler_ref

from dipgo_compile.models.source import Model, make_scheduler

STEPS = 3


@pytest.mark.parametrize("values", [(1.0, 0.0), (0.0, 1.0), (0.25, 0.5)])
def test_gate_has_the_value_and_gradient_of_the_mixture(values: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    cached, computed, weight = torch.randn(3, 2, 5, generator=generator).unbind()
    gates = torch.tensor(values, requires_grad=True)
    cached.requires_grad_()
    computed.requires_grad_()
    mixed = gate(gates, values, cached, computed)
    torch.testing.assert_close(mixed, values[0] * cached + values[1] * computed)
    (mixed * weight).sum().backward()
    expected = torch.stack([(weight * cached).sum(), (weight * computed).sum()])
    torch.testing.assert_close(gates.grad, expected.detach())
    for side, value in ((cached, values[0]), (computed, values[1])):
        gradient = torch.zeros_like(weight) if side.grad is None else side.grad  # None: no gradient at all
        torch.testing.assert_close(gradient, value * weight)


def chain(model: Model, net: SuperNet, gates: torch.Tensor, checkpointing: bool = False) -> torch.Tensor:
    schedule = scheduler_ref(STEPS)
    scheduler = make_scheduler(schedule.class_name, schedule.config)
    scheduler.set_timesteps(STEPS)
    return gated_chain(
        model,
        net,
        scheduler,
        gates,
        noise_of(),
        conditions_of(model),
        3.0,
        gradient_checkpointing=checkpointing,
    )


def hard_gates(model: Model) -> torch.Tensor:
    keep = torch.rand(STEPS, len(model.blocks()), generator=torch.Generator().manual_seed(3)) > 0.5
    keep[0] = True
    return torch.stack([~keep, keep], -1).float()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_through_calls_and_caches_agrees_with_finite_differences(
    model: Model, checkpointing: bool
) -> None:
    """Hard gates in the forward pass, the mixture's gradient in the backward pass."""
    gates = hard_gates(model).requires_grad_()
    weight = noise_of(seed=9)
    with SuperNet(model.denoiser, model.blocks()) as net:
        (chain(model, net, gates, checkpointing) * weight).sum().backward()
    assert gates.grad is not None
    with torch.no_grad(), SuperNet(model.denoiser, model.blocks()) as net:
        scale = gates.grad[1:].abs().max()
        for call in range(1, STEPS):
            for block in range(gates.shape[1]):
                for column in range(2):
                    sides = []
                    for shift in (0.01, -0.01):
                        moved = gates.clone()
                        moved[call, block, column] += shift
                        sides.append((chain(model, net, moved) * weight).sum())
                    slope = (sides[0] - sides[1]) / 0.02
                    # float32 sums over a chain leave about 1e-6 of its value, over a shift of 0.01, and the
                    # mixture is curved: 2 % of the largest slope.
                    assert abs(slope - gates.grad[call, block, column]) < 0.02 * scale


def test_checkpointing_changes_no_gradient(unet: Model) -> None:
    gradients = []
    for checkpointing in (False, True):
        gates = hard_gates(unet).requires_grad_()
        with SuperNet(unet.denoiser, unet.blocks()) as net:
            chain(unet, net, gates, checkpointing).square().sum().backward()
        gradients.append(gates.grad)
    assert torch.equal(*gradients)
