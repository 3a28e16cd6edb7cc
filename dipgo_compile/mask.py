"""Masks: which blocks of a denoiser are computed at which call, and which reuse their last output.

The file format is ``schema/mask.schema.json``. A mask also names the model and the scheduler it was made for,
so a mask file is all a build needs, and a mask for another model is refused instead of silently giving noise.
What is refused, and in which words, is in ``masks/checks.py``.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from dipgo_compile.errors import MaskError
from dipgo_compile.masks import checks

if TYPE_CHECKING:
    from dipgo_compile.macs.counts import Macs
    from dipgo_compile.models import Denoiser

FORMAT = "dipgo.mask"
VERSION = 1
Keep: TypeAlias = tuple[tuple[bool, ...], ...]
Reuse: TypeAlias = Literal["output", "residual"]
REUSES: tuple[str, ...] = get_args(Reuse)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model a mask was made for: where it came from, its denoiser's class and its architecture.

    ``onnx``: how to read an ONNX file (``models/reading.py``); empty for other models.
    """

    source: str
    class_name: str
    config_sha256: str
    onnx: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class SchedulerRef:
    """The schedule a mask was made for. ``timesteps``: one per denoiser call, in the order of the calls."""

    class_name: str
    config: Mapping[str, Any] = field(hash=False)
    num_inference_steps: int
    timesteps: tuple[float, ...]


@dataclass(frozen=True)
class Mask:
    """``keep[call][block]`` is true where the block is computed, false where it reuses what it gave last.

    Raises MaskError when the rows don't fit the timesteps and the blocks, or when the first call isn't whole:
    there is nothing to reuse yet.
    """

    model: ModelRef
    scheduler: SchedulerRef
    blocks: tuple[str, ...]
    keep: Keep
    reuse: Reuse = "output"
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        checks.check_blocks(self.blocks)
        checks.check_keep(self.keep, self.blocks, len(self.scheduler.timesteps))
        if self.reuse not in REUSES:
            raise MaskError(f"unknown kind of reuse {self.reuse!r}", where="reuse", available=REUSES)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Mask:
        """Read a mask file. Raises MaskError."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise MaskError(
                f"cannot read the mask: {error.strerror}", where=path, mend="check the path"
            ) from error
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
            raise MaskError(
                f"the mask is not JSON: {error}",
                where=path,
                mend="pass a mask.json; `dipgo-compile mask import` turns released gate files into one",
            ) from error
        try:
            return cls.from_json(document)
        except MaskError as error:
            raise MaskError(
                error.what, where=f"{path}: {error.where}", available=error.available, mend=error.mend
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a mask file, whole or not at all. Raises MaskError."""
        target = Path(path)
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
            ) as file:
                temporary = file.name
                file.write(self.to_text())
            os.chmod(temporary, 0o644)  # mkstemp makes files private
            os.replace(temporary, target)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise MaskError(
                f"cannot write the mask: {error.strerror}", where=path, mend="choose a writable directory"
            ) from error

    @classmethod
    def from_json(cls, document: Any) -> Mask:
        """A mask from the parsed JSON document. Raises MaskError naming the field."""
        checks.check_document(document, FORMAT, VERSION)
        model, scheduler = document["model"], document["scheduler"]
        return cls(
            model=ModelRef(model["source"], model["class"], model["config_sha256"], model.get("onnx", {})),
            scheduler=SchedulerRef(
                scheduler["class"],
                scheduler["config"],
                scheduler["num_inference_steps"],
                tuple(float(timestep) for timestep in scheduler["timesteps"]),
            ),
            blocks=tuple(document["blocks"]),
            keep=tuple(tuple(character == "1" for character in row) for row in document["keep"]),
            reuse=cast(Reuse, document.get("reuse", "output")),
            provenance=document.get("provenance", {}),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON document, in the order of the format's description."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": {
                "source": self.model.source,
                "class": self.model.class_name,
                "config_sha256": self.model.config_sha256,
                **({"onnx": dict(self.model.onnx)} if self.model.onnx else {}),
            },
            "scheduler": {
                "class": self.scheduler.class_name,
                "config": dict(self.scheduler.config),
                "num_inference_steps": self.scheduler.num_inference_steps,
                "timesteps": [int(t) if t.is_integer() else t for t in self.scheduler.timesteps],
            },
            "blocks": list(self.blocks),
            "reuse": self.reuse,
            "keep": list(self.rows),
            "provenance": dict(self.provenance),
        }

    def to_text(self) -> str:
        """The file's text: one field a line, and one call a line in ``keep``, so that diffs are readable."""
        fields = []
        for name, value in self.to_json().items():
            text = json.dumps(value)
            if name == "keep":
                text = "[\n" + ",\n".join(f"    {json.dumps(row)}" for row in value) + "\n  ]"
            fields.append(f"  {json.dumps(name)}: {text}")
        return "{\n" + ",\n".join(fields) + "\n}\n"

    @property
    def rows(self) -> tuple[str, ...]:
        """``keep`` as text: one string of ``1`` and ``0`` per call."""
        return tuple("".join("01"[kept] for kept in row) for row in self.keep)

    @property
    def calls(self) -> int:
        """The number of denoiser calls."""
        return len(self.keep)

    @property
    def idle_calls(self) -> tuple[int, ...]:
        """The calls that compute no block."""
        return tuple(call for call, row in enumerate(self.keep) if not any(row))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The distinct rows, in the order of their first call."""
        return tuple(dict.fromkeys(self.rows))

    @property
    def kept_by_block(self) -> tuple[float, ...]:
        """For each block, the share of the calls that compute it."""
        return tuple(sum(column) / self.calls for column in zip(*self.keep, strict=True))

    @property
    def kept_by_call(self) -> tuple[float, ...]:
        """For each call, the share of the blocks that it computes."""
        return tuple(sum(row) / len(self.blocks) for row in self.keep)

    @property
    def kept_by_third(self) -> tuple[float, ...]:
        """The share of the blocks that the first, the middle and the last third of the calls compute.

        The thirds of fewer than three calls overlap.
        """
        edges = [index * self.calls // 3 for index in range(4)]
        thirds = [self.kept_by_call[start : max(end, start + 1)] for start, end in pairwise(edges)]
        return tuple(sum(third) / len(third) for third in thirds)

    def kept_macs(self, macs: Macs) -> int:
        """Multiply-accumulates of all calls, per denoiser sample: see ``Macs.of_call``."""
        return sum(macs.of_call(compress(self.blocks, row)) for row in self.keep)

    def macs_ratio(self, macs: Macs) -> float:
        """Kept MACs over the MACs of the unpruned calls; its inverse is the ideal speedup."""
        return self.kept_macs(macs) / (self.calls * macs.total)

    def from_call(self, first: int) -> Mask:
        """This mask for a loop that begins with the call ``first``, as image-to-image does. The calls before
        are dropped; the first that is made computes everything, as there is nothing to reuse yet.
        """
        timesteps = self.scheduler.timesteps[first:]
        whole = (True,) * len(self.blocks)
        return replace(
            self,
            scheduler=replace(self.scheduler, timesteps=timesteps),
            keep=(whole, *self.keep[first + 1 :]),
        )

    def legalized(self, consumers: Mapping[str, frozenset[str | None]]) -> Mask:
        """This mask after the gate cascade: see ``legalize``."""
        return replace(self, keep=legalize(self.keep, self.blocks, consumers))

    def check_against(self, model: Denoiser, scopes: Sequence[str]) -> None:
        """Refuse a mask that was made for another model. ``scopes``: the denoiser's, in execution order.

        A mask lists all blocks of a granularity, or all scopes that the regular expression in its
        ``provenance["blocks"]`` matches. Raises MaskError.
        """
        checks.check_model(self.model, model)
        checks.check_scopes(self.blocks, scopes)
        checks.check_complete(self.blocks, self.provenance.get("blocks"), model, scopes)


def legalize(keep: Keep, blocks: Sequence[str], consumers: Mapping[str, frozenset[str | None]]) -> Keep:
    """The gate cascade (paper, section 3.2): a block whose every consumer is reused is itself reused.

    ``consumers`` maps each block to the scopes that read its outputs (``BlockGraph.consumers``). None among
    them stands for the noise prediction; it and scopes outside ``blocks`` are never reused. Blocks are walked
    from the output backwards within each call; the first call stays whole. Raises MaskError for a block that
    ``consumers`` doesn't know.
    """
    for block in blocks:
        if block not in consumers:
            raise checks.unknown_block(block, consumers)
    prunable = frozenset(blocks)

    def cascade(row: tuple[bool, ...]) -> tuple[bool, ...]:
        kept = {block for block, keeps in zip(blocks, row, strict=True) if keeps}
        for block in reversed(blocks):
            if not any(reader not in prunable or reader in kept for reader in consumers[block]):
                kept.discard(block)
        return tuple(block in kept for block in blocks)

    return (*keep[:1], *(cascade(row) for row in keep[1:]))
