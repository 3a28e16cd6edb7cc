"""The unpruned denoiser as one ONNX graph in the plan's backend, provider and precision: the baseline a
compiler has to beat.

As good as that backend makes it: the options that engines get, buffers bound once, the schedule a table of
coefficients, and nothing allocated per call. A guided batch is computed whole, also where the plan splits it:
that is the faster way to compute everything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dipgo_compile.backends.base import Backend, EngineSession, Memory
from dipgo_compile.backends.registry import make_backend
from dipgo_compile.bundle import open_bundle
from dipgo_compile.executor import aligned
from dipgo_compile.measure.rows import DENSE, SCHEDULE, SHAPES, Image, Job
from dipgo_compile.plan import Plan
from dipgo_compile.program import Array
from dipgo_compile.schedules.table import Schedule, ScheduleStep, ScheduleTerm, Start


def load(job: Job) -> Image:
    return loop(job, make_backend(open_bundle(job.bundle, verify=False).plan.target))


def loop(job: Job, backend: Backend) -> DenseLoop:
    """The row in a backend, which need not be the plan's."""
    plan = open_bundle(job.bundle, verify=False).shaped(job.shape).plan
    workspace = Path(job.workspace)
    shapes = json.loads((workspace / SHAPES).read_text())
    inputs, outputs = tuple(shapes["inputs"]), tuple(shapes["outputs"])
    engine = backend.open_file("dense", workspace / DENSE, inputs, outputs, job.threads, cuda_graphs=True)
    (predicted,) = shapes["outputs"].values()
    schedule = read_schedule(workspace / SCHEDULE)
    timestep = _empty(shapes["inputs"][plan.interface.timestep], shapes["timestep"])
    return DenseLoop(
        plan,
        engine,
        shapes["inputs"],
        predicted,
        timestep,
        schedule,
        job.guidance_scale,
        *job.inputs(),
        job.image_latents(),
        backend.memory(),
    )


class DenseLoop:
    """Denoising with every call computed. Buffers live as long as the loop; the result is a copy."""

    def __init__(
        self,
        plan: Plan,
        engine: EngineSession,
        shapes: Mapping[str, Sequence[int]],
        predicted: Sequence[int],
        timestep: Array,
        schedule: Schedule,
        guidance_scale: float | None,
        latents: Array,
        conditions: dict[str, Array],
        draws: Sequence[Array],
        image_latents: Array | None = None,
        memory: Memory | None = None,
    ) -> None:
        interface = plan.interface
        self._schedule, self._scale = schedule, guidance_scale
        self._latents, self._image_latents = latents, image_latents
        self._sample = _empty(shapes[interface.sample])
        self._timestep = timestep
        self._noise_pred = _empty(predicted)
        given = {interface.sample: self._sample, interface.timestep: self._timestep, **conditions}
        changing = (interface.sample, interface.timestep)
        self._run = bound(engine, {name: given[name] for name in shapes}, self._noise_pred, changing, memory)

        images = len(latents)
        noise = self._noise_pred[:, : latents.shape[1]]  # further channels, as DiT's, predict the variance
        order = interface.guidance or ("cond",)
        parts = {half: noise[i * images : (i + 1) * images] for i, half in enumerate(order)}
        self._cond, self._uncond = parts["cond"], parts.get("uncond")
        self._samples = [np.empty_like(latents) for _ in range(len(schedule.steps) + 1)]
        self._noises = [np.empty_like(latents) for _ in schedule.steps]
        self._scratch = np.empty_like(latents)
        read = sorted({t.index for step in schedule.steps for t in step.terms if t.kind == "noise"})
        self._draws = dict(zip(read, draws, strict=True))

    def __call__(self, calls: int | None = None) -> Array | None:
        self._begin(self._samples[0])
        images = len(self._latents)
        steps = self._schedule.steps[:calls]
        for call, step in enumerate(steps):
            np.multiply(self._samples[call], step.input_scale, out=self._sample[:images])
            if self._uncond is not None:
                np.copyto(self._sample[images:], self._sample[:images])
            self._timestep.fill(step.timestep)
            self._run()
            self._guide(self._noises[call])
            self._advance(call, step)
        return self._samples[-1].copy() if len(steps) == len(self._schedule.steps) else None

    def _begin(self, out: Array) -> None:
        start = self._schedule.start
        if start is None or self._image_latents is None:
            np.multiply(self._latents, self._schedule.init_noise_sigma, out=out)
            return
        np.multiply(self._image_latents, start.image, out=out)
        np.multiply(self._latents, start.noise, out=self._scratch)
        np.add(out, self._scratch, out=out)

    def _guide(self, out: Array) -> None:
        if self._uncond is None or self._scale is None:
            np.copyto(out, self._cond)
            return
        np.subtract(self._cond, self._uncond, out=out)
        np.multiply(out, self._scale, out=out)
        np.add(out, self._uncond, out=out)

    def _advance(self, call: int, step: ScheduleStep) -> None:
        target = self._samples[call + 1]
        (first, *rest) = step.terms
        np.multiply(self._tensor(first), first.coefficient, out=target)
        for term in rest:
            np.multiply(self._tensor(term), term.coefficient, out=self._scratch)
            np.add(target, self._scratch, out=target)

    def _tensor(self, term: ScheduleTerm) -> Array:
        if term.kind == "sample":
            return self._samples[term.index]
        return self._noises[term.index] if term.kind == "noise_pred" else self._draws[term.index]


def bound(
    engine: EngineSession,
    inputs: Mapping[str, Array],
    output: Array,
    changing: Sequence[str],
    memory: Memory | None,
) -> Callable[[], None]:
    """A run of the whole denoiser. On a device, what changes from call to call is sent there before it, and
    the answer is fetched after it; the rest stays.
    """
    if memory is None:
        return engine.bind(list(inputs.values()), [output])
    placed = {name: memory.constant(array) for name, array in inputs.items()}
    answer = memory.constant(output)
    run = engine.bind(list(placed.values()), [answer])

    def step() -> None:
        for name in changing:
            memory.upload(inputs[name], placed[name])
        run()
        memory.download(answer, output)

    return step


def read_schedule(file: Path) -> Schedule:
    """The inverse of ``json.dumps(dataclasses.asdict(schedule))``."""
    document = json.loads(file.read_text())
    steps = tuple(
        ScheduleStep(s["timestep"], s["input_scale"], tuple(ScheduleTerm(**t) for t in s["terms"]))
        for s in document.pop("steps")
    )
    start = document.pop("start")
    return Schedule(**document, steps=steps, start=start and Start(**start))


def _empty(shape: Sequence[int], dtype: str = "float32") -> Array:
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory: Array = aligned(nbytes).view(dtype).reshape(tuple(shape))
    return memory
