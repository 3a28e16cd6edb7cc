"""One process of the scenario ``overhead``: Python's runtime, timed inside and outside of ONNX Runtime.

``python -m benchmarks.overhead_worker BUNDLE INPUTS -o LATENTS`` makes one image and writes its latents: what
a process that makes one image costs. With ``--repeats`` it then makes more, in turns: one in a session whose
engines carry a clock, one in a session as users have it, so that what the clock costs can be seen. Both
sessions use the same engines. The result is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dipgo_compile.backends.base import EngineSession, LoadOptions
from dipgo_compile.backends.registry import make_backend
from dipgo_compile.bundle import open_bundle
from dipgo_compile.executor import Session
from dipgo_compile.plan import Plan
from dipgo_compile.program import Array

WARMUP = 3  # pairs of images before the first that counts


class Clock:
    """The seconds that engines took."""

    def __init__(self) -> None:
        self.seconds = 0.0


class TimedEngine:
    """An engine whose runs are added to a clock."""

    def __init__(self, engine: EngineSession, clock: Clock) -> None:
        self._engine, self._clock = engine, clock

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> Callable[[], None]:
        run, clock, now = self._engine.bind(inputs, outputs), self._clock, time.perf_counter

        def timed() -> None:
            begin = now()
            run()
            clock.seconds += now() - begin

        return timed


class Image:
    """Makes the same image again and again, from what lies in a directory: ``NAME.npy`` for every input."""

    def __init__(self, plan: Plan, inputs: Path, guidance_scale: float) -> None:
        interface = plan.interface
        self._latents = np.load(inputs / f"{interface.latents}.npy")
        self._conditions = {name: np.load(inputs / f"{name}.npy") for name in interface.conditions}
        self._draws = [np.load(inputs / f"{name}.npy") for name in interface.draws]
        self._scale = guidance_scale

    def __call__(self, session: Session) -> Array:
        return session.denoise(self._latents, self._conditions, guidance_scale=self._scale, draws=self._draws)


def measure(
    plan: Plan, engines: Mapping[str, EngineSession], image: Image, repeats: int
) -> list[dict[str, float]]:
    """Seconds of so many images: in all, inside engines, and in all without the clock."""
    clock = Clock()
    plain = Session(plan, engines)
    timed = Session(plan, {name: TimedEngine(engine, clock) for name, engine in engines.items()})

    def seconds(session: Session) -> float:
        begin = time.perf_counter()
        image(session)
        return time.perf_counter() - begin

    measured = []
    for _ in range(WARMUP + repeats):
        clock.seconds = 0.0
        whole = seconds(timed)
        measured.append({"seconds": whole, "engine_seconds": clock.seconds, "plain_seconds": seconds(plain)})
    return measured[WARMUP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--guidance-scale", type=float, required=True)
    given = parser.parse_args()

    bundle = open_bundle(given.bundle)
    plan = bundle.plan
    engines = make_backend(plan.target).open(bundle, LoadOptions(threads=given.threads))
    image = Image(plan, given.inputs, given.guidance_scale)
    np.save(given.output, image(Session(plan, engines)))
    if given.repeats:
        runs = sum(1 for _ in plan.program.runs())
        print(
            json.dumps(
                {
                    "instructions": len(plan.program.instructions),
                    "runs": runs,
                    "images": measure(plan, engines, image, given.repeats),
                }
            )
        )


if __name__ == "__main__":
    main()
