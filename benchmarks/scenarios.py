"""What is measured. A scenario has all that its result depends on, besides the machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpeedScenario:
    """A mask's plan against the unpruned denoiser, image by image."""

    name: str
    about: str
    mask: str
    versus: tuple[str, ...]
    repeats: int


@dataclass(frozen=True)
class QualityScenario:
    """A mask's images against those of other ways to spend as little.

    ``random_masks``: how many seeds. ``deepcache_interval``: calls from one whole call to the next. Images
    are balanced over the ten classes; every row starts from the same noise and prompts.
    """

    name: str
    about: str
    mask: str
    images: int
    random_masks: int
    deepcache_interval: int


TINY_SD_MASK = "models/tiny-sd/masks/ddim50_0.80.json"

SCENARIOS: tuple[SpeedScenario | QualityScenario, ...] = (
    SpeedScenario(
        name="tiny-sd",
        about="speed of tiny-sd's trained mask",
        mask=TINY_SD_MASK,
        versus=("dense", "torch", "supernet"),
        repeats=20,
    ),
    QualityScenario(
        name="quality",
        about="images of tiny-sd's trained mask, and of other ways to spend as few MACs",
        mask=TINY_SD_MASK,
        images=2000,
        random_masks=5,
        deepcache_interval=5,
    ),
)
