"""The mask file: what is written is read back, what is malformed is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipgo_compile.errors import MaskError
from dipgo_compile.macs.counts import Macs
from dipgo_compile.mask import Mask, ModelRef, SchedulerRef

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.text(), JSON_VALUES, max_size=3)


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    scope = st.text("abcdefg_", min_size=1, max_size=8)  # without dots, so that none lies inside another
    blocks = tuple(draw(st.lists(scope, min_size=1, max_size=6, unique=True)))
    calls = draw(st.integers(1, 6))
    row = st.tuples(*[st.booleans()] * len(blocks))
    keep = ((True,) * len(blocks), *(draw(row) for _ in range(calls - 1)))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    timesteps = tuple(draw(finite) for _ in range(calls))
    digest = draw(st.text("0123456789abcdef", min_size=64, max_size=64))
    name = st.text(min_size=1)
    return Mask(
        model=ModelRef(draw(name), draw(name), digest),
        scheduler=SchedulerRef(draw(name), draw(OBJECTS), draw(st.integers(1, 1000)), timesteps),
        blocks=blocks,
        keep=keep,
        reuse=draw(st.sampled_from(["output", "residual"])),
        provenance={f"x{key}": value for key, value in draw(OBJECTS).items()},  # no field with a type
    )


@given(masks())
def test_json_round_trip(mask: Mask) -> None:
    assert Mask.from_json(json.loads(mask.to_text())) == mask


def test_file_round_trip(mask: Mask, tmp_path: Path) -> None:
    path = tmp_path / "mask.json"
    mask.save(path)
    assert Mask.load(path) == mask
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.json"]


def test_a_call_is_a_line_and_whole_timesteps_are_integers(make_mask: Callable[..., Mask]) -> None:
    scheduler = SchedulerRef("EulerDiscreteScheduler", {}, 2, (999.0, 0.5))
    text = make_mask(("11111", "00100"), scheduler=scheduler).to_text()
    assert '\n    "11111",\n    "00100"\n' in text
    assert '"timesteps": [999, 0.5]' in text


def test_reuse_may_be_left_out(mask: Mask) -> None:
    document = mask.to_json()
    del document["reuse"]
    assert Mask.from_json(document).reuse == "output"


def test_unknown_fields_are_ignored(mask: Mask) -> None:
    assert Mask.from_json({**mask.to_json(), "colour": "blue"}) == mask


def test_a_failed_save_leaves_the_old_file(
    mask: Mask, make_mask: Callable[..., Mask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mask.json"
    mask.save(path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(MaskError, match="No space left"):
        make_mask(("11111",)).save(path)
    monkeypatch.undo()
    assert Mask.load(path) == mask
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.json"]


def test_a_directory_that_is_not_there_is_an_error_that_says_so(mask: Mask, tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="No such file") as caught:
        mask.save(tmp_path / "nowhere" / "mask.json")
    assert "nowhere" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the mask"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a mask"),
        (b"{}", "not a mask"),
    ],
)
def test_unreadable_files_are_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mask.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MaskError, match=message) as caught:
        Mask.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message", "where"),
    [
        ({"version": 2}, "version 2 of the mask format is unknown", "version"),
        ({"version": "1"}, "version '1'", "version"),
        ({"keep": ["11111", "0000", "11011", "00001"]}, "4 characters for 5 blocks", "keep[1]"),
        ({"keep": ["11111"]}, "1 rows for 4 timesteps", "keep"),
        ({"keep": ["11101", "00000", "11011", "00001"]}, "reuses up_blocks.0, but nothing was", "keep[0]"),
        ({"keep": ["11111", "00x00", "11011", "00001"]}, "does not match", "keep[1]"),
        ({"keep": "11111"}, "is not of type 'array'", "keep"),
        ({"reuse": "input"}, "'input' is not one of", "reuse"),
        ({"blocks": ["a", "a", "b", "c", "d"]}, "non-unique", "blocks"),
        ({"blocks": ["a", "a.b", "b", "c", "d"]}, "'a.b' lies inside block 'a'", "blocks"),
        ({"blocks": []}, "non-empty", "blocks"),
        ({"model": {"source": "x", "class": "y"}}, "'config_sha256' is a required property", "model"),
        ({"provenance": {"scores": "high"}}, "is not of type", "provenance.scores"),
    ],
)
def test_malformed_documents_are_refused_by_field(
    mask: Mask, change: dict[str, Any], message: str, where: str
) -> None:
    with pytest.raises(MaskError) as caught:
        Mask.from_json({**mask.to_json(), **change})
    assert message in caught.value.what
    assert caught.value.where == where


def test_a_mask_made_in_python_is_checked_too(make_mask: Callable[..., Mask]) -> None:
    with pytest.raises(MaskError, match="listed twice"):
        make_mask(("11", "00"), ("a", "a"))
    with pytest.raises(MaskError, match="unknown kind of reuse"):
        make_mask(reuse="input")
    with pytest.raises(MaskError, match="names no blocks"):
        make_mask(("",), ())


def test_statistics(mask: Mask) -> None:
    assert mask.calls == 4
    assert mask.idle_calls == (1,)
    assert mask.patterns == ("11111", "00000", "11011", "00001")
    assert mask.kept_by_block == (0.5, 0.5, 0.25, 0.5, 0.75)
    assert mask.kept_by_call == (1.0, 0.0, 0.8, 0.2)
    assert mask.kept_by_third == (1.0, 0.0, 0.5)


def test_kept_macs_count_the_glue_of_calls_that_compute_anything(mask: Mask) -> None:
    costs = dict(zip(mask.blocks, (1, 2, 4, 8, 16), strict=True))
    macs = Macs(total=131, by_scope=costs)  # 100 of them glue
    assert mask.kept_macs(macs) == 131 + 0 + (100 + 1 + 2 + 8 + 16) + (100 + 16)
    assert mask.macs_ratio(macs) == mask.kept_macs(macs) / (4 * 131)
    idle = Macs(total=131, by_scope=costs, idle=100)
    assert mask.kept_macs(idle) == mask.kept_macs(macs) + 100


def test_a_mask_that_begins_later(make_mask: Callable[..., Mask]) -> None:
    """Image to image: rows before are dropped, and the first that is left is made whole."""
    mask = make_mask(("11111", "00000", "11011", "00001"))
    begun = mask.from_call(2)
    assert begun.rows == ("11111", "00001")
    assert begun.scheduler.timesteps == mask.scheduler.timesteps[2:]
    assert replace(begun, keep=mask.keep, scheduler=mask.scheduler) == mask
    assert mask.from_call(0) == mask
