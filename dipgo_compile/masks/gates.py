"""The gate files that DiP-GO's authors released, as masks.

Such a file is a pickle: a list with one dict per step, from ``(kind, "block", index, 0)`` to a tensor of two
floats (reuse, keep). ``kind`` is down, mid or up; up blocks are numbered from the output, so the last index
is ``up_blocks.0``. A pickle can run code, so nothing is unpickled but plain containers and tensors.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from dipgo_compile.errors import MaskError
from dipgo_compile.mask import Keep, Mask, ModelRef, SchedulerRef
from dipgo_compile.models.source import Model


def import_gates(path: str | os.PathLike[str], model: Model, scheduler: SchedulerRef) -> Mask:
    """A mask from a released gate file. A block is kept where its keep score is above its reuse score.

    The first call is whole whatever the file says: nothing was computed before it. Raises MaskError for a
    pickle that asks for more than tensors, and for gates that don't fit the model or the schedule.
    """
    data = _read(path)
    gates = _unpickle(data, path)
    blocks = model.blocks("block")
    calls = len(scheduler.timesteps)
    if len(gates) != calls:
        raise MaskError(
            f"gates for {len(gates)} calls, but {scheduler.class_name} makes {calls}",
            where=path,
            mend="give the scheduler and the number of steps that the gates were made for",
        )
    rows = [_row(step, blocks, f"{path}: step {index}") for index, step in enumerate(gates)]
    keep: Keep = ((True,) * len(blocks), *rows[1:])
    return Mask(
        model=ModelRef(model.source, model.class_name, model.config_sha256),
        scheduler=scheduler,
        blocks=blocks,
        keep=keep,
        provenance={
            "method": "dip-go",
            "blocks": "block",
            "gates": Path(path).name,
            "gates_sha256": hashlib.sha256(data).hexdigest(),
        },
    )


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MaskError(
            f"cannot read the gates: {error.strerror}", where=path, mend="check the path"
        ) from error


def _unpickle(data: bytes, path: str | os.PathLike[str]) -> list[Any]:
    try:
        gates = _GateUnpickler(io.BytesIO(data)).load()
    except MaskError as error:
        raise MaskError(error.what, where=path, available=error.available, mend=error.mend) from error
    except Exception as error:  # damaged pickles raise almost anything
        raise MaskError(f"not a gate file: {error or type(error).__name__}", where=path) from error
    if not isinstance(gates, list) or not all(isinstance(step, dict) for step in gates):
        raise MaskError("not a gate file: a list of dicts is expected, one for each step", where=path)
    return gates


def _row(step: Mapping[Any, Any], blocks: Sequence[str], where: str) -> tuple[bool, ...]:
    ups = sum(1 for key in step if isinstance(key, tuple) and key[:1] == ("up",))
    kept = {}
    for key, scores in step.items():
        if not (isinstance(scores, torch.Tensor) and scores.numel() == 2):
            raise MaskError(f"the gate of {key!r} is not a tensor of two scores", where=where)
        reuse, keep = scores.flatten().tolist()
        kept[_scope(key, ups, where)] = keep > reuse
    if kept.keys() != set(blocks):
        raise MaskError(
            f"gates for {', '.join(sorted(kept))}",
            where=where,
            available=blocks,
            mend="import the gates for the model that they were trained with",
        )
    return tuple(kept[block] for block in blocks)


def _scope(key: Any, ups: int, where: str) -> str:
    match key:
        case ("down", _, int(index), *_):
            return f"down_blocks.{index}"
        case ("mid", *_):
            return "mid_block"
        case ("up", _, int(index), *_):
            return f"up_blocks.{ups - 1 - index}"
    raise MaskError(
        f"unknown gate {key!r}", where=where, available=('("down" | "mid" | "up", "block", index, 0)',)
    )


def _load_storage(data: bytes) -> Any:
    """Instead of ``torch.storage._load_from_bytes``, which would unpickle without restrictions."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class _GateUnpickler(pickle.Unpickler):
    ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = {
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("torch.storage", "_load_from_bytes"): _load_storage,
        ("collections", "OrderedDict"): OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise MaskError(
                f"the pickle asks for {module}.{name}, which a gate file has no use for",
                available=(".".join(known) for known in self.ALLOWED),
                mend="don't trust this file",
            )
        return self.ALLOWED[module, name]
