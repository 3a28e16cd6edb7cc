from __future__ import annotations

import pytest
import torch
from dipgo_trainer.cascade import Topology
from dipgo_trainer.postprocess import TOLERANCE, threshold_scores
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import chain_topology

from dipgo_compile.errors import MaskError

UNET_LIKE = Topology(
    ("down0", "down1", "mid", "up0", "up1"),
    {
        "down0": frozenset({"down1", "up1"}),
        "down1": frozenset({"mid", "up0"}),
        "mid": frozenset({"up0"}),
        "up0": frozenset({"up1"}),
        "up1": frozenset({None}),
    },
    (107, 42, 6, 138, 266),
    4,
)


def check(scores: torch.Tensor, topology: Topology, ratio: float) -> torch.Tensor:
    keep = torch.tensor(threshold_scores(scores, topology, ratio))
    assert keep[0].all()
    assert torch.equal(topology.cascade(keep), keep)
    assert abs(1 - topology.kept_share(keep) - ratio) < TOLERANCE
    return keep


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.05, 0.95),
    st.sampled_from([UNET_LIKE, chain_topology(("a", "b", "c"))]),
)
def test_the_ratio_is_met_for_random_scores(seed: int, ratio: float, topology: Topology) -> None:
    """50 calls: one call is 2 % of the MACs, within the tolerance's width of 2.5 %."""
    check(
        torch.rand(50, len(topology.blocks), generator=torch.Generator().manual_seed(seed)), topology, ratio
    )


@settings(deadline=None, max_examples=8)
@given(st.floats(0.05, 0.95), st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=250, max_size=250))
def test_the_ratio_is_met_for_tied_scores(ratio: float, scores: list[float]) -> None:
    tied = torch.tensor(scores).reshape(50, 5)
    assert torch.equal(check(tied, UNET_LIKE, ratio), check(tied, UNET_LIKE, ratio))


def test_higher_scores_are_kept() -> None:
    scores = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    scores[10:18] += 1
    keep = check(scores / 2, chain_topology(("a", "b", "c")), 0.8)
    assert keep[10:18].all()


def test_equal_scores_keep_the_first_calls() -> None:
    keep = check(torch.full((50, 2), 0.5), chain_topology(("a", "b"), glue=0), 0.8)
    assert torch.equal(keep.all(-1), torch.arange(50) < 10)


def test_an_unreachable_ratio_names_the_nearest() -> None:
    # four calls of one block: only multiples of a quarter
    with pytest.raises(MaskError, match=r"0\.7500 \(the nearest found\)"):
        threshold_scores(torch.rand(4, 1), chain_topology(("a",), glue=0), 0.8)
