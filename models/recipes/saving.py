"""Saving that a kill at any moment cannot spoil: write beside the target, then rename."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn


def replace_directory(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a copy of `target` (or a new directory), then swap the copy into its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        staging.chmod(0o755)
        if target.is_dir():
            shutil.copytree(target, staging, dirs_exist_ok=True)
        write(staging)
    except BaseException:
        shutil.rmtree(staging)
        raise
    retired = staging.with_name(staging.name + "-old")
    if target.is_dir():
        target.rename(retired)
    staging.rename(target)
    shutil.rmtree(retired, ignore_errors=True)


def replace_file(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new file, then rename it to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write(staging)
        os.replace(staging, target)
    finally:
        staging.unlink(missing_ok=True)


def write_json(target: Path, content: Any) -> None:
    """Write `content` as indented JSON with a final newline."""
    replace_file(target, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))


def save_pipeline(pipeline: DiffusionPipeline, target: Path) -> None:
    """Save a copy of `pipeline` as fp16 safetensors; loading it without a dtype gives float32 throughout."""
    half = copy.deepcopy(pipeline)
    for component in half.components.values():
        if isinstance(component, nn.Module):
            component.half()

    def write(directory: Path) -> None:
        half.save_pretrained(directory)
        # transformers loads in the dtype its config names, diffusers in float32: make the two agree.
        config_path = directory / "text_encoder" / "config.json"
        if config_path.exists():
            write_json(config_path, {**json.loads(config_path.read_text()), "dtype": "float32"})

    replace_directory(target, write)
