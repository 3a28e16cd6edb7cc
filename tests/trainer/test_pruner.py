from __future__ import annotations

import torch
from dipgo_trainer.pruner import Pruner, keep_scores, straight_through


def test_everything_is_kept_at_first() -> None:
    logits = Pruner(5, 3, width=16)()
    assert torch.equal(logits, torch.tensor([0.0, 1.0]).expand(5, 3, 2))


def test_every_layer_is_in_use() -> None:
    """In the authors' released trainer the encoder layer's result is thrown away; here it must get
    gradients."""
    pruner = Pruner(4, 3, width=16)
    with torch.no_grad():
        pruner.head.last += 0.1  # zero passes no gradient on
    (pruner() * torch.randn(4, 3, 2)).sum().backward()
    for name, parameter in pruner.named_parameters():
        assert parameter.grad is not None, name
        if name != "encoder.self_attn.in_proj_bias":  # a key's bias cancels in the soft max
            assert parameter.grad.abs().sum() > 0, name


def test_attention_is_over_the_blocks_of_a_call() -> None:
    pruner = Pruner(4, 3, width=16)
    with torch.no_grad():
        pruner.head.last += 0.1
        before = pruner()
        pruner.queries[1, 2] += torch.randn(16)
        changed = (pruner() != before).any(-1)
    assert changed[1].all(), "the other blocks of the call attend to the query"
    assert not changed[[0, 2, 3]].any()


def test_the_seed_decides_and_leaves_torch_alone() -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, same, other = (Pruner(2, 3, width=16, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.queries, same.queries)
    assert not torch.equal(one.queries, other.queries)


def test_straight_through_is_hard_forward_and_soft_backward() -> None:
    logits = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    keep = torch.tensor([[True, True], [True, False], [False, False]])
    gates = straight_through(logits, keep)
    assert torch.equal(gates[..., 1].detach(), keep.float())
    assert torch.equal(gates.sum(-1).detach(), torch.ones(3, 2))
    weight = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(1))
    (hard,) = torch.autograd.grad((gates * weight).sum(), logits)
    (soft,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    torch.testing.assert_close(hard[1:], soft[1:])
    assert not hard[0].any(), "the first call is always computed"


def test_scores_of_the_first_call_are_one() -> None:
    scores = keep_scores(torch.zeros(3, 2, 2))
    assert scores.tolist() == [[1.0, 1.0], [0.5, 0.5], [0.5, 0.5]]
