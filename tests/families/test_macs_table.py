"""The paper's MACs of every preset, and ``dipgo-compile macs``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import mask_rules
from dipgo_compile.cli import main
from dipgo_compile.mask import Mask
from dipgo_compile.models.presets import PRESETS
from dipgo_compile.models.source import load
from dipgo_compile.schedules.schedulers import scheduler_ref
from scripts import macs_table

MILLION_PARAMETERS = {
    "sd15": 859.5,
    "sd21": 865.9,
    "sdxl": 2567.5,
    "lcm-sdxl": 2567.5,
    "bk-sdm-base": 579.4,
    "bk-sdm-small": 482.3,
    "dit-xl-2": 749.8,
    "pixart-alpha": 611.3,
    "pixart-alpha-512": 610.9,
}


@pytest.fixture(scope="module")
def counted() -> list[float]:
    return [macs_table.count(row) for row in macs_table.ROWS]


def test_the_counts_are_the_papers(counted: list[float]) -> None:
    paper = [row.teramacs for row in macs_table.ROWS]
    assert counted == pytest.approx(paper, rel=0.001)  # it gives two decimals of 3 to 86


def test_the_table_is_that_of_the_code(counted: list[float]) -> None:
    assert macs_table.FILE.read_text(encoding="utf-8") == macs_table.render(counted)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_size_and_a_schedule(name: str) -> None:
    model = load(f"random:{name}", weights=False)
    parameters = sum(parameter.numel() for parameter in model.denoiser.parameters())
    assert parameters / 1e6 == pytest.approx(MILLION_PARAMETERS[name], abs=0.05)
    calls = len(scheduler_ref(None, model, 4).timesteps)
    assert calls == (5 if model.scheduler_class == "PNDMScheduler" else 4)


def test_the_committed_deepcache_mask_is_that_of_the_rule() -> None:
    mask = Mask.load(macs_table.DEEPCACHE)
    assert mask.keep == mask_rules.deepcache(mask.blocks, mask.calls, interval=4, branch=1)
    kept = [block for block, keeps in zip(mask.blocks, mask.keep[1], strict=True) if keeps]
    assert kept[:2] == ["down_blocks.0.resnets.0", "down_blocks.0.attentions.0"]
    assert {block.rpartition(".")[0] for block in kept[2:]} == {
        "up_blocks.3.resnets",
        "up_blocks.3.attentions",
    }
    assert {block[-1] for block in kept[2:]} == {"1", "2"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["macs", *arguments], catch_exceptions=False)


def report(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json", "-").stdout)
    return found


@pytest.fixture(scope="module")
def tiny_sd() -> str:
    return str(Path(__file__).parents[2] / "models" / "tiny-sd")


def test_blocks_and_what_lies_outside_make_a_call(tiny_sd: str) -> None:
    one = report(tiny_sd)
    assert sum(block["macs"] for block in one["blocks"]) + one["outside_blocks"] == one["call"]
    assert one["dense"] == one["kept"] == one["call"]
    many = report(tiny_sd, "--steps", "7", "--batch", "2", "--guidance", "--granularity", "layer")
    assert many["call"] == one["call"]
    assert many["dense"] == 7 * 2 * 2 * one["call"]
    assert len(many["blocks"]) > len(one["blocks"])
    twice = report(tiny_sd, "--height", str(2 * one["height"]))
    assert twice["height"] == 2 * one["height"] and twice["width"] == one["width"]
    assert 1.9 < twice["call"] / one["call"] < 2.0  # all but the time embedding and the prompt's projections
    assert report(tiny_sd, "--attention")["call"] > one["call"]


def test_a_masks_own_blocks_and_calls(tiny_sd: str) -> None:
    file = f"{tiny_sd}/masks/ddim50_0.80.json"
    mask, found = Mask.load(file), report(tiny_sd, "--mask", file)
    assert found["calls"] == mask.calls == 50
    assert [block["name"] for block in found["blocks"]] == list(mask.blocks)
    assert [block["calls"] for block in found["blocks"]] == [
        sum(column) for column in zip(*mask.keep, strict=True)
    ]
    assert found["kept"] / found["dense"] == pytest.approx(1 - mask.provenance["pruned_macs"], abs=1e-6)
    assert f"at {found['blocks'][0]['calls']} calls" in run(tiny_sd, "--mask", file).stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        ((), 2, "give MODEL or --mask"),
        (("random:sd15", "--mask", macs_table.RELEASED, "--steps", "3"), 2, "leave out --steps"),
        (("random:sd21", "--mask", macs_table.RELEASED), 3, "another configuration"),
        (("random:sd16",), 4, "random:sd21"),
        (("random:dit-xl-2", "--height", "128"), 10, "square"),
        (("random:pixart-alpha", "--height", "1000"), 10, "patches of 2"),
    ],
)
def test_errors_say_how_to_mend_them(arguments: tuple[str, ...], exit_code: int, message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == exit_code
    assert message in result.stderr
