"""Random masks: the compiled plan equals the SuperNet, whatever is skipped."""

from __future__ import annotations

import random

import pytest
from reference import SCHEDULERS, assert_parity, make_mask, options

from dipgo_compile.passes.fuse import STRATEGIES
from dipgo_compile.pipeline import REQUIRED, default_passes

OPTIONAL_PASSES = [
    "value_numbering",
    "eliminate_dead",
    "fold_timestep",
    "hoist_prompt",
    "hoist_modulation",
    "fold_schedule",
    "fuse",
    "share_sums",
]


def random_rows(blocks: int, seed: int):
    """Rows of every density, some of them empty; no cascade, so blocks are computed for their caches alone
    too.
    """
    generator = random.Random(seed)

    def rows(calls: int) -> list[list[bool]]:
        densities = [generator.choice([0.0, 0.3, 0.7, 1.0]) for _ in range(calls)]
        return [[generator.random() < density for _ in range(blocks)] for density in densities]

    return rows


@pytest.mark.parametrize("seed", range(50))
def test_random_mask(seed, tiny_sd, tmp_path):
    granularity = ("block", "layer")[seed % 2]
    scheduler = ("ddim", "plms")[seed // 2 % 2]
    blocks = tiny_sd.model.blocks(granularity)
    mask = make_mask(tiny_sd.model, blocks, scheduler, 6, random_rows(len(blocks), seed))
    assert_parity(
        tiny_sd, mask, options(fuse=STRATEGIES[seed // 4 % len(STRATEGIES)]), tmp_path / "m.dipgo", seed
    )


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_every_scheduler(scheduler, tiny_sd, tmp_path):
    blocks = tiny_sd.model.blocks()
    mask = make_mask(tiny_sd.model, blocks, scheduler, 7, random_rows(len(blocks), 7))
    assert_parity(tiny_sd, mask, options(), tmp_path / "m.dipgo", 7)


@pytest.mark.parametrize("disabled", OPTIONAL_PASSES)
def test_every_pass_can_be_left_out(disabled, tiny_sd, tmp_path):
    blocks = tiny_sd.model.blocks()
    mask = make_mask(tiny_sd.model, blocks, "plms", 5, random_rows(len(blocks), 3))
    assert_parity(tiny_sd, mask, options(disabled=(disabled,)), tmp_path / "m.dipgo", 3)


def test_all_optional_passes_are_covered(tiny_sd):
    from toy_denoiser import toy_graph, toy_mask, toy_model

    model = toy_model()
    names = {step.name for step in default_passes(model, toy_graph(model), toy_mask("11"))}
    assert names - REQUIRED == set(OPTIONAL_PASSES)
