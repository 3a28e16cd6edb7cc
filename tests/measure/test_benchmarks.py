"""The declared benchmarks: what their rows cost, how they go on after a stop, how they become a table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_pipeline
from click.testing import CliRunner

from benchmarks import quality, results, table
from benchmarks.__main__ import main
from benchmarks.peers import Peers
from benchmarks.scenarios import SCENARIOS, QualityScenario
from dipgo_compile.errors import InputError
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import load

TINY_SD = Path(__file__).parents[2] / "models" / "tiny-sd"


def quality_scenario() -> QualityScenario:
    return next(scenario for scenario in SCENARIOS if isinstance(scenario, QualityScenario))


@pytest.fixture(scope="module")
def trained(pipeline: Path) -> Mask:
    """Stands for a trained mask: a fifth of 25 calls, whole."""
    rows = tuple(("11111" if call % 5 == 0 else "00000") for call in range(25))
    return small_pipeline.make_mask(str(pipeline), "DDIMScheduler", rows)


@pytest.fixture(scope="module")
def peers(trained: Mask) -> Peers:
    return Peers(load(trained.model.source), trained, quality_scenario())


def made(peers: Peers, name: str) -> Mask:
    return next(peer for peer in peers.all() if peer.name == name).make()


@pytest.mark.parametrize("name", ["random-1", "random-2", "even", "to-the-end"])
def test_peers_cost_what_the_trained_mask_costs(peers: Peers, trained: Mask, name: str) -> None:
    budget, dense = peers.macs_per_image(trained), peers.macs_per_image(made(peers, "dense"))
    # heuristics.RATIO_TOLERANCE of the dense model's MACs, as in the paper's post-processing.
    assert abs(peers.macs_per_image(made(peers, name)) - budget) <= 0.0125 * dense


def test_deepcache_takes_the_steps_that_the_budget_allows(peers: Peers, trained: Mask) -> None:
    mask = made(peers, "deepcache")
    call = peers.macs.total
    # One step more or less costs at most one whole call.
    assert abs(peers.macs_per_image(mask) - peers.macs_per_image(trained)) <= call
    whole, *shallow = mask.keep[: quality_scenario().deepcache_interval]
    assert all(whole)
    for row in shallow:
        kept = [block for block, keeps in zip(mask.blocks, row, strict=True) if keeps]
        assert kept == ["up_blocks.1.resnets.1", "up_blocks.1.attentions.1"]


def test_later_start_is_the_same_chain_without_its_first_calls(pipeline: Path) -> None:
    trained = small_pipeline.make_mask(str(pipeline), "DDIMScheduler", ("11111",) * 50)
    peers = Peers(load(trained.model.source), trained, quality_scenario())
    assert made(peers, "later-start").scheduler.timesteps == trained.scheduler.timesteps[2:]


def test_rows_without_meaning_are_left_out(trained: Mask) -> None:
    scenario = replace(quality_scenario(), deepcache_interval=None)
    names = {peer.name for peer in Peers(load(trained.model.source), trained, scenario).all()}
    assert "deepcache" not in names
    assert "later-start" not in names, "no number of steps is spaced like 25, 40 timesteps apart"


def test_rows_are_chosen_by_their_beginning(peers: Peers) -> None:
    chosen = quality.Options(10, 0, 4.0, rows=("random", "even")).chosen(peers.all())
    assert [peer.name for peer in chosen] == [*(f"random-{seed}" for seed in range(1, 6)), "even"]
    with pytest.raises(InputError, match="'nothing'"):
        quality.Options(10, 0, 4.0, rows=("nothing",)).chosen(peers.all())


def test_images_are_balanced_and_batches_equal() -> None:
    assert quality.Options(2000, 0, 4.0).batch == 100
    assert quality.Options(70, 0, 4.0).batch == 70
    with pytest.raises(InputError, match="equally"):
        quality.Options(15, 0, 4.0)


@pytest.fixture
def stubbed(
    monkeypatch: pytest.MonkeyPatch, trained: Mask, tmp_path: Path
) -> tuple[QualityScenario, list[str]]:
    """A quality run whose images cost nothing; the list tells which masks were drawn."""
    drawn: list[str] = []

    class Judge:
        def __init__(self, options: quality.Options) -> None: ...

        def __call__(self, images: int) -> dict[str, float]:
            return {"class_agreement": 0.5, "fid": float(images)}

    def draw(mask: Mask, *_: Any) -> int:
        drawn.append(str(mask.provenance["method"]))
        return len(drawn)

    monkeypatch.setattr(quality, "draw", draw)
    monkeypatch.setattr(quality, "_Judge", Judge)
    monkeypatch.setattr(quality, "load_pipeline", lambda source: None)
    trained.save(tmp_path / "mask.json")
    return replace(quality_scenario(), mask=str(tmp_path / "mask.json")), drawn


def test_a_stopped_run_goes_on(stubbed: tuple[QualityScenario, list[str]], tmp_path: Path) -> None:
    scenario, drawn = stubbed
    file = tmp_path / "quality.json"
    options = quality.Options(10, 0, 4.0, rows=("dense", "even"))
    quality.run(scenario, replace(options, rows=("dense",)), file, resume=True, command="one")
    content = quality.run(scenario, options, file, resume=True, command="two")
    assert drawn == ["dense", "even"]
    assert [row["fid"] for row in content["rows"]] == [1.0, 2.0]
    assert results.read(file) == json.loads(json.dumps(content))


def test_rows_of_other_settings_are_not_mixed(
    stubbed: tuple[QualityScenario, list[str]], tmp_path: Path
) -> None:
    scenario, _ = stubbed
    file = tmp_path / "quality.json"
    options = quality.Options(10, 0, 4.0, rows=("dense",))
    quality.run(scenario, options, file, resume=False, command="")
    with pytest.raises(InputError, match="seed"):
        quality.run(scenario, replace(options, seed=1), file, resume=True, command="")


def test_list_names_every_scenario() -> None:
    output = CliRunner().invoke(main, ["list"]).output
    assert all(scenario.name in output for scenario in SCENARIOS)


def test_table_takes_the_random_masks_together() -> None:
    def row(name: str, agreement: float) -> dict[str, Any]:
        figures = {"class_agreement": agreement, "fid": 1.0, "macs_per_image": 2_000_000_000}
        return {"name": name, "about": f"the {name} row", "steps": 50, "calls": 50, **figures}

    content = {
        "scenario": {"model": "m", "images": 10, "guidance_scale": 4.0},
        "rows": [row("dense", 0.9), row("random-1", 0.5), row("random-2", 0.7), row("random-3", 0.6)],
    }
    lines = list(table.quality(content))
    assert "| the dense row | 50 | 2.000 G | 90.0 % | 1.000 |" in lines
    assert lines[-1].startswith("| random masks, median of 3 seeds")
    assert "60.0 % (50.0 .. 70.0)" in lines[-1]
    assert len(lines) == 2 + 2 + 2


@pytest.mark.slow
def test_quality_of_real_images(trained: Mask, tmp_path: Path) -> None:
    """The whole way, on the shipped pipeline: images that a classifier recognises."""
    rows = tuple(("1" * 9 if call % 2 == 0 else "0" * 9) for call in range(10))
    small_pipeline.make_mask(str(TINY_SD), "DDIMScheduler", rows).save(tmp_path / "mask.json")
    scenario = replace(quality_scenario(), mask=str(tmp_path / "mask.json"))
    options = quality.Options(20, 0, 4.0, rows=("dense",))
    content = quality.run(scenario, options, tmp_path / "quality.json", resume=False, command="")
    (row,) = content["rows"]
    assert row["class_agreement"] > 0.5  # chance is 0.1


def test_speed_table_says_how_much_faster_the_plan_is() -> None:
    def row(name: str, median: float) -> dict[str, Any]:
        seconds = {"min": median / 2, "median": median, "max": 2 * median}
        return {"name": name, "seconds_per_image": seconds, "peak_pss_bytes": 5_000_000, "load_seconds": 1.0}

    content = {
        "scenario": {
            "model": "m", "scheduler": "S", "steps": 4, "mask": {"calls": 4, "calls_run": 1},
            "provider": "cpu",
            "precision": "fp32", "threads": 2, "repeats": 3,
        },
        "rows": [row("plan", 0.1), row("dense", 0.4)],
        "speedup": 4.0, "ideal_speedup": 5.0, "efficiency": 0.8,
    }  # fmt: skip
    lines = list(table.speed(content))
    assert "| dense | 400.0 | 200.0 .. 800.0 | 5 MB | 1.0 s | 4.00x |" in lines
    assert lines[-1].endswith("efficiency 0.80.")
