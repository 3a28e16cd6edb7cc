"""The bundle that is altered: the toy of ``tests/runtime`` with one of everything that a plan can say.

To the toy it adds a prologue, which its denoiser has no use for: ``prompt = text * gain``. What it can't say
is split guidance: beside it lies the compiler's toy, compiled with it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import helper

from dipgo_compile.bundle import write_bundle
from dipgo_compile.plan import Plan
from dipgo_compile.program import PROLOGUE, Engine, Run, TensorSpec
from dipgo_compile.runtime import Runtime
from tests.corpus.alteration import PLAN, Json
from tests.cpp.compiled import compiled
from tests.runtime import toy

GAIN = np.linspace(0.5, 1.5, 5, dtype=np.float32)


@dataclass(frozen=True)
class Base:
    """``path`` holds the bundle, with engines already packed for this machine. Beside it lies ``outside``, a
    directory with copies of its files: reading those is leaving the bundle, and would go unnoticed otherwise.
    """

    path: Path

    @property
    def outside(self) -> Path:
        return self.path.parent / "outside"

    @property
    def split(self) -> Path:
        return self.path.parent / "split.dipgo"

    def document(self) -> Json:
        document: Json = json.loads((self.path / PLAN).read_text(encoding="utf-8"))
        return document


def make_base(directory: Path) -> Base:
    base = Base(directory / "base.dipgo")
    write_bundle(base.path, plan(), write_engines, toy.MASK)
    ddim = ("DDIMScheduler", {"clip_sample": False})
    compiled(base.split, *ddim, ["11", "01", "11"], guided=True, fuse="patterns", split=True)
    base.outside.mkdir()
    for file in base.path.iterdir():
        os.link(file, base.outside / file.name)
    Runtime.load(base.path, backend="onnxruntime", threads=1).close()  # leaves the cache
    return base


def plan() -> Plan:
    given = toy.plan()
    prologue = Run("prompt", PROLOGUE, ("text",), ("prompt",))
    instructions = tuple(
        replace(item, inputs=(*item.inputs[:-1], "prompt"))
        if isinstance(item, Run) and item.engine == "late"
        else item
        for item in given.program.instructions
    )
    program = replace(
        given.program,
        engines=(Engine("prompt", (), ("text",), ("prompt",)), *given.program.engines),
        specs={**given.program.specs, "prompt": TensorSpec("float32", toy.TEXT)},
        instructions=(prologue, *instructions),
    )
    return replace(
        given,
        program=program,
        memory=toy.memory(program),
        engine_files={"prompt": "prompt.onnx", **given.engine_files},
        engine_macs={"prompt": 30, "early": 64},
    )


def write_engines(directory: Path) -> None:
    toy.write_engines(directory)
    multiply = helper.make_node("Mul", ["text", "gain"], ["prompt"])
    toy.save_engine(
        directory, "prompt", [multiply], [("text", toy.TEXT)], [("prompt", toy.TEXT)], {"gain": GAIN}
    )
