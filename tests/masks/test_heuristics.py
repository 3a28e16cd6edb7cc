"""Masks by simple rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipgo_compile.errors import MaskError
from dipgo_compile.macs.counts import Macs
from dipgo_compile.mask import Keep, legalize
from dipgo_compile.masks.heuristics import (
    RATIO_TOLERANCE,
    alternate,
    deepcache,
    evenly_spaced,
    every,
    random_keep,
)

BLOCKS = ("down.0", "down.1", "mid", "up.0", "up.1")
READERS: dict[str, frozenset[str | None]] = {
    "down.0": frozenset({"down.1", "up.1"}),
    "down.1": frozenset({"mid", "up.0"}),
    "mid": frozenset({"up.0"}),
    "up.0": frozenset({"up.1"}),
    "up.1": frozenset({None}),
}
MACS = Macs(210, dict(zip(BLOCKS, (33, 35, 10, 62, 60), strict=True)))
CALLS = 50


def text(keep: Keep) -> list[str]:
    return ["".join("01"[kept] for kept in row) for row in keep]


def pruned(keep: Keep) -> float:
    kept = sum(MACS.of_call(block for block, k in zip(BLOCKS, row, strict=True) if k) for row in keep)
    return 1 - kept / (len(keep) * MACS.total)


def test_every() -> None:
    assert text(every(5, 2, 1)) == ["11"] * 5
    assert text(every(5, 2, 2)) == ["11", "00", "11", "00", "11"]
    assert text(every(2, 3, 7)) == ["111", "000"]


def test_alternate() -> None:
    assert text(alternate(7, 4, 3)) == ["1111", "1010", "0101", "1111", "1010", "0101", "1111"]
    assert alternate(5, 2, 1) == every(5, 2, 1)


def test_evenly_spaced() -> None:
    assert evenly_spaced(CALLS, 9, 10) == every(CALLS, 9, 5)
    assert text(evenly_spaced(5, 1, 2)) == ["1", "0", "1", "0", "0"]


@given(st.integers(1, 60), st.data())
def test_evenly_spaced_keeps_as_many_as_asked(calls: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, calls))
    kept = [index for index, row in enumerate(evenly_spaced(calls, 1, count)) if row[0]]
    assert (kept[0], len(kept)) == (0, count)
    gaps = [after - before for before, after in zip(kept, [*kept[1:], calls], strict=True)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("count", [0, 51])
def test_evenly_spaced_refuses_more_calls_than_there_are(count: int) -> None:
    with pytest.raises(MaskError, match="cannot keep"):
        evenly_spaced(CALLS, 9, count)


def test_deepcache() -> None:
    assert text(deepcache(4, 5, 2, 0)) == ["11111", "10001", "11111", "10001"]
    assert text(deepcache(3, 9, 3, 1)) == ["111111111", "110000011", "110000011"]
    assert legalize(deepcache(4, 5, 2, 1), BLOCKS, READERS) == deepcache(4, 5, 2, 1)


@pytest.mark.parametrize(("blocks", "branch"), [(9, 4), (9, 40), (2, 0), (4, 1)])
def test_deepcache_refuses_a_branch_without_deep_blocks(blocks: int, branch: int) -> None:
    with pytest.raises(MaskError, match=f"branch {branch} leaves none"):
        deepcache(10, blocks, 5, branch)


@given(ratio=st.floats(0, 0.98), seed=st.integers(0, 1000))
def test_random_prunes_what_is_asked_legally(ratio: float, seed: int) -> None:
    keep = random_keep(CALLS, BLOCKS, ratio, seed, MACS, READERS)
    assert abs(pruned(keep) - ratio) <= RATIO_TOLERANCE
    assert all(keep[0])
    assert legalize(keep, BLOCKS, READERS) == keep


def test_random_depends_on_the_seed_alone() -> None:
    one, again, other = (random_keep(CALLS, BLOCKS, 0.5, seed, MACS, READERS) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_random_refuses_what_cannot_be_reached() -> None:
    with pytest.raises(MaskError, match=r"nearest prunes 0\.7500") as caught:
        random_keep(4, BLOCKS, 0.9, 0, MACS, READERS)
    assert "below 0.75" in str(caught.value)
