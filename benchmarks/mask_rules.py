"""The masks that scenarios name: made by rule here, or read from a file of ``masks/``."""

from __future__ import annotations

from collections.abc import Callable

from dipgo_compile.mask import Keep, Mask, ModelRef
from dipgo_compile.masks import heuristics
from dipgo_compile.models.source import Model
from dipgo_compile.schedules.schedulers import scheduler_ref

STEPS, SCHEDULER = 50, "ddim"
DEEPCACHE_INTERVAL = 5


def make(name: str, model: Model, steps: int = STEPS) -> Mask:
    """``all``, ``deepcache`` or a mask file, whose schedule is its own. Raises MaskError."""
    made = {"all": _all, "deepcache": _deepcache}.get(name)
    return Mask.load(name) if made is None else made(model, steps)


def deepcache(blocks: tuple[str, ...], calls: int, interval: int, branch: int = 0) -> Keep:
    """What the DeepCache package computes: every ``interval``-th call whole, and between them only the last
    ``branch + 1`` layers of the last up block, from its cached input, and the first ``branch`` layers of the
    first down block, whose features they read. ``blocks`` are layers.

    ``dipgo-compile mask make deepcache`` keeps whole blocks instead, which is more than the package computes.
    """
    up_block, last = blocks[-1].split(".")[1], int(blocks[-1].split(".")[-1])
    layers = {f"up_blocks.{up_block}": range(last - branch, last + 1), "down_blocks.0": range(branch)}
    computed = {
        f"{block}.{kind}.{index}"
        for block, indices in layers.items()
        for kind in ("resnets", "attentions")
        for index in indices
    }
    shallow = tuple(block in computed for block in blocks)
    whole = (True,) * len(blocks)
    return tuple(whole if call % interval == 0 else shallow for call in range(calls))


def _all(model: Model, steps: int) -> Mask:
    blocks = model.blocks()
    return _mask(model, steps, blocks, lambda calls: heuristics.every(calls, len(blocks), 1), method="all")


def _deepcache(model: Model, steps: int) -> Mask:
    blocks = model.blocks("layer")
    return _mask(
        model,
        steps,
        blocks,
        lambda calls: deepcache(blocks, calls, DEEPCACHE_INTERVAL),
        method="deepcache",
        interval=DEEPCACHE_INTERVAL,
        branch=0,
    )


def _mask(
    model: Model, steps: int, blocks: tuple[str, ...], rule: Callable[[int], Keep], **provenance: object
) -> Mask:
    schedule = scheduler_ref(SCHEDULER, model, steps)
    return Mask(
        model=ModelRef(model.source, model.class_name, model.config_sha256),
        scheduler=schedule,
        blocks=blocks,
        keep=rule(len(schedule.timesteps)),
        provenance=provenance,
    )
