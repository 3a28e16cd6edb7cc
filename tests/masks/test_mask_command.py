"""``dipgo-compile mask``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dipgo_compile.cli import main
from dipgo_compile.mask import Mask

TINY_SD = str(Path(__file__).parents[2] / "models" / "tiny-sd")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["mask", *arguments])


def made(path: Path, kind: str, *arguments: str) -> Mask:
    result = run("make", kind, TINY_SD, "--steps", "10", "-o", str(path), *arguments)
    assert result.exit_code == 0, result.output
    assert "of the MACs of" in result.output
    return Mask.load(path)


def test_make_all(tmp_path: Path) -> None:
    mask = made(tmp_path / "mask.json", "all")
    assert mask.rows == ("1" * 9,) * 10
    assert mask.model.source == TINY_SD
    assert mask.scheduler.class_name == "DDIMScheduler"
    assert mask.provenance == {"method": "all", "blocks": "block"}


def test_make_skip_calls(tmp_path: Path) -> None:
    every = made(tmp_path / "every.json", "skip-calls", "--every", "5")
    spaced = made(tmp_path / "spaced.json", "skip-calls", "--keep-calls", "2")
    assert every.rows == spaced.rows == (("1" * 9), *("0" * 9,) * 4) * 2


def test_make_skip_calls_of_plms_has_a_row_per_call(tmp_path: Path) -> None:
    mask = made(tmp_path / "mask.json", "skip-calls", "--every", "5", "--scheduler", "plms")
    assert mask.calls == 11
    assert mask.scheduler.timesteps[1] == mask.scheduler.timesteps[2]


def test_make_deepcache_reads_the_graph(tmp_path: Path) -> None:
    mask = made(tmp_path / "mask.json", "deepcache", "--interval", "5", "--branch", "1")
    assert mask.patterns == ("1" * 9, "110000011")


def test_make_random_of_some_layers(tmp_path: Path) -> None:
    pattern = r"up_blocks\.3\.(resnets|attentions)\.\d"
    mask = made(tmp_path / "mask.json", "random", "--ratio", "0.2", "--seed", "3", "--blocks", pattern)
    assert all(block.startswith("up_blocks.3.") for block in mask.blocks)
    assert mask.provenance == {"method": "random", "ratio": 0.2, "seed": 3, "blocks": pattern}
    assert len(mask.patterns) > 2


def test_show(released: Mask, tmp_path: Path) -> None:
    path, picture = tmp_path / "mask.json", tmp_path / "mask.png"
    released.save(path)
    result = run("show", str(path), "--png", str(picture))
    assert result.exit_code == 0, result.output
    assert "down_blocks.3  █············█·····███····█·····█······█········█·   18%" in result.output
    assert "(19.98%)" in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_show_json(released: Mask, tmp_path: Path) -> None:
    path = tmp_path / "mask.json"
    released.save(path)
    statistics: dict[str, Any] = json.loads(run("show", str(path), "--json").stdout)
    assert statistics["ideal_speedup"] == pytest.approx(5.0056, abs=1e-3)  # 1 / 0.1998
    assert len(statistics["idle_calls"]) == 40
    assert statistics["kept_by_block"]["down_blocks.3"] == 0.18


def test_show_works_where_the_model_does_not_load(mask: Mask, tmp_path: Path) -> None:
    path = tmp_path / "mask.json"
    mask.save(path)
    result = run("show", str(path))
    assert result.exit_code == 0
    assert "mid_block  █···   25%" in result.stdout
    assert "note: MACs are unknown" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("make", "skip-calls", TINY_SD), 2, "give --every K or --keep-calls N"),
        (("make", "skip-calls", TINY_SD, "--every", "0"), 2, "not in the range"),
        (("make", "all", TINY_SD, "--scheduler", "ddmi"), 5, "did you mean 'ddim'?"),
        (("make", "all", TINY_SD, "--blocks", "nothing"), 3, "no module scope matches 'nothing'"),
        (("make", "deepcache", TINY_SD, "--interval", "5", "--branch", "4"), 3, "use 0 to 3"),
        (("make", "all", "random:nothing"), 4, "no preset called 'nothing'"),
        (("import", "none.pkl", "--model", TINY_SD), 3, "cannot read the gates"),
        (("show", "none.json"), 3, "cannot read the mask"),
    ],
)
def test_errors_are_messages(
    arguments: tuple[str, ...], exit_code: int, message: str, tmp_path: Path
) -> None:
    with CliRunner().isolated_filesystem(tmp_path):
        result = run(*arguments)
        assert list(Path().iterdir()) == []
    assert result.exit_code == exit_code
    assert message in result.stderr
    assert "Traceback" not in result.output
