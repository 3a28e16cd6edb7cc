"""What following a plan costs besides computing its engines, in Python and in C++.

Every engine's run is timed where ONNX Runtime is called; what is left of an image, over the plan's
instructions, is the overhead: combinations, the inputs' copies, and getting from one instruction to the next.
The C++ library always carries that clock. Python doesn't, so there images with and without it take turns, and
the table shows both. Each runtime works in a process of its own, one after the other, so many rounds. A
further process of each makes one image and ends: from its start to its end is the time to a first latent, and
meanwhile the kernel is asked for the most memory that it had.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.scenarios import OverheadScenario
from dipgo_compile.bench import Progress
from dipgo_compile.build import build
from dipgo_compile.errors import BackendError
from dipgo_compile.mask import Mask
from dipgo_compile.measure import machine
from dipgo_compile.measure.example import example_inputs
from dipgo_compile.plan import Plan
from dipgo_compile.runtime import DEFAULT_GUIDANCE_SCALE

DIPGO_RUN = Path("build/cpp-release/dipgo-run")  # where `make cpp` builds it
BUNDLE = "plan.dipgo"
POLL_SECONDS = 0.002
Json = dict[str, Any]


@dataclass(frozen=True)
class RuntimeRow:
    """``command`` makes one image; with ``repeat`` and a number it makes so many, and prints JSON of which
    ``read`` makes figures.
    """

    name: str
    command: tuple[str, ...]
    repeat: tuple[str, ...]
    read: Callable[[Json], Json]


def run(
    scenario: OverheadScenario,
    file: Path,
    *,
    dipgo_run: Path = DIPGO_RUN,
    repeats: int | None = None,
    command: str,
    progress: Progress | None = None,
) -> Json:
    """Build the scenario's mask, measure both runtimes and write ``file``. Raises BackendError when a process
    fails, or ``dipgo-run`` is not there.
    """
    if not dipgo_run.is_file():
        raise BackendError(f"there is no {dipgo_run}", mend="make cpp, or name one with --dipgo-run")
    repeats = repeats or scenario.repeats
    with tempfile.TemporaryDirectory(prefix="dipgo-overhead-") as directory:
        place = Path(directory)
        bundle = build(Mask.load(scenario.mask), output=place / BUNDLE)
        store_inputs(bundle.plan, place)
        rows = (cpp(dipgo_run, bundle.plan, place, scenario.threads), python(place, scenario.threads))
        measured: dict[str, list[Json]] = {row.name: [] for row in rows}
        for index in range(scenario.rounds):
            for row in rows:
                seconds, peak_bytes = one_image(row.command)
                answer = json.loads(output_of([*row.command, *row.repeat, str(repeats)]))
                figures = {**row.read(answer), "first": seconds, "peak_rss_bytes": peak_bytes}
                measured[row.name].append(figures)
            if progress is not None:
                progress(index + 1, scenario.rounds)
        plan = bundle.plan
        content = {
            "machine": machine.describe(),
            "command": command,
            "scenario": {
                "model": plan.model["source"],
                "scheduler": plan.schedule["class"],
                "steps": plan.schedule["num_inference_steps"],
                "instructions": len(plan.program.instructions),
                "runs": sum(1 for _ in plan.program.runs()),
                "threads": scenario.threads,
                "repeats": repeats,
                "rounds": scenario.rounds,
            },
            "rows": [merged(name, rounds) for name, rounds in measured.items()],
        }
    results.write(file, content)
    return content


def store_inputs(plan: Plan, place: Path) -> None:
    """Seeded inputs: ``NAME.npy`` for each."""
    inputs, interface = example_inputs(plan), plan.interface
    arrays = {interface.latents: inputs.latents, **inputs.conditions}
    arrays |= dict(zip(interface.draws, inputs.draws, strict=True))
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)


def cpp(dipgo_run: Path, plan: Plan, place: Path, threads: int) -> RuntimeRow:
    interface = plan.interface
    words = [str(dipgo_run), str(place / BUNDLE), "--latents", str(place / f"{interface.latents}.npy")]
    for name in interface.conditions:
        words += ["--condition", f"{name}={place / f'{name}.npy'}"]
    for name in interface.draws:
        words += ["--draw", str(place / f"{name}.npy")]
    words += ["-o", str(place / "c++.out.npy"), "--threads", str(threads)]
    words += ["--guidance-scale", str(DEFAULT_GUIDANCE_SCALE)]
    return RuntimeRow("c++", tuple(words), ("--json", "-", "--repeat"), cpp_figures)


def python(place: Path, threads: int) -> RuntimeRow:
    words = [sys.executable, "-m", "benchmarks.overhead_worker", str(place / BUNDLE), str(place)]
    words += ["-o", str(place / "python.out.npy"), "--threads", str(threads)]
    words += ["--guidance-scale", str(DEFAULT_GUIDANCE_SCALE)]
    return RuntimeRow("python", tuple(words), ("--repeats",), python_figures)


def one_image(command: Sequence[str]) -> tuple[float, int]:
    """Seconds from a process's start to its end, and the most memory that it had, in bytes."""
    peak = 0
    with tempfile.TemporaryFile() as said:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:  # ru_maxrss would be no less than this process's own
            peak = max(peak, _high_water(process.pid))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - begin
        if process.returncode:
            said.seek(0)
            raise _failed(command, said.read().decode(errors="replace"))
    return seconds, peak


def _high_water(pid: int) -> int:
    """The largest resident set so far, in bytes; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def output_of(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise _failed(command, done.stderr)
    return done.stdout


def _failed(command: Sequence[str], said: str) -> BackendError:
    lines = said.strip().splitlines() or ["it said nothing"]
    return BackendError(f"{command[0]} failed: {lines[-1]}", where=" ".join(command))


def cpp_figures(answer: Json) -> Json:
    """What one process of ``dipgo-run --repeat --json`` measured."""
    return {
        "overhead": answer["overhead_microseconds_per_instruction"],
        "seconds": answer["seconds_per_batch"],
        "engine_seconds": answer["seconds_in_onnxruntime"],
    }


def python_figures(answer: Json) -> Json:
    """What one process of ``overhead_worker --repeats`` measured."""
    images, instructions = answer["images"], answer["instructions"]
    return {
        "overhead": spread(
            [1e6 * (image["seconds"] - image["engine_seconds"]) / instructions for image in images]
        ),
        "seconds": spread([image["seconds"] for image in images]),
        "engine_seconds": spread([image["engine_seconds"] for image in images]),
        "plain_seconds": spread([image["plain_seconds"] for image in images]),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def merged(name: str, rounds: Sequence[Json]) -> Json:
    """One row of several rounds: medians of medians, and the extremes of all."""

    def over(key: str) -> dict[str, float]:
        return {
            "min": min(one[key]["min"] for one in rounds),
            "median": statistics.median(one[key]["median"] for one in rounds),
            "max": max(one[key]["max"] for one in rounds),
        }

    row = {
        "name": name,
        "overhead_microseconds_per_instruction": over("overhead"),
        "seconds_per_image": over("seconds"),
        "engine_seconds_per_image": over("engine_seconds"),
        "first_latent_seconds": spread([one["first"] for one in rounds]),
        "peak_rss_bytes": max(one["peak_rss_bytes"] for one in rounds),
    }
    if "plain_seconds" in rounds[0]:
        row["seconds_per_image_without_clock"] = over("plain_seconds")
    return row
