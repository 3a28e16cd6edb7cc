"""What a suite is to reach, and how far it could on the machine that it was measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.scenarios import FAMILY_CASES
from benchmarks.suite.results import SuiteResult


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


AT_PEAK_RATE = "every multiply-accumulate at the fastest rate measured, and nothing else"
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
    *(
        Goal(
            f"peak memory, over the whole graph's (memory: {memory})",
            partial(SuiteResult.peak_ratio, memory=memory),
            bound,
            at_most=True,
            limit=Limit(partial(SuiteResult.weights_over_peak, memory=memory), WEIGHTS_ALONE),
        )
        for memory, bound in (("low", 0.6), ("balanced", 0.7))
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
