from __future__ import annotations

import pytest
import torch
from dipgo_trainer.cascade import Topology
from tiny_models import chain_topology, mask_of, scheduler_ref

from dipgo_compile.macs.counts import count_macs
from dipgo_compile.models.source import Model

# a is read by b and, as a skip, by c
SKIP = Topology(
    ("a", "b", "c"),
    {"a": frozenset({"b", "c"}), "b": frozenset({"c"}), "c": frozenset({None})},
    (50, 30, 20),
    0,
)


def rows(*texts: str) -> torch.Tensor:
    return torch.tensor([[character == "1" for character in text] for text in texts])


@pytest.mark.parametrize(
    ("before", "after"),
    [("111", "111"), ("110", "000"), ("101", "101"), ("011", "011"), ("100", "000"), ("001", "001")],
)
def test_cascade(before: str, after: str) -> None:
    assert torch.equal(SKIP.cascade(rows("111", before)), rows("111", after))


def test_the_first_call_stays_whole() -> None:
    assert torch.equal(SKIP.cascade(rows("000", "000")), rows("111", "000"))


def test_weights_count_what_falls_with_a_block() -> None:
    # without c nothing is read; without b, a still has c
    torch.testing.assert_close(SKIP.weights(), torch.tensor([0.5, 0.3, 1.0]))


def test_kept_share_charges_glue_to_calls_that_compute() -> None:
    topology = chain_topology(("a", "b"), (30, 60), glue=10)
    assert topology.kept_share(rows("11", "00", "01", "11")) == pytest.approx((100 + 0 + 70 + 100) / 400)


def test_topology_of_a_unet(unet: Model, unet_topology: Topology) -> None:
    blocks, topology = unet.blocks(), unet_topology
    assert (
        topology.blocks
        == blocks
        == ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1")
    )
    assert topology.consumers["down_blocks.0"] >= {"down_blocks.1", "up_blocks.1"}
    assert topology.consumers["up_blocks.1"] == {None}
    assert topology.weights()[-1] == pytest.approx(1.0), "everything falls with the last block"
    macs = count_macs(unet, unet.geometry(2), blocks)
    keep = ((True,) * 5, (True, False, False, False, True), (False,) * 5)
    mask = mask_of(unet, blocks, keep, scheduler_ref(3))
    assert topology.kept_share(torch.tensor(keep)) == pytest.approx(mask.macs_ratio(macs))
