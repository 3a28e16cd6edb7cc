"""``README.md`` of this directory, made from the results. Figures that stand in no result file are not in
it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import markdown, plots, results
from benchmarks.scenarios import SCENARIOS, OverheadScenario, QualityScenario, SuiteScenario
from benchmarks.suite import table as suite_table
from benchmarks.suite.results import SuiteResult

README = Path(__file__).parent / "README.md"
HEAD = """\
# Benchmarks

This file is made by `python -m benchmarks table` from the JSON files in `results/`: don't edit it.
`python -m benchmarks list` names the scenarios, `python -m benchmarks run NAME` repeats one.
"""


def render() -> str:
    """The whole README. Draws the pictures that it shows."""
    parts = [HEAD]
    for scenario in SCENARIOS:
        content = results.read(results.path_of(scenario.name))
        title = f"\n## {scenario.name}: {scenario.about}\n"
        if content is None:
            parts.append(f"{title}\nNot measured yet: `python -m benchmarks run {scenario.name}`.\n")
            continue
        if isinstance(scenario, SuiteScenario):
            result = SuiteResult(content)
            lines = suite_table.render(result, plots.draw(scenario.name, result))
        elif isinstance(scenario, OverheadScenario):
            lines = overhead(scenario, content)
        else:
            lines = quality(content) if isinstance(scenario, QualityScenario) else speed(content)
        parts.append("\n".join([title, *lines, "", *_origin(content), ""]))
    return "".join(parts)


def speed(content: dict[str, Any]) -> Iterator[str]:
    """Seconds an image, and what the plan gains over each row."""
    plan = next(row for row in content["rows"] if row["name"] == "plan")
    scenario = content["scenario"]
    calls = scenario["mask"]
    yield (
        f"`{scenario['model']}`, {scenario['scheduler']} with {scenario['steps']} steps, "
        f"{calls['calls_run']} of {calls['calls']} calls run, "
        f"{scenario['provider']} {scenario['precision']}, "
        f"{scenario['threads']} threads, median of {scenario['repeats']} images, in turns."
    )
    yield ""
    yield from markdown.table(
        ("row", "ms/image", "min .. max", "peak PSS", "load", "plan is faster by"),
        [
            (
                row["name"],
                f"{1e3 * seconds['median']:.1f}",
                f"{1e3 * seconds['min']:.1f} .. {1e3 * seconds['max']:.1f}",
                f"{row['peak_pss_bytes'] / 1e6:.0f} MB",
                f"{row['load_seconds']:.1f} s",
                f"{seconds['median'] / plan['seconds_per_image']['median']:.2f}x",
            )
            for row in content["rows"]
            for seconds in [row["seconds_per_image"]]
        ],
    )
    if content["speedup"] is not None:
        yield ""
        yield (
            f"Speedup over `dense` {content['speedup']:.2f}x of an ideal {content['ideal_speedup']:.2f}x "
            f"(all MACs over MACs kept): efficiency {content['efficiency']:.2f}."
        )


def overhead(scenario: OverheadScenario, content: dict[str, Any]) -> Iterator[str]:
    """Microseconds an instruction beside its goal, first latents and memory."""
    measured = content["scenario"]
    rows = {row["name"]: row for row in content["rows"]}
    yield (
        f"`{measured['model']}`, {measured['scheduler']} with {measured['steps']} steps: a plan of "
        f"{measured['instructions']} instructions, {measured['runs']} of them runs of engines. "
        f"{measured['threads']} thread, median of {measured['rounds']} processes with "
        f"{measured['repeats']} images each. Overhead: the time of an image outside of ONNX Runtime, over "
        "the instructions."
    )
    yield ""
    goals = dict(scenario.goals)
    cells = []
    for name, row in rows.items():
        found = row["overhead_microseconds_per_instruction"]
        verdict = "met" if found["median"] <= goals[name] else "**missed**"
        cells.append(
            (
                name,
                f"{found['median']:.2f} us",
                f"{found['min']:.2f} .. {found['max']:.2f}",
                f"at most {goals[name]:g} us: {verdict}",
                f"{1e3 * row['seconds_per_image']['median']:.1f} ms",
                f"{1e3 * row['engine_seconds_per_image']['median']:.1f} ms",
                f"{row['first_latent_seconds']['median']:.2f} s",
                f"{row['peak_rss_bytes'] / 1e6:.0f} MB",
            )
        )
    yield from markdown.table(
        ("runtime", "overhead", "min .. max", "goal", "image", "in ONNX Runtime", "first latent", "peak RSS"),
        cells,
    )
    yield ""
    plain = rows["python"]["seconds_per_image_without_clock"]["median"]
    clocked = rows["python"]["seconds_per_image"]["median"]
    yield (
        "First latent: from the start of a process until it has made one image and ended, files in the page "
        f"cache. Python's images take {1e3 * plain:.2f} ms without the clock that tells engines from the "
        f"rest, {1e3 * clocked:.2f} ms with it."
    )


def quality(content: dict[str, Any]) -> Iterator[str]:
    """MACs and figures of every row; the random masks as one, with their range."""
    scenario = content["scenario"]
    yield (
        f"`{scenario['model']}`, {scenario['images']} images a row, balanced over the classes, the same "
        f"noise and conditions in every row, guidance scale {scenario['guidance_scale']:g}. Class agreement: "
        "how often a classifier sees the class asked for. FID: on that classifier's features, against the "
        "10,000 test images; comparable within this table only. MACs: of one image without the doubling by "
        "guidance."
    )
    yield ""
    table = []
    seen_random = False
    for row in content["rows"]:
        group = [row]
        about = row["about"]
        if row["name"].startswith("random-"):
            if seen_random:
                continue
            seen_random = True
            group = [other for other in content["rows"] if other["name"].startswith("random-")]
            if len(group) > 1:
                about = f"random masks, median of {len(group)} seeds (min .. max)"
        table.append(
            (
                about,
                f"{row['steps']}",
                f"{statistics.median(r['macs_per_image'] for r in group) / 1e9:.3f} G",
                _spread([100 * r["class_agreement"] for r in group], ".1f", " %"),
                _spread([r["fid"] for r in group], ".3f", ""),
            )
        )
    yield from markdown.table(("images from", "steps", "MACs", "class agreement", "FID"), table)


def _spread(values: Sequence[float], form: str, unit: str) -> str:
    middle = f"{statistics.median(values):{form}}{unit}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} .. {max(values):{form}})"


def _origin(content: dict[str, Any]) -> Iterator[str]:
    """Where the figures come from."""
    machine = content["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    command = content.get("command") or content["scenario"]["command"]
    yield (
        f"Measured on {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['os']}, Python {machine['python']}, {versions}, with `{command}`."
    )
