"""Pictures of a suite's results. What wasn't measured is not in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.suite.results import SuiteResult, median

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIRECTORY = Path(__file__).parent / "plots"
PLAN, PEER, INK = "#0b5394", "#b8b2a2", "#333333"  # far apart in lightness: told apart without colour, too


def draw(name: str, result: SuiteResult, directory: Path = DIRECTORY) -> tuple[Path, ...]:
    """Write the pictures of a scenario, and answer with their files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for kind, draw_on, height in (
        ("speedup", _speedup, 4.8),
        ("seconds", _seconds, 1.0 + 0.27 * len(_timed(result))),
        ("memory", _memory, 2.6),
    ):
        figure = Figure(figsize=(7.2, height), dpi=120, layout="constrained")  # not pyplot: no global state
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw_on(axes, result)
        file = directory / f"{name}-{kind}.png"
        figure.savefig(file, metadata={"Software": None})  # the same picture, whatever the version
        files.append(file)
    return tuple(files)


def _speedup(axes: Axes, result: SuiteResult) -> None:
    """Each mask's speedup over the whole graph against what its MACs promise."""
    points = [
        (ideal, speedup, case["name"], case["fused"])
        for case in result.cases
        if (speedup := result.speedup(case["name"])) is not None
        and (ideal := result.ideal(case["name"])) is not None
    ]
    limit = 1.15 * max((max(ideal, speedup) for ideal, speedup, *_ in points), default=1.0)
    axes.plot([0, limit], [0, limit], color=PEER, linewidth=1, zorder=1)
    for ideal, speedup, _, fused in points:
        axes.scatter(ideal, speedup, color=PLAN if fused else "white", edgecolors=PLAN, s=30, zorder=2)
    heights: list[float] = []
    for ideal, speedup, name, _ in sorted(points, key=lambda point: point[1]):
        heights.append(max(speedup, heights[-1] + limit / 28 if heights else 0.0))
        axes.annotate(
            name,
            (ideal, speedup),
            xytext=(ideal + limit / 25, heights[-1]),
            fontsize=8,
            color=INK,
            va="center",
            arrowprops={"arrowstyle": "-", "color": PEER, "linewidth": 0.6},
        )
    axes.set(
        xlim=(0, 1.35 * limit),
        ylim=(0, limit),
        xlabel="ideal speedup: all MACs over MACs kept",
        ylabel="speedup over the whole graph",
    )
    axes.set_title("Above the line: faster than the MACs promise", loc="left", fontsize=10, color=INK)


def _seconds(axes: Axes, result: SuiteResult) -> None:
    """Seconds for an image, dearest first."""
    bars = sorted(_timed(result), key=lambda bar: bar[1])
    _bars(axes, bars, "{:.1f}")
    axes.set(xlabel="seconds for an image")


def _memory(axes: Axes, result: SuiteResult) -> None:
    """Peaks of processes that were alone."""
    footprint = result.footprint()
    bars = [
        (
            f"{peak['row']}{'' if peak['memory'] is None else ', ' + peak['memory']}",
            peak["peak_pss_bytes"] / 1e9,
        )
        for peak in (footprint["peaks"] if footprint else [])
        if "peak_pss_bytes" in peak
    ]
    _bars(axes, sorted(bars, key=lambda bar: bar[1]), "{:.1f}")
    axes.set(xlabel="peak memory of a process alone, GB")


def _bars(axes: Axes, bars: list[tuple[str, float]], form: str) -> None:
    names, values = [name for name, _ in bars], [value for _, value in bars]
    colours = [PLAN if name.startswith("plan") else PEER for name in names]
    drawn = axes.barh(names, values, color=colours)
    axes.bar_label(drawn, [form.format(value) for value in values], padding=3, fontsize=8, color=INK)
    axes.tick_params(axis="y", labelsize=8)


def _timed(result: SuiteResult) -> list[tuple[str, float]]:
    """Plans by mask; each peer once, as first measured, with its mask where it has one."""
    bars: dict[str, float] = {}
    for case, _, row in result.rows():
        seconds = median(row)
        if seconds is None:
            continue
        name = row["name"]
        if name == "dense":
            name = f"dense, {case.get('model', case['backend'])} {case['precision']}"
        elif name in ("plan", "supernet", "deepcache"):
            name = f"{name}, {case['name']}"
        bars.setdefault(name, seconds)
    return list(bars.items())
