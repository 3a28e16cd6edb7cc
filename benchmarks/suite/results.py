"""What a suite's result file says: medians, and ratios within a turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dipgo_compile.measure.operators import OperatorProfile

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

    def drifts(self) -> dict[str, tuple[float, float]]:
        """The least and most seconds of a whole graph, where the cases that share it differ in them by more
        than ``UNSTEADY``: the same program, so it is the machine that changed between the cases.
        """
        seconds: dict[str, list[float]] = {}
        for case, _, row in self.rows():
            if row["name"] == "dense" and (value := median(row)) is not None:
                graph = " ".join(filter(None, (case.get("model"), case["backend"], case["precision"])))
                seconds.setdefault(graph, []).append(value)
        ranges = {graph: (min(values), max(values)) for graph, values in seconds.items()}
        return {
            graph: (least, most) for graph, (least, most) in ranges.items() if most > (1 + UNSTEADY) * least
        }

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
        """Of a case's image, if every multiply-accumulate ran at the rate of a large matrix product, or of
        the fastest kind of operator. Those inside attention, which the mask's MACs leave out, count where
        operators were timed.
        """
        found = self.case(case)
        if found is not None and "operators" in found:
            return OperatorProfile.from_json(found["operators"]).least_seconds
        rates = [float(made["profile"]["macs_per_second"]) for made in self.cases if "profile" in made]
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
        return float(found[size]) / float(found["weight_bytes"]) if found else None

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
