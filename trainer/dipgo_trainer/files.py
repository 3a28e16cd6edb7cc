"""What a run leaves on disk, beside the mask: a log, a checkpoint, two pictures. Every write is whole or not
at all."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dipgo_compile.errors import InputError


@dataclass(frozen=True)
class StepRecord:
    """One line of the log. ``kept``: the MACs share of the step's cascaded gates. ``seconds``: of this
    step."""

    step: int
    loss: float
    consistency: float
    sparsity: float
    kept: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class RunFiles:
    """Where a run writes."""

    mask: Path
    log: Path
    checkpoint: Path
    loss_curve: Path
    heatmap: Path

    @classmethod
    def beside(cls, mask: Path, log: Path | None = None) -> RunFiles:
        """``mask.json`` gets ``mask.log.jsonl``, ``mask.checkpoint.pt``, ``mask.loss.png`` and
        ``mask.heatmap.png``."""
        if not mask.parent.is_dir():
            raise InputError(
                f"the directory {mask.parent} does not exist", where=mask, mend="create it first"
            )
        return cls(
            mask,
            log or mask.with_suffix(".log.jsonl"),
            mask.with_suffix(".checkpoint.pt"),
            mask.with_suffix(".loss.png"),
            mask.with_suffix(".heatmap.png"),
        )


def append_record(path: Path, record: StepRecord) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read_records(path: Path) -> list[StepRecord]:
    """The log so far; a last line that a crash cut short is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(StepRecord(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return records


def write_records(path: Path, records: list[StepRecord]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(
            "".join(json.dumps(asdict(record)) + "\n" for record in records), encoding="utf-8"
        )


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors and plain values only: loading a checkpoint runs no code. Raises InputError."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(
            "there is no checkpoint to resume from", where=path, mend="start without --resume"
        ) from error
    except Exception as error:  # torch raises pickle, zip and runtime errors for damaged files
        raise InputError(
            f"cannot read the checkpoint: {error}", where=path, mend="start without --resume"
        ) from error
    return state


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place on success and is removed on failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back for a few statements that must all happen or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    pending = []
    before = signal.signal(signal.SIGINT, lambda *_: pending.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt
