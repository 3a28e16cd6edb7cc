"""A suite's section of README.md: goals, times, memory and sizes, failures, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.suite import operators
from benchmarks.suite.goals import Goal, goals_of
from benchmarks.suite.results import UNSTEADY, SuiteResult, is_unsteady, median
from dipgo_compile.measure.machine import DISTURBED

Json = dict[str, Any]


def render(result: SuiteResult, pictures: Sequence[Path] = ()) -> Iterator[str]:
    scenario = result.scenario
    yield (
        f"{_subjects(result)}, {scenario['steps']} DDIM steps, guidance (two samples "
        f"a call), {scenario['threads']} threads. The rows of a turn are alive together and take turns; "
        "ratios are of medians of one turn. `dense` is the unpruned denoiser as one graph in the same "
        "backend and precision."
    )
    yield ""
    goals = [_goal(goal, result) for goal in goals_of(result)]
    yield from markdown.table(("goal", "bound", "measured", ""), goals)
    yield ""
    yield from _limits(result)
    yield from operators.render(result)
    yield from _unsteady(result)
    yield from _drifts(result)
    yield from _stolen(result)
    yield from _times(result)
    for case in result.with_footprint():
        yield from _footprint(case)
    yield from _builds(result)
    yield from _failures(result)
    for picture in pictures:
        kind = picture.stem.rpartition("-")[2]
        yield from ("", f"![{kind}]({picture.parent.name}/{picture.name})")


def _subjects(result: SuiteResult) -> str:
    """The models and image sizes that were measured."""
    found = [result.scenario, *result.cases]
    sizes = {of["model"]: of["pixels"] for of in found if of.get("model") is not None}
    return ", ".join(f"`{model}` at {pixels}x{pixels}" for model, pixels in sizes.items())


def _goal(goal: Goal, result: SuiteResult) -> tuple[str, str, str, str]:
    value, met = goal.measured(result), goal.met(result)
    bound = f"{'at most' if goal.at_most else 'at least'} {goal.bound:g}{goal.unit}"
    if value is None or met is None:
        return goal.about, bound, "", "not measured"
    return goal.about, bound, _shown(goal, value), "met" if met else "**missed**"


def _shown(goal: Goal, value: float) -> str:
    digits = 1 if goal.unit else 2
    shown = f"{value:.{digits}f}"
    if goal.met_by(float(shown)) != goal.met_by(value):
        shown = f"{value:.{digits + 2}f}"  # rounding must not hide a miss
    return f"{shown}{goal.unit}"


def _limits(result: SuiteResult) -> Iterator[str]:
    """What is in reach of the goals that were missed."""
    limits = []
    for goal in goals_of(result):
        value = goal.measured(result)
        limit = goal.limit.measured(result) if goal.limit else None
        if goal.limit and value is not None and limit is not None and not goal.met_by(value):
            limits.append((goal.about, _shown(goal, value), _shown(goal, limit), goal.limit.why))
    if limits:
        yield "What this machine would allow, from measurements beside these:"
        yield ""
        yield from markdown.table(("missed goal", "measured", "limit", "which is if"), limits)
        yield ""


def _unsteady(result: SuiteResult) -> Iterator[str]:
    rows = [f"`{case['name']}` {row['name']}" for case, _, row in result.rows() if is_unsteady(row)]
    if rows:
        yield (
            f"Unsteady: {', '.join(rows)}. Samples are more than {UNSTEADY:.0%} of their median apart, so "
            "something disturbed the machine, and what depends on these rows, goals too, has to be measured "
            "again."
        )
        yield ""


def _drifts(result: SuiteResult) -> Iterator[str]:
    for graph, (least, most) in result.drifts().items():
        yield (
            f"Drift: `dense` in {graph} is one program in all its cases, and took from {least:.2f} to "
            f"{most:.2f} s an image: the machine changed between them, so seconds of different cases don't "
            "compare."
        )
        yield ""


def _stolen(result: SuiteResult) -> Iterator[str]:
    shares = [turn.get("stolen") or 0.0 for case in result.cases for turn in case.get("turns", [])]
    disturbed = sum(share > DISTURBED for share in shares)
    if disturbed:
        yield (
            f"Disturbed: in {disturbed} of {len(shares)} turns other virtual machines took more than "
            f"{DISTURBED:.0%} of the processors' time, {max(shares):.0%} at most. What is a few percent "
            "apart there has to be measured again."
        )
        yield ""


def _times(result: SuiteResult) -> Iterator[str]:
    rows = []
    for case, turn, row in result.rows():
        if "seconds_per_image" not in row:
            continue
        seconds, calls = row["seconds_per_image"], case["mask"]["calls"]
        dense = next((median(other) for other in turn["rows"] if other["name"] == "dense"), None)
        speedup = None if dense is None else dense / seconds["median"]
        ideal = result.ideal(case["name"])
        efficiency = (
            f"{speedup / ideal:.2f}" if row["name"] == "plan" and speedup is not None and ideal else ""
        )
        sample = "image" if row["timed_calls"] == calls else f"{row['timed_calls']} of {calls} calls"
        rows.append(
            (
                case["name"],
                row["name"],
                f"{seconds['median']:.2f}",
                f"{seconds['min']:.2f} .. {seconds['max']:.2f}",
                f"{turn['repeats']} x {sample}",
                "" if speedup is None else f"{speedup:.2f}x",
                f"{ideal:.2f}x" if row["name"] == "plan" and ideal else "",
                efficiency,
            )
        )
    yield from markdown.table(
        ("case", "row", "s/image", "min .. max", "timed", "speedup over dense", "ideal", "efficiency"), rows
    )
    yield ""
    yield (
        "Timed: how many samples of what. Calls that all cost the same are timed a few at a time, and the "
        "time of an image is that of a call times the calls."
    )


def _footprint(case: Json) -> Iterator[str]:
    found = case["footprint"]
    dense = next((peak.get("peak_pss_bytes") for peak in found["peaks"] if peak["row"] == "dense"), None)
    peaks = [peak for peak in found["peaks"] if "peak_pss_bytes" in peak]
    if peaks:
        calls = max(peak["calls"] for peak in peaks)
        yield ""
        yield f"Memory of `{case['name']}`: peak PSS of a process alone, through its first {calls} calls."
        yield ""
        yield from markdown.table(
            ("row", "memory", "peak PSS", "over dense"),
            [
                (
                    peak["row"],
                    peak["memory"] or "",
                    f"{peak['peak_pss_bytes'] / 1e9:.2f} GB",
                    f"{peak['peak_pss_bytes'] / dense:.2f}" if dense else "",
                )
                for peak in peaks
            ],
        )
    load = found["load_seconds"]
    yield ""
    yield (
        f"Its bundle takes {found['bundle_bytes'] / 1e9:.2f} GB and caches of "
        f"{found['cache_bytes'] / 1e9:.2f} GB; the model's weights are {found['weight_bytes'] / 1e9:.2f} GB. "
        f"A process is ready to denoise after {load['median']:.2f} s "
        f"({load['min']:.2f} .. {load['max']:.2f}), with files in the page cache, interpreter and imports "
        "included."
    )


def _builds(result: SuiteResult) -> Iterator[str]:
    built = [case for case in result.cases if "engines" in case]
    if not built:
        return
    yield ""
    yield from markdown.table(
        ("case", "what it is", "calls run", "engines", "build", "first image over later ones"),
        [
            (
                case["name"],
                case["about"],
                f"{case['mask']['calls_run']} of {case['mask']['calls']}",
                f"{case['engines']}",
                f"{case['build_seconds']['all']:.1f} s" if "build_seconds" in case else "",
                "" if (first := result.first_over_steady(case["name"])) is None else f"{first:.2f}",
            )
            for case in built
        ],
    )


def _failures(result: SuiteResult) -> Iterator[str]:
    """One line each, the first of the reason: it says what happened."""
    failures = [(case["name"], case["failed"]) for case in result.cases if "failed" in case]
    failures += [
        (f"{case['name']}, {row['name']}", row["failed"]) for case, _, row in result.rows() if "failed" in row
    ]
    for case in result.with_footprint():
        for peak in case["footprint"]["peaks"]:
            if "failed" in peak:
                failures.append((f"memory of {peak['row']}, {peak['memory']}", peak["failed"]))
    if failures:
        yield ""
        yield "Failed:"
        yield ""
        for what, reason in failures:
            yield f"- {what}: {reason.strip().splitlines()[0]}"
