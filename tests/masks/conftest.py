"""A real UNet of the smallest size, and masks for a made-up one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dipgo_compile.mask import Mask, ModelRef, SchedulerRef
from dipgo_compile.models import family_of
from dipgo_compile.models.presets import SD_BETAS

FIXTURES = Path(__file__).parents[2] / "benchmarks" / "masks"
BLOCKS = ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1")
ROWS = ("11111", "00000", "11011", "00001")


def _make_mask(rows: tuple[str, ...] = ROWS, blocks: tuple[str, ...] = BLOCKS, **changes: Any) -> Mask:
    timesteps = tuple(float(1000 - 10 * call) for call in range(len(rows)))
    fields: dict[str, Any] = {
        "model": ModelRef("somewhere", "UNet2DConditionModel", "0" * 64),
        "scheduler": SchedulerRef("DDIMScheduler", {"beta_start": 0.1}, len(rows), timesteps),
        "blocks": blocks,
        "keep": tuple(tuple(character == "1" for character in row) for row in rows),
    }
    return Mask(**{**fields, **changes})


@pytest.fixture(scope="session")
def make_mask() -> Callable[..., Mask]:
    """``make_mask(rows, blocks, **fields)``: all have defaults."""
    return _make_mask


@pytest.fixture(scope="session")
def mask() -> Mask:
    return _make_mask()


@pytest.fixture(scope="session")
def released() -> Mask:
    """The authors' mask for SD1.5 with 50 DDIM steps at ratio 0.8."""
    return Mask.load(FIXTURES / "sd15_ddim50_released_0.80.json")


@pytest.fixture(scope="session")
def small_unet() -> Any:
    """Two levels of 8 and 16 channels, with random weights."""
    from tests.families.tiny import make

    return replace(make("sd15"), source="small", scheduler_config={**SD_BETAS}, vae_scale_factor=8)


@pytest.fixture(scope="session")
def small_dit() -> Any:
    """Two blocks of width 16, with random weights."""
    from tests.families.tiny import DIT, make_model

    dit = make_model("DiTTransformer2DModel", {**DIT, "num_layers": 2})
    return replace(dit, source="small-dit", scheduler_config={**SD_BETAS}, vae_scale_factor=8)


@pytest.fixture(scope="session")
def small_dit_directory(small_dit: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small DiT as a model directory."""
    path = tmp_path_factory.mktemp("small-dit")
    small_dit.denoiser.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def small_directory(small_unet: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small UNet as a model directory."""
    path = tmp_path_factory.mktemp("small")
    small_unet.denoiser.save_pretrained(path)
    return str(path)


@pytest.fixture
def described() -> Any:
    """What ``check_against`` asks of the model that ``mask`` was made for."""
    return SimpleNamespace(
        source="somewhere",
        class_name="UNet2DConditionModel",
        config_sha256="0" * 64,
        config={},
        family=family_of("UNet2DConditionModel"),
    )
