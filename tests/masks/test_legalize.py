"""The gate cascade."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipgo_compile.errors import MaskError
from dipgo_compile.mask import Keep, legalize

BLOCKS = ("down.0", "down.1", "mid", "up.0", "up.1")
UNET: dict[str, frozenset[str | None]] = {
    "down.0": frozenset({"down.1", "up.1"}),
    "down.1": frozenset({"mid", "up.0"}),
    "mid": frozenset({"up.0"}),
    "up.0": frozenset({"up.1"}),
    "up.1": frozenset({None}),
}
KEEPS = st.lists(st.tuples(*[st.booleans()] * len(BLOCKS)), max_size=6).map(
    lambda rows: ((True,) * len(BLOCKS), *rows)
)


def keep(*rows: str) -> Keep:
    return tuple(tuple(character == "1" for character in row) for row in rows)


@pytest.mark.parametrize(
    ("row", "legal"),
    [
        ("11111", "11111"),
        ("11110", "00000"),  # nothing is seen without the last block
        ("11101", "10001"),  # mid and down.1 are read by up.0 alone; down.0 by up.1, too
        ("11011", "11011"),  # down.1 is read by up.0, whatever mid does
        ("01001", "00001"),
        ("00001", "00001"),
    ],
)
def test_a_block_whose_every_reader_is_reused_is_reused(row: str, legal: str) -> None:
    assert legalize(keep("11111", row), BLOCKS, UNET) == keep("11111", legal)


def test_the_first_call_stays_whole_even_where_nobody_reads() -> None:
    unread = {**UNET, "mid": frozenset()}
    assert legalize(keep("11111", "11111"), BLOCKS, unread) == keep("11111", "11011")


def test_readers_that_no_mask_prunes_are_always_computed() -> None:
    readers: dict[str, frozenset[str | None]] = {"a": frozenset({"glue"}), "b": frozenset({"a"})}
    assert legalize(keep("11", "11", "01"), ("b", "a"), readers) == keep("11", "11", "01")


@given(KEEPS)
def test_it_removes_only_and_is_idempotent(rows: Keep) -> None:
    legal = legalize(rows, BLOCKS, UNET)
    assert all(
        before or not after
        for row, cascaded in zip(rows, legal, strict=True)
        for before, after in zip(row, cascaded, strict=True)
    )
    assert legalize(legal, BLOCKS, UNET) == legal


@given(KEEPS)
def test_what_it_keeps_is_read(rows: Keep) -> None:
    for row in legalize(rows, BLOCKS, UNET)[1:]:
        kept = {block for block, keeps in zip(BLOCKS, row, strict=True) if keeps}
        assert all(UNET[block] & {None, *kept} for block in kept)


def test_a_block_without_known_readers_is_an_error() -> None:
    with pytest.raises(MaskError, match=r"no block 'upp\.1'") as caught:
        legalize(keep("1"), ("upp.1",), UNET)
    assert caught.value.mend == "did you mean 'up.1'?"
