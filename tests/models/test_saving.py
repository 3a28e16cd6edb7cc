from __future__ import annotations

from pathlib import Path

import pytest

from models.recipes.saving import replace_directory, replace_file


def test_directory_keeps_its_other_files(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "README.md").write_text("a card")
    (target / "weights").write_text("old")
    replace_directory(target, lambda staging: (staging / "weights").write_text("new"))
    assert {path.name: path.read_text() for path in target.iterdir()} == {
        "README.md": "a card",
        "weights": "new",
    }
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_failed_write_leaves_the_old_directory(tmp_path: Path, interruption: type[BaseException]) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")

    def write(staging: Path) -> None:
        (staging / "weights").write_text("half")
        raise interruption

    with pytest.raises(interruption):
        replace_directory(target, write)
    assert (target / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    target.write_text("old")

    def write(staging: Path) -> None:
        staging.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        replace_file(target, write)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"checkpoint": "old"}
