"""What a suite's result file says: medians, ratios within a turn, and whether the goals were met."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.scenarios import FAMILY_CASES

Json = dict[str, Any]
SAMPLES = 2  # of the denoiser an image: suites run with guidance
UNSTEADY = 0.1  # of the median: undisturbed samples of a second or more lie within a few percent


class SuiteResult:
    """Questions to a result file. None is the answer wherever something wasn't measured or failed.

    Ratios are of medians of the same turn: rows that were not alive together are not compared.
    """

    def __init__(self, content: Json) -> None:
        self.scenario: Json = content["scenario"]
        self.cases: list[Json] = content["cases"]

    def case(self, name: str) -> Json | None:
        return next((case for case in self.cases if case["name"] == name), None)

    def rows(self) -> Iterator[tuple[Json, Json, Json]]:
        """Case, turn and row of everything that was timed, failed rows included."""
        for case in self.cases:
            for turn in case.get("turns", []):
                for row in turn["rows"]:
                    yield case, turn, row

    def ratio(self, case: str, row: str, other: str) -> float | None:
        """The seconds of ``row`` over those of ``other``."""
        found = self.case(case)
        for turn in found.get("turns", []) if found else []:
            seconds = {made["name"]: median(made) for made in turn["rows"]}
            one, two = seconds.get(row), seconds.get(other)
            if one is not None and two is not None:
                return one / two
        return None

    def speedup(self, case: str) -> float | None:
        """How much faster the plan is than the whole graph in the same backend and precision."""
        return self.ratio(case, "dense", "plan")

    def ideal(self, case: str) -> float | None:
        """MACs of all calls over MACs kept."""
        found = self.case(case)
        return found["macs"]["dense"] / found["macs"]["kept"] if found and "macs" in found else None

    def efficiency(self, case: str) -> float | None:
        speedup, ideal = self.speedup(case), self.ideal(case)
        return None if speedup is None or ideal is None else speedup / ideal

    def seconds(self, case: str, row: str) -> float | None:
        """Of an image, where a row was timed first."""
        return next(
            (median(made) for of, _, made in self.rows() if (of["name"], made["name"]) == (case, row)), None
        )

    def profile(self, case: str) -> Json | None:
        """What the blocks of a case take alone."""
        found = self.case(case)
        return found.get("profile") if found else None

    def least_seconds(self, case: str) -> float | None:
        """Of a case's image, if every multiply-accumulate ran at the rate of a large matrix product."""
        found = self.case(case)
        rates = [made["profile"]["macs_per_second"] for made in self.cases if "profile" in made]
        if not rates or found is None or "macs" not in found:
            return None
        return float(found["macs"]["kept"]) * SAMPLES / max(rates)

    def best_ratio(self, case: str, row: str) -> float | None:
        """How many times a plan could at most be faster than ``row``."""
        seconds, least = self.seconds(case, row), self.least_seconds(case)
        return None if seconds is None or least is None else seconds / least

    def efficiency_by_blocks(self, case: str) -> float | None:
        """The efficiency of a plan whose every block takes what it takes alone."""
        dense, profile, ideal = self.seconds(case, "dense"), self.profile(case), self.ideal(case)
        if dense is None or profile is None or ideal is None:
            return None
        return dense / float(profile["seconds_kept"]) / ideal

    def weights_over_peak(self, memory: str) -> float | None:
        """The mapped files of a plan, weights nearly all, over the whole graph's peak."""
        found, dense = self._peak("plan", memory), self.peak("dense")
        if found is None or dense is None or "peak_mapped_bytes" not in found:
            return None
        return float(found["peak_mapped_bytes"]) / dense

    def with_footprint(self) -> list[Json]:
        """The cases whose memory and sizes were measured."""
        return [case for case in self.cases if "footprint" in case]

    def footprint(self) -> Json | None:
        """What the goals are about: that of the one case without split guidance."""
        whole = (case["footprint"] for case in self.with_footprint() if not case.get("split_guidance"))
        return next(whole, None)

    def peak(self, row: str, memory: str | None = None) -> int | None:
        found = self._peak(row, memory)
        return found.get("peak_pss_bytes") if found else None

    def _peak(self, row: str, memory: str | None) -> Json | None:
        found = self.footprint()
        peaks = found["peaks"] if found else []
        return next((peak for peak in peaks if (peak["row"], peak["memory"]) == (row, memory)), None)

    def peak_ratio(self, memory: str) -> float | None:
        plan, dense = self.peak("plan", memory), self.peak("dense")
        return None if plan is None or dense is None else plan / dense

    def per_weights(self, size: str) -> float | None:
        found = self.footprint()
        return found[size] / found["weight_bytes"] if found else None

    def load_seconds(self) -> float | None:
        found = self.footprint()
        return found["load_seconds"]["median"] if found else None

    def build_seconds(self) -> float | None:
        """The slowest of the builds for ONNX Runtime."""
        seconds = [
            case["build_seconds"]["all"]
            for case in self.cases
            if case["backend"] == "onnxruntime" and "build_seconds" in case
        ]
        return max(seconds, default=None)

    def first_over_steady(self, case: str) -> float | None:
        """The first image of a plan's process over the median of its later ones, where images were timed
        whole.
        """
        for found, _, row in self.rows():
            steady = median(row)
            whole = row["timed_calls"] == found["mask"]["calls"]
            if found["name"] == case and row["name"] == "plan" and whole and steady is not None:
                return float(row["first_seconds"]) / steady
        return None


def median(row: Json) -> float | None:
    """Seconds of an image; None for a row that failed."""
    return row["seconds_per_image"]["median"] if "seconds_per_image" in row else None


def is_unsteady(row: Json) -> bool:
    """Whether the samples of a row lie further apart than a machine at rest explains."""
    seconds = row.get("seconds_per_image")
    return seconds is not None and seconds["max"] - seconds["min"] > UNSTEADY * seconds["median"]


@dataclass(frozen=True)
class Limit:
    """How far a figure can go on the machine at hand, by what was measured beside it, and why."""

    measured: Callable[[SuiteResult], float | None]
    why: str


@dataclass(frozen=True)
class Goal:
    """A bound on a figure: at most ``bound``, or at least. ``limit``: what says how near it is in reach."""

    about: str
    measured: Callable[[SuiteResult], float | None]
    bound: float
    at_most: bool = False
    unit: str = ""
    limit: Limit | None = None

    def met(self, result: SuiteResult) -> bool | None:
        """None where it wasn't measured."""
        value = self.measured(result)
        return None if value is None else self.met_by(value)

    def met_by(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


AT_PEAK_RATE = "every multiply-accumulate at the rate of a large matrix product, and nothing else"
BLOCK_BY_BLOCK = "every kept block takes what it takes alone: seconds do not follow multiply-accumulates"
WEIGHTS_ALONE = "the mapped weights, without one activation"

GOALS = (
    Goal(
        "nothing pruned: seconds of a call, over the whole graph's",
        lambda result: result.ratio("all-ones", "plan", "dense"),
        0.95,
        at_most=True,
    ),
    Goal("released mask: efficiency", lambda result: result.efficiency("released-0.80"), 1.05),
    Goal(
        "half of the layers: efficiency",
        lambda result: result.efficiency("layer-0.5"),
        1.0,
        limit=Limit(lambda result: result.efficiency_by_blocks("layer-0.5"), BLOCK_BY_BLOCK),
    ),
    Goal(
        "0.3 of the layers: efficiency",
        lambda result: result.efficiency("layer-0.3"),
        1.0,
        limit=Limit(lambda result: result.efficiency_by_blocks("layer-0.3"), BLOCK_BY_BLOCK),
    ),
    Goal(
        "released mask: images a second, over the PyTorch SuperNet's",
        lambda result: result.ratio("released-0.80", "supernet", "plan"),
        1.7,
        limit=Limit(lambda result: result.best_ratio("released-0.80", "supernet"), AT_PEAK_RATE),
    ),
    Goal(
        "DeepCache's mask: images a second, over the DeepCache package's",
        lambda result: result.ratio("deepcache-5", "deepcache", "plan"),
        1.7,
        limit=Limit(lambda result: result.best_ratio("deepcache-5", "deepcache"), AT_PEAK_RATE),
    ),
    Goal(
        "OpenVINO bf16, released mask: efficiency against its own whole graph",
        lambda result: result.efficiency("released-0.80-openvino-bf16"),
        1.0,
    ),
    Goal(
        "peak memory, over the whole graph's (memory: low)",
        lambda result: result.peak_ratio("low"),
        0.6,
        at_most=True,
        limit=Limit(lambda result: result.weights_over_peak("low"), WEIGHTS_ALONE),
    ),
    Goal(
        "peak memory, over the whole graph's (memory: balanced)",
        lambda result: result.peak_ratio("balanced"),
        0.7,
        at_most=True,
        limit=Limit(lambda result: result.weights_over_peak("balanced"), WEIGHTS_ALONE),
    ),
    Goal(
        "bundle, over the model's weights",
        lambda result: result.per_weights("bundle_bytes"),
        1.05,
        at_most=True,
    ),
    Goal(
        "its caches, over the model's weights",
        lambda result: result.per_weights("cache_bytes"),
        1.4,
        at_most=True,
    ),
    Goal("build, the slowest", SuiteResult.build_seconds, 120, at_most=True, unit=" s"),
    Goal("load, files cached", SuiteResult.load_seconds, 2, at_most=True, unit=" s"),
    Goal(
        "released mask: a process's first image, over the later ones",
        lambda result: result.first_over_steady("released-0.80"),
        1.15,
        at_most=True,
    ),
)


def _family_goals() -> Iterator[Goal]:
    for case in FAMILY_CASES:
        if case.mask == "all":
            yield Goal(
                f"{case.name}: seconds of a call, over the whole graph's",
                partial(SuiteResult.ratio, case=case.name, row="plan", other="dense"),
                1.0,
                at_most=True,
            )
        elif "residual" in case.name:
            yield Goal(f"{case.name}: efficiency", partial(SuiteResult.efficiency, case=case.name), 1.0)


FAMILY_GOALS = tuple(_family_goals())


def goals_of(result: SuiteResult) -> tuple[Goal, ...]:
    """Those of the architectures that the result is about; on a GPU there are none yet."""
    if any(case.get("provider") == "cuda" for case in result.cases):
        return ()
    return GOALS if result.scenario["model"] is not None else FAMILY_GOALS
