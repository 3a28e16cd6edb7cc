"""Released gate files become masks, and harmful pickles become errors."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dipgo_compile.errors import MaskError
from dipgo_compile.mask import Mask, SchedulerRef
from dipgo_compile.masks.gates import import_gates
from dipgo_compile.models.source import load

Gates = list[dict[tuple[str, str, int, int], Any]]
UPS = 4


@pytest.fixture(scope="module")
def sd15() -> Any:
    return load("random:sd15", weights=False)


@pytest.fixture(scope="module")
def gates(released: Mask) -> Gates:
    """The released mask, as its authors' file holds it."""
    keys = {
        **{f"down_blocks.{index}": ("down", "block", index, 0) for index in range(4)},
        "mid_block": ("mid", "mid_block", 0, 0),
        **{f"up_blocks.{index}": ("up", "block", UPS - 1 - index, 0) for index in range(UPS)},
    }
    scores = {True: torch.tensor([0.1, 0.9]), False: torch.tensor([0.9, 0.1])}
    return [
        {keys[block]: scores[kept].clone() for block, kept in zip(released.blocks, row, strict=True)}
        for row in released.keep
    ]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def to_file(content: Any) -> Path:
        path = tmp_path / "gates.pkl"
        path.write_bytes(pickle.dumps(content))
        return path

    return to_file


def test_the_released_gates(gates: Gates, released: Mask, sd15: Any, write: Callable[[Any], Path]) -> None:
    mask = import_gates(write(gates), sd15, released.scheduler)
    assert mask.rows == released.rows
    assert (mask.model, mask.blocks, mask.reuse) == (released.model, released.blocks, "output")
    assert len(mask.provenance["gates_sha256"]) == 64


def test_parameters_are_tensors_too(
    gates: Gates, released: Mask, sd15: Any, write: Callable[[Any], Path]
) -> None:
    path = write([{key: torch.nn.Parameter(gate) for key, gate in step.items()} for step in gates])
    assert import_gates(path, sd15, released.scheduler).rows == released.rows


def test_the_first_call_is_whole_whatever_the_file_says(
    gates: Gates, released: Mask, sd15: Any, write: Callable[[Any], Path]
) -> None:
    path = write([dict(gates[1]), *gates[1:]])
    assert import_gates(path, sd15, released.scheduler).rows == released.rows


class Harmful:
    """Runs a shell command when an unrestricted unpickler reads it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_pickle_does_not_run(
    tmp_path: Path, released: Mask, sd15: Any, write: Callable[[Any], Path]
) -> None:
    marker = tmp_path / "ran"
    path = write([Harmful(marker)])
    pickle.loads(path.read_bytes())
    assert marker.exists(), "the pickle is harmless, so this test shows nothing"
    marker.unlink()
    with pytest.raises(MaskError, match=r"asks for posix\.system") as caught:
        import_gates(path, sd15, released.scheduler)
    assert caught.value.where == str(path)
    assert not marker.exists()


def test_code_in_a_tensor_storage_does_not_run(
    tmp_path: Path, released: Mask, sd15: Any, write: Callable[[Any], Path]
) -> None:
    """``_load_from_bytes`` is how tensors hold their storage, and is itself an unpickler."""
    marker, inner = tmp_path / "ran", tmp_path / "inner.pt"
    torch.save(Harmful(marker), inner, _use_new_zipfile_serialization=False)

    class Nested:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch.storage._load_from_bytes, (inner.read_bytes(),)

    with pytest.raises(MaskError, match="not a gate file"):
        import_gates(write([Nested()]), sd15, released.scheduler)
    assert not marker.exists()


def test_another_number_of_calls_is_refused(
    gates: Gates, released: Mask, sd15: Any, write: Callable[[Any], Path]
) -> None:
    with pytest.raises(MaskError, match="gates for 49 calls, but DDIMScheduler makes 50"):
        import_gates(write(gates[1:]), sd15, released.scheduler)


def test_gates_of_another_model_are_refused(
    gates: Gates, small_unet: Any, released: Mask, write: Callable[[Any], Path]
) -> None:
    with pytest.raises(MaskError, match=r"gates for down_blocks\.0") as caught:
        import_gates(write(gates), small_unet, released.scheduler)
    assert caught.value.available == small_unet.blocks()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gates": 1}, "a list of dicts is expected"),
        ([[1, 2]], "a list of dicts is expected"),
        ([{("down", "block", 0, 0): 1.0}], "not a tensor of two scores"),
        ([{("down", "block", 0, 0): torch.zeros(3)}], "not a tensor of two scores"),
        ([{"down": torch.zeros(2)}], "unknown gate 'down'"),
    ],
)
def test_other_contents_are_refused(
    content: Any, message: str, sd15: Any, write: Callable[[Any], Path]
) -> None:
    schedule = SchedulerRef("DDIMScheduler", {}, 1, (1.0,))
    with pytest.raises(MaskError, match=message):
        import_gates(write(content), sd15, schedule)


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_damaged_files_are_refused(
    damage: bytes | None, gates: Gates, released: Mask, sd15: Any, tmp_path: Path
) -> None:
    path = tmp_path / "gates.pkl"
    path.write_bytes(pickle.dumps(gates)[:500] if damage is None else damage)
    with pytest.raises(MaskError, match="not a gate file"):
        import_gates(path, sd15, released.scheduler)


def test_a_missing_file_is_an_error(released: Mask, sd15: Any, tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="cannot read the gates"):
        import_gates(tmp_path / "none.pkl", sd15, released.scheduler)
