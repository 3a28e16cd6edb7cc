"""``dipgo-compile mask``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dipgo_compile.cli import main
from dipgo_compile.mask import Mask

MODEL = "random:sd15"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["mask", *arguments])


@pytest.fixture
def made(small_directory: str, tmp_path: Path) -> Callable[..., Mask]:
    """Makes a mask of five blocks, for ten steps of Euler unless told otherwise."""

    def make(
        kind: str, *arguments: str, scheduler: str = "euler", model: str = small_directory, steps: int = 10
    ) -> Mask:
        path = tmp_path / "mask.json"
        loop = ("--steps", str(steps), "--scheduler", scheduler, "-o", str(path))
        result = run("make", kind, model, *loop, *arguments)
        assert result.exit_code == 0, result.output
        assert "of the MACs of" in result.output
        return Mask.load(path)

    return make


def test_make_all(made: Callable[..., Mask], small_directory: str) -> None:
    mask = made("all")
    assert mask.rows == ("11111",) * 10
    assert mask.model.source == small_directory
    assert mask.scheduler.class_name == "EulerDiscreteScheduler"
    assert mask.provenance == {"method": "all", "blocks": "block"}


def test_make_skip_calls(made: Callable[..., Mask]) -> None:
    every = made("skip-calls", "--every", "5")
    spaced = made("skip-calls", "--keep-calls", "2")
    assert every.rows == spaced.rows == ("11111", *("00000",) * 4) * 2


def test_make_skip_calls_of_plms_has_a_row_per_call(made: Callable[..., Mask]) -> None:
    mask = made("skip-calls", "--every", "5", scheduler="plms")
    assert mask.calls == 11
    assert mask.scheduler.timesteps[1] == mask.scheduler.timesteps[2]


def test_make_deepcache_reads_the_graph(made: Callable[..., Mask]) -> None:
    assert made("deepcache", "--interval", "5").patterns == ("11111", "10001")


def test_make_random_of_some_layers(made: Callable[..., Mask]) -> None:
    pattern = r"up_blocks\.1\.(resnets|attentions)\.\d"
    mask = made("random", "--ratio", "0.2", "--seed", "3", "--blocks", pattern)
    assert all(block.startswith("up_blocks.1.") for block in mask.blocks)
    assert mask.provenance == {"method": "random", "ratio": 0.2, "seed": 3, "blocks": pattern}
    assert len(mask.patterns) > 2


def test_make_fixed_interval_of_layers(made: Callable[..., Mask], small_dit_directory: str) -> None:
    mask = made("fixed-interval", "--every", "2", model=small_dit_directory, steps=4)
    assert mask.blocks[:2] == ("transformer_blocks.0.attn1", "transformer_blocks.0.ff")
    assert mask.rows == ("1111", "0000", "1111", "0000")
    assert mask.reuse == "output"
    assert mask.provenance == {"method": "fixed-interval", "every": 2, "blocks": "layer"}


def test_make_l2c_style_takes_turns(made: Callable[..., Mask], small_dit_directory: str) -> None:
    mask = made("l2c-style", "--every", "3", model=small_dit_directory, steps=4)
    assert mask.rows == ("1111", "1010", "0101", "1111"), "attentions, then feed-forwards"
    blocks = ("--granularity", "block")
    chain = made("l2c-style", *blocks, "--reuse", "residual", model=small_dit_directory, steps=2)
    assert (chain.reuse, chain.rows) == ("residual", ("11", "10"))


def test_make_random_with_residuals_keeps_the_ratio(
    made: Callable[..., Mask], small_dit_directory: str
) -> None:
    mask = made("random", "--ratio", "0.4", "--reuse", "residual", model=small_dit_directory, steps=20)
    shown = json.loads(run("show", "--json", str(_saved(mask, Path(small_dit_directory)))).stdout)
    assert shown["reuse"] == "residual"
    assert 1 / shown["ideal_speedup"] == pytest.approx(0.6, abs=0.0125)


def _saved(mask: Mask, directory: Path) -> Path:
    mask.save(directory / "shown.json")
    return directory / "shown.json"


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
    replace(mask, model=replace(mask.model, source="random:nothing")).save(path)
    result = run("show", str(path))
    assert result.exit_code == 0
    assert "mid_block  █···   25%" in result.stdout
    assert "note: MACs are unknown" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("make", "skip-calls", MODEL), 2, "give --every K or --keep-calls N"),
        (("make", "skip-calls", MODEL, "--every", "0"), 2, "not in the range"),
        (("make", "skip-calls", MODEL, "--keep-calls", "52"), 3, "cannot keep 52 of 51 calls"),
        (("make", "all", MODEL, "--scheduler", "ddimm"), 5, "did you mean 'ddim'?"),
        (("make", "all", MODEL, "--blocks", "nothing"), 3, "no module scope matches 'nothing'"),
        (("make", "all", MODEL, "--reuse", "residual"), 3, "8 of these blocks do not"),
        (("make", "all", "random:nothing"), 4, "no preset called 'nothing'"),
        (("import", "none.pkl", "--model", MODEL), 3, "cannot read the gates"),
        (("show", "none.json"), 3, "cannot read the mask"),
    ],
)
def test_errors_are_messages(
    arguments: tuple[str, ...],
    exit_code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert message in result.stderr
    assert result.exit_code == exit_code
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
