"""What an image costs in MACs, and which blocks cost it: the report of ``dipgo-compile macs``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dipgo_compile.errors import InputError
from dipgo_compile.macs.counts import Macs, count_macs
from dipgo_compile.mask import Mask
from dipgo_compile.masks.checks import check_model
from dipgo_compile.models.source import Model


@dataclass(frozen=True)
class Count:
    """What is counted. ``height`` and ``width`` are pixels (None: the model's own).

    ``calls``: denoiser calls of an image. ``images`` are counted together, each twice with ``guidance``.
    ``attention``: with the products inside attention.
    """

    calls: int = 1
    images: int = 1
    guidance: bool = False
    height: int | None = None
    width: int | None = None
    attention: bool = False

    @property
    def samples(self) -> int:
        """Samples of the denoiser's batch."""
        return self.images * (2 if self.guidance else 1)


@dataclass(frozen=True)
class ImageMacs:
    """``macs``: of one call for one sample. ``computed``: how many calls compute a block, by its scope; None
    without a mask. ``kept``: of all calls and samples.
    """

    model: str
    height: int
    width: int
    count: Count
    macs: Macs
    computed: dict[str, int] | None
    kept: int

    @property
    def dense(self) -> int:
        """Of all calls and samples when every block is computed."""
        return self.count.calls * self.count.samples * self.macs.total

    def to_json(self) -> dict[str, Any]:
        blocks = [{"name": name, "macs": macs} for name, macs in self.macs.by_scope.items()]
        if self.computed is not None:
            blocks = [{**block, "calls": self.computed[str(block["name"])]} for block in blocks]
        return {
            "model": self.model,
            "height": self.height,
            "width": self.width,
            "images": self.count.images,
            "samples": self.count.samples,
            "attention": self.count.attention,
            "blocks": blocks,
            "outside_blocks": self.macs.glue,
            "call": self.macs.total,
            "calls": self.count.calls,
            "dense": self.dense,
            "kept": self.kept,
        }

    def to_text(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        attention = "with" if self.count.attention else "without"
        yield f"{self.model}, {self.height}x{self.width}, MACs of a call for one sample"
        yield f"({attention} the products inside attention):"
        yield ""
        macs = self.macs
        parts = {**macs.by_scope, "outside the blocks": macs.glue, "a call": macs.total}
        width = max(map(len, parts))
        for name, part in parts.items():
            calls = (self.computed or {}).get(name)
            at = "" if calls is None else f"   at {calls} calls"
            yield f"{name:<{width}} {part / 1e9:12.3f} G {part / macs.total:7.1%}{at}"
        yield ""
        samples = f" of {self.count.samples} samples" if self.count.samples > 1 else ""
        yield f"{self.count.calls} calls{samples}: {self.dense / 1e12:.3f} T"
        if self.computed is not None:
            yield f"kept by the mask: {self.kept / 1e12:.3f} T, {self.kept / self.dense:.1%}"


def count_image(
    model: Model, count: Count, *, granularity: str = "block", mask: Mask | None = None
) -> ImageMacs:
    """MACs of the blocks of a granularity, or of ``mask``. Raises InputError when the mask has another number
    of calls, MaskError when it is for another model.
    """
    geometry = model.geometry(1, count.height, count.width)
    blocks = model.blocks(granularity) if mask is None else mask.blocks
    reuse = "output" if mask is None else mask.reuse
    macs = count_macs(model, geometry, blocks, reuse, attention=count.attention)
    computed, kept = None, count.calls * macs.total
    if mask is not None:
        if mask.calls != count.calls:
            raise InputError(f"{count.calls} calls were asked for, the mask has {mask.calls}")
        check_model(mask.model, model)
        computed = {block: sum(row[index] for row in mask.keep) for index, block in enumerate(blocks)}
        kept = mask.kept_macs(macs)
    scale = model.vae_scale_factor
    return ImageMacs(
        model.source,
        geometry.height * scale,
        geometry.width * scale,
        count,
        macs,
        computed,
        kept * count.samples,
    )
