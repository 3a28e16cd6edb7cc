"""What the operators of a case's image take: measured into a suite's result, and shown below its limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.suite.results import SuiteResult
from dipgo_compile.measure.operators import OperatorProfile
from dipgo_compile.measure.tracing import profile_operators

Json = dict[str, Any]
REPEATS = 3
SHOWN = 0.01  # of the seconds; what takes less is taken together
PEERS = ("supernet", "deepcache")  # rows that do the same work in PyTorch


def time_operators(bundle: Path, threads: int) -> Json:
    """For a result file. Raises BackendError for a bundle whose operators can't be timed."""
    return profile_operators(bundle, threads=threads, repeats=REPEATS).to_json()


def render(result: SuiteResult) -> Iterator[str]:
    """A table and a sentence for every case that has such a profile."""
    for case in result.cases:
        if "operators" not in case:
            continue
        profile = OperatorProfile.from_json(case["operators"])
        yield f"Operators of `{case['name']}`, of an image's {profile.seconds:.1f} s in engines:"
        yield ""
        yield from markdown.table(
            ("operators", "runs", "seconds", "share", "TMACs", "GMACs/s", "of a large product's"),
            list(_rows(profile)),
        )
        yield ""
        yield from _floor(result, case["name"], profile)
        yield ""


def _rows(profile: OperatorProfile) -> Iterator[tuple[str, ...]]:
    small = [item for item in profile.operators if item.macs is None and profile.share(item.seconds) < SHOWN]
    for item in profile.operators:
        if item in small:
            continue
        rate, near = item.macs_per_second, profile.of_yardstick(item)
        yield (
            item.kind,
            f"{item.runs}",
            f"{item.seconds:.2f}",
            f"{profile.share(item.seconds):.1%}",
            "" if item.macs is None else f"{item.macs / 1e12:.2f}",
            "" if rate is None else f"{rate / 1e9:.0f}",
            "" if near is None else f"{near:.0%}",
        )
    rest = profile.between_seconds + sum(item.seconds for item in small)
    yield "the rest, and between them", "", f"{rest:.2f}", f"{profile.share(rest):.1%}", "", "", ""


def _floor(result: SuiteResult, case: str, profile: OperatorProfile) -> Iterator[str]:
    """What is in reach if all but the multiplying operators cost nothing, also over a peer."""
    alone, least = profile.multiplying_seconds, profile.least_seconds
    said = f"With convolutions, matrix products and attention as they ran, and nothing else: {alone:.1f} s"
    if least is None:
        yield f"{said}."
        return
    rate = profile.fastest_macs_per_second / 1e9
    said += f"; with these at the fastest rate here, {rate:.0f} GMACs/s: {least:.1f} s."
    for peer in PEERS:
        seconds, measured = result.seconds(case, peer), result.ratio(case, peer, "plan")
        if seconds is not None and measured is not None:
            said += (
                f" In images a second over {peer}'s that is {seconds / alone:.2f} and {seconds / least:.2f}; "
                f"the plan was measured at {measured:.2f}."
            )
    yield said
