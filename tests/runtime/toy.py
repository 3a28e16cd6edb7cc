"""A hand-made plan small enough to compute on paper: four guided calls of a denoiser with two blocks.

One engine per block: ``early`` is ``h = scale * x + t`` and, for a consumer that never comes, ``spare = -h``;
``late`` is ``e = h + x + mean(text) + bias``. Call 1 reuses ``early``, so ``late`` reads call 0's ``h``; call
3 computes nothing. The scheduler step is ``x - 0.5 * guided(e)``, and call 0's adds ``0.1 * draw``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dipgo_compile.bundle import write_bundle
from dipgo_compile.plan import Interface, PassReport, Plan, Target
from dipgo_compile.program import (
    Allocation,
    Call,
    Coefficient,
    Combine,
    Engine,
    MemoryPlan,
    Program,
    Run,
    Slice,
    TensorSpec,
    Term,
    reads,
    writes,
)

LATENTS = (1, 2, 4, 4)
GUIDED = (2, 2, 4, 4)
TEXT = (2, 3, 5)
SCALE = np.linspace(0.5, 1.5, 2, dtype=np.float32).reshape(1, 2, 1, 1)
BIAS = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 4, 4)
TIMES = {0: 0.25, 2: 0.75}
TIMESTEPS = (981.0, 500.5, 300.0, 1.0)
MASK = '{"format": "dipgo.mask"}'


def shapes(images: int) -> tuple[tuple[int, ...], ...]:
    """Those of latents, samples and text."""
    return (images, *LATENTS[1:]), (2 * images, *GUIDED[1:]), (2 * images, *TEXT[1:])


def program(images: int = 1) -> Program:
    latents, guided, text = shapes(images)
    uncond, cond = (Slice(0, 0, images),), (Slice(0, images, 2 * images),)

    def step(index: int, noise_pred: str, *extra: Term) -> Combine:
        terms = (
            Term(f"x{index}", Coefficient(1.0)),
            Term(noise_pred, Coefficient(-0.5, 0.5), uncond),  # -0.5 * (1 - g)
            Term(noise_pred, Coefficient(0.0, -0.5), cond),  # -0.5 * g
            *extra,
        )
        return Combine(terms, f"x{index + 1}")

    instructions = (
        Combine((Term("latents", Coefficient(2.0)),), "x0"),
        Combine((Term("x0", Coefficient(1.0)),), "s0"),
        Run("early", 0, ("s0", "t0"), ("h0", None)),
        Run("late", 0, ("h0", "s0", "text"), ("e0",)),
        step(0, "e0", Term("draw", Coefficient(0.1))),
        Combine((Term("x1", Coefficient(0.5)),), "s1"),
        Run("late", 1, ("h0", "s1", "text"), ("e1",)),
        step(1, "e1"),
        Combine((Term("x2", Coefficient(0.25)),), "s2"),
        Run("early", 2, ("s2", "t2"), ("h2", None)),
        Run("late", 2, ("h2", "s2", "text"), ("e2",)),
        step(2, "e2"),
        step(3, "e2"),
    )
    f32 = "float32"
    specs = {
        "latents": TensorSpec(f32, latents),
        "text": TensorSpec(f32, text),
        "draw": TensorSpec(f32, latents),
        **{f"t{call}": TensorSpec(f32, (1,)) for call in TIMES},
        **{f"x{index}": TensorSpec(f32, latents) for index in range(5)},
        **{name: TensorSpec(f32, guided) for name in ("s0", "s1", "s2", "h0", "h2", "e0", "e1", "e2")},
    }
    return Program(
        engines=(
            Engine("early", ("conv_in", "down"), ("x", "t"), ("h", "spare")),
            Engine("late", ("up",), ("h", "x", "text"), ("e",)),
        ),
        specs=specs,
        inputs=("latents", "text", "draw"),
        constants={f"t{call}": np.array([time], np.float32) for call, time in TIMES.items()},
        instructions=instructions,
        calls=tuple(
            Call(timestep, sample, (noise_pred,))
            for timestep, sample, noise_pred in zip(
                TIMESTEPS, ("s0", "s1", "s2", None), ("e0", "e1", "e2", "e2"), strict=True
            )
        ),
        output="x4",
    )


def memory(program: Program) -> MemoryPlan:
    """First-fit with lifetimes, so that places are really shared."""
    spans = {name: [0, 0] for name in program.inputs}
    for index, instruction in enumerate(program.instructions):
        for name in writes(instruction):
            spans[name] = [index, index]
        for name in reads(instruction):
            if name in spans:
                spans[name][1] = index
    spans[program.output][1] = len(program.instructions)
    placed: dict[str, Allocation] = {}
    for name, (first, last) in spans.items():
        nbytes = program.specs[name].nbytes
        offset = 0
        for other in sorted(placed.values(), key=lambda place: place.offset):
            alive = other.first <= last and first <= other.last
            if alive and offset < other.offset + other.nbytes and other.offset < offset + nbytes:
                offset = -(-(other.offset + other.nbytes) // 64) * 64
        placed[name] = Allocation(offset, nbytes, first, last)
    return MemoryPlan(
        placed,
        max(place.offset + place.nbytes for place in placed.values()),
        sum(place.nbytes for place in placed.values()),
    )


def plan(images: int = 1, ending: str = "") -> Plan:
    """``ending`` is that of the engines' files."""
    made = program(images)
    return Plan(
        program=made,
        memory=memory(made),
        model={
            "source": "toy",
            "class": "UNet2DConditionModel",
            "config_sha256": "0" * 64,
            "config": {"in_channels": 2, "sample_size": 4, "time_cond_proj_dim": None},
        },
        interface=Interface("sample", "timestep", ("text",), "latents", ("draw",), ("uncond", "cond")),
        target=Target("cpu", "fp32"),
        schedule={"class": "ToyScheduler", "num_inference_steps": 4, "timesteps": list(TIMESTEPS)},
        macs={"dense": 40, "kept": 25},
        passes=(PassReport("apply_mask", True, "8 runs, 5 kept"),),
        engine_files={name: f"{name}{ending}.onnx" for name in ("early", "late")},
    )


def save_engine(
    directory: Path,
    name: str,
    nodes: list,
    inputs: list[tuple[str, tuple[int, ...]]],
    outputs: list[tuple[str, tuple[int, ...]]],
    weights: dict[str, np.ndarray],
) -> None:
    """One float32 engine file, its weights in ``weights.bin``."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs],
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(
        model,
        directory / f"{name}.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )


def write_engines(directory: Path, images: int = 1, ending: str = "") -> None:
    _, guided, text = shapes(images)
    save_engine(
        directory,
        f"early{ending}",
        [
            helper.make_node("Mul", ["x", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "t"], ["h"]),
            helper.make_node("Neg", ["h"], ["spare"]),
        ],
        [("x", guided), ("t", (1,))],
        [("h", guided), ("spare", guided)],
        {"scale": SCALE},
    )
    save_engine(
        directory,
        f"late{ending}",
        [
            # Axes stay in the file: ONNX Runtime infers shapes before it reads external data.
            helper.make_node("Constant", [], ["axes"], value_ints=[1, 2]),
            helper.make_node("Constant", [], ["last"], value_ints=[3]),
            helper.make_node("ReduceMean", ["text", "axes"], ["mean"], keepdims=1),
            helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
            helper.make_node("Add", ["h", "column"], ["conditioned"]),
            helper.make_node("Add", ["conditioned", "x"], ["skipped"]),
            helper.make_node("Add", ["skipped", "bias"], ["e"]),
        ],
        [("h", guided), ("x", guided), ("text", text)],
        [("e", guided)],
        {"bias": BIAS},
    )


def write_two_shapes(path: Path) -> Path:
    """A bundle for two images and for one."""
    ending = "-1x4x4"

    def write(directory: Path) -> None:
        write_engines(directory, images=2)
        write_engines(directory, images=1, ending=ending)

    write_bundle(path, plan(2), write, MASK, others=[plan(1, ending)])
    return path


def early(x: np.ndarray, call: int) -> np.ndarray:
    return x * SCALE + TIMES[call]


def late(h: np.ndarray, x: np.ndarray, text: np.ndarray) -> np.ndarray:
    return h + x + text.mean((1, 2), keepdims=True)[..., None] + BIAS


def expected(latents: np.ndarray, text: np.ndarray, draw: np.ndarray, scale: float) -> np.ndarray:
    """The program in plain numpy, in double precision."""
    latents, text, draw = (array.astype(np.float64) for array in (latents, text, draw))

    def guided(e: np.ndarray) -> np.ndarray:
        return e[:1] + scale * (e[1:] - e[:1])

    x = 2.0 * latents
    s = np.concatenate([x, x])
    h = early(s, 0)
    x = x - 0.5 * guided(late(h, s, text)) + 0.1 * draw
    s = 0.5 * np.concatenate([x, x])
    x = x - 0.5 * guided(late(h, s, text))
    s = 0.25 * np.concatenate([x, x])
    e = late(early(s, 2), s, text)
    x = x - 0.5 * guided(e)
    return x - 0.5 * guided(e)


def image(seed: int = 0, images: int = 1) -> dict[str, np.ndarray]:
    """Random inputs of one image, or of several together, by the program's names."""
    generator = np.random.default_rng(seed)
    latents, _, text = shapes(images)
    return {
        name: generator.standard_normal(shape, np.float32)
        for name, shape in (("latents", latents), ("text", text), ("draw", latents))
    }
