"""The masks that scenarios name: made by rule here, or read from a file of ``masks/``."""

from __future__ import annotations

from collections.abc import Callable

from dipgo_compile import heuristics
from dipgo_compile.mask import Keep, Mask, ModelRef
from dipgo_compile.models.source import Model
from dipgo_compile.schedulers import scheduler_ref

STEPS, SCHEDULER = 50, "ddim"
DEEPCACHE_INTERVAL = 5


def make(name: str, model: Model, steps: int = STEPS) -> Mask:
    """``all``, ``deepcache`` or a mask file, whose schedule is its own. Raises MaskError."""
    made = {"all": _all, "deepcache": _deepcache}.get(name)
    return Mask.load(name) if made is None else made(model, steps)


def deepcache(blocks: tuple[str, ...], calls: int, interval: int) -> Keep:
    """What the DeepCache package computes with ``cache_branch_id`` 0: every ``interval``-th call whole, and
    between them only the last layer of the last up block, from the features of ``conv_in`` and its cached
    input. ``blocks`` are layers.

    ``dipgo-compile mask make deepcache`` keeps whole blocks instead, which is more than the package computes.
    """
    shallow = tuple(block in _last_layer(blocks) for block in blocks)
    whole = (True,) * len(blocks)
    return tuple(whole if call % interval == 0 else shallow for call in range(calls))


def _last_layer(blocks: tuple[str, ...]) -> frozenset[str]:
    """The last up block's last residual block and, where it has one, the attention behind it."""
    *up_block, _, layer = blocks[-1].split(".")
    kinds = ("resnets", "attentions")
    return frozenset(".".join((*up_block, kind, layer)) for kind in kinds) & frozenset(blocks)


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
