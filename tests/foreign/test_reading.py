"""What is told of a file: merged, recorded, and refused where it makes no sense."""

from __future__ import annotations

import pytest

from dipgo_compile.errors import InputError
from dipgo_compile.models.reading import Reading, parse_dims

WHOLE = Reading("x", "t", "sigma", "eps", ("cond", "uncond"), ("a", "b"), {"tokens": 5})


def test_what_is_told_stands_over_what_was_known() -> None:
    told = Reading(sample="y", dims={"tokens": 7, "frames": 2})
    merged = told.over(WHOLE)
    assert (merged.sample, merged.timestep, merged.cuts) == ("y", "t", ("a", "b"))
    assert merged.dims == {"tokens": 7, "frames": 2}


@pytest.mark.parametrize("reading", [Reading(), WHOLE, Reading(dims={"height": 8})])
def test_json_and_back(reading: Reading) -> None:
    assert Reading.from_json(reading.to_json()) == reading


def test_a_reader_ignores_what_it_does_not_know() -> None:
    assert Reading.from_json({"sample": "x", "colour": "blue"}) == Reading("x")


def test_dims_of_the_command_line() -> None:
    assert parse_dims(("frames=16", "text.1=77")) == {"frames": 16, "text.1": 77}


@pytest.mark.parametrize("pair", ["frames", "frames=", "=3", "frames=many", "frames=-1"])
def test_malformed_dims(pair: str) -> None:
    with pytest.raises(InputError, match="NAME=N"):
        parse_dims((pair,))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"timestep_kind": "noise"}, "kind of timestep 'noise'"),
        ({"guidance_order": ("cond",)}, "order of guidance 'cond'"),
        ({"cuts": ("a",)}, "one cut, 'a', makes no block"),
        ({"dims": {"frames": 0}}, "'frames' is 0"),
    ],
)
def test_nonsense(told: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reading(**told)  # type: ignore[arg-type]
