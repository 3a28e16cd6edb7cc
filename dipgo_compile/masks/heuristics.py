"""Masks without training: the baselines that a trained mask must beat at equal MACs.

Each function gives the rows of a mask (``Mask.keep``); the first call is always whole.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import compress

from dipgo_compile.errors import MaskError
from dipgo_compile.macs.counts import Macs
from dipgo_compile.mask import Keep, legalize

RATIO_TOLERANCE = 0.0125  # as near as the paper's post-processing comes to the asked ratio


def whole_calls(calls: int, blocks: int, computed: Sequence[int]) -> Keep:
    """The ``computed`` calls whole, all others nothing."""
    chosen = {0, *computed}
    return tuple((call in chosen,) * blocks for call in range(calls))


def every(calls: int, blocks: int, interval: int) -> Keep:
    """Every ``interval``-th call whole, beginning with the first. 1 keeps everything."""
    return whole_calls(calls, blocks, range(0, calls, interval))


def evenly_spaced(calls: int, blocks: int, count: int) -> Keep:
    """``count`` calls whole, evenly spaced. Raises MaskError for more calls than there are."""
    if not 1 <= count <= calls:
        raise MaskError(
            f"cannot keep {count} of {calls} calls", where="--keep-calls", mend=f"use 1 to {calls}"
        )
    return whole_calls(calls, blocks, [index * calls // count for index in range(count)])


def deepcache(calls: int, blocks: int, interval: int, branch: int) -> Keep:
    """Every ``interval``-th call whole, between them the ``branch + 1`` first and last blocks (DeepCache).

    In a UNet those are the shallow blocks, joined by the skip connection that passes the deep ones by. Raises
    MaskError for a branch that leaves no deep blocks.
    """
    ends = branch + 1
    if not 1 <= ends <= (blocks - 1) // 2:
        raise MaskError(
            f"branch {branch} leaves none of {blocks} blocks to reuse",
            where="--branch",
            mend=f"use 0 to {(blocks - 1) // 2 - 1}",
        )
    shallow = tuple(index < ends or index >= blocks - ends for index in range(blocks))
    return tuple((True,) * blocks if call % interval == 0 else shallow for call in range(calls))


def alternate(calls: int, blocks: int, interval: int) -> Keep:
    """Every ``interval``-th call whole; between them the blocks take turns.

    The first call after a whole one computes the 1st, 3rd, 5th, ... block, the next one the 2nd, 4th, 6th,
    and so on. With the layers of a DiT as blocks, these are all attentions and all feed-forwards: layer
    caching as in Learning-to-Cache (Ma et al., NeurIPS 2024), which computes every second call whole and
    learns what the others compute.
    """
    return tuple(
        tuple(call % interval == 0 or (call % interval + block) % 2 == 1 for block in range(blocks))
        for call in range(calls)
    )


def random_keep(
    calls: int,
    blocks: Sequence[str],
    ratio: float,
    seed: int,
    macs: Macs,
    consumers: Mapping[str, frozenset[str | None]],
) -> Keep:
    """Blocks reused at random, with the gate cascade, until ``ratio`` of all MACs is pruned.

    The pruned share is within ``RATIO_TOLERANCE`` of ``ratio``. Raises MaskError where no such mask is found:
    the first call is never pruned, so few calls can't reach every ratio.
    """
    keep = [(True,) * len(blocks)] * calls
    dense = calls * macs.total
    pruned = 0
    gates = [(call, block) for call in range(1, calls) for block in range(len(blocks))]
    random.Random(seed).shuffle(gates)
    for call, block in gates:
        if pruned >= (ratio - RATIO_TOLERANCE / 2) * dense:
            break
        row = list(keep[call])
        row[block] = False
        _, cascaded = legalize((keep[0], tuple(row)), blocks, consumers)
        saved = _cost(keep[call], blocks, macs) - _cost(cascaded, blocks, macs)
        if pruned + saved <= (ratio + RATIO_TOLERANCE) * dense:
            keep[call] = cascaded
            pruned += saved
    if abs(pruned / dense - ratio) > RATIO_TOLERANCE:
        raise MaskError(
            f"no mask found that prunes {ratio:.4g} of the MACs: the nearest prunes {pruned / dense:.4f}",
            where="--ratio",
            mend=f"use a ratio below {1 - 1 / calls:.4g}, more steps, or another seed",
        )
    return tuple(keep)


def _cost(row: Sequence[bool], blocks: Sequence[str], macs: Macs) -> int:
    return macs.of_call(compress(blocks, row))
