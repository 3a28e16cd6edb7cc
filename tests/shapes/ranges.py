"""Bundles for several numbers of images and two sizes, of a tiny U-Net and a tiny DiT."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dipgo_compile.build import BuildOptions, build
from dipgo_compile.mask import Mask, ModelRef
from dipgo_compile.models.source import Model
from dipgo_compile.runtime import Runtime
from dipgo_compile.schedules.schedulers import scheduler_ref
from tests.families.tiny import make

STEPS = 4
SIZES = {"bk-sdm-small": ((8, 8), (8, 12)), "dit": ((8, 8), (12, 12))}


@dataclass(frozen=True)
class Case:
    model: Model
    mask: Mask
    path: Path
    runtime: Runtime


def random_mask(model: Model) -> Mask:
    generator = random.Random(1)
    blocks, schedule = model.blocks("block"), scheduler_ref(None, model, STEPS)
    rows = [[generator.random() < 0.6 for _ in blocks] for _ in schedule.timesteps[1:]]
    keep = ((True,) * len(blocks), *(tuple(row) for row in rows))
    ref = ModelRef(model.source, model.class_name, model.config_sha256)
    return Mask(ref, schedule, blocks, keep, provenance={"blocks": "block"})


def make_case(name: str, batches: tuple[int, ...], directory: Path) -> Iterator[Case]:
    model = make(name)
    mask, path = random_mask(model), directory / f"{name}.dipgo"
    build(mask, model=model, output=path, options=BuildOptions(batches=batches, sizes=SIZES[name]))
    with Runtime.load(path, threads=1) as runtime:
        yield Case(model, mask, path, runtime)
