"""What the operators of a plan take, by kind, and what that says of how fast the plan could be.

Two floors follow. Operators that multiply, convolutions among them, come at best near the rate of a large
matrix product, or of the fastest of them. All others move memory, and at best are fused into those, where
they cost nothing. If the others cost nothing and the multiplying ones took what they took, that would be
``multiplying_seconds`` an image; if these came up to that rate as well, ``least_seconds``. Fewer
multiply-accumulates for the same result, as in Winograd's convolutions, could go below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dipgo_compile.macs.kinds import MULTIPLYING


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """All operators of a kind (``macs/kinds.py``) of one image: how many ``runs``, what they take together in
    ``seconds``, and their multiply-accumulates, None where there are none or nobody counted them.
    """

    kind: str
    runs: int
    seconds: float
    macs: int | None

    @property
    def macs_per_second(self) -> float | None:
        return None if self.macs is None or not self.seconds else self.macs / self.seconds


@dataclass(frozen=True, slots=True)
class OperatorProfile:
    """``operators``, the longest first, and the ``seconds`` of an image in engines, in the same runs.
    ``macs_per_second`` is the yardstick: the rate of a large matrix product.
    """

    operators: tuple[OperatorTime, ...]
    seconds: float
    macs_per_second: float

    @property
    def between_seconds(self) -> float:
        """What is no operator's: going from one to the next, and noting the time."""
        return self.seconds - sum(item.seconds for item in self.operators)

    @property
    def multiplying_seconds(self) -> float:
        """Of convolutions, matrix products and attention."""
        return sum(item.seconds for item in self.operators if item.kind in MULTIPLYING)

    @property
    def fastest_macs_per_second(self) -> float:
        """Of the yardstick and the kinds: numpy doesn't use every processor's widest instructions."""
        rates = (item.macs_per_second for item in self.operators)
        return max([self.macs_per_second, *(rate for rate in rates if rate is not None)])

    @property
    def least_seconds(self) -> float | None:
        """Of all multiply-accumulates at the fastest rate. None where nobody counted them."""
        counted = [item.macs for item in self.operators if item.macs is not None]
        return sum(counted) / self.fastest_macs_per_second if counted else None

    def share(self, seconds: float) -> float:
        """Of the seconds in engines."""
        return seconds / self.seconds

    def of_yardstick(self, item: OperatorTime) -> float | None:
        """How near a kind comes to the rate of the yardstick."""
        rate = item.macs_per_second
        return None if rate is None else rate / self.macs_per_second

    def to_json(self) -> dict[str, Any]:
        return {
            "operators": [asdict(item) for item in self.operators],
            "seconds": self.seconds,
            "macs_per_second": self.macs_per_second,
            "multiplying_seconds": self.multiplying_seconds,
            "least_seconds": self.least_seconds,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> OperatorProfile:
        """What ``to_json`` made."""
        operators = tuple(OperatorTime(**item) for item in content["operators"])
        return cls(operators, content["seconds"], content["macs_per_second"])

    def to_text(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{'operators of an image':<24}{'runs':>8}{'time':>16}{'share':>9}{'GMACs':>13}{'GMACs/s':>10}"
        for item in self.operators:
            near = self.of_yardstick(item)
            rate = "" if near is None else f"{near * self.macs_per_second / 1e9:>10,.1f}  {near:.0%}*"
            macs = "" if item.macs is None else f"{item.macs / 1e9:>13,.2f}{rate}"
            yield self._line(item.kind, f"{item.runs:,}", item.seconds) + macs
        yield self._line("between them", "", self.between_seconds)
        yield self._line("an image, in engines", "", self.seconds)
        yield f"  * of the rate of a large matrix product: {self.macs_per_second / 1e9:,.1f} GMACs/s"
        yield "floors of an image"
        kinds = ", ".join(sorted(MULTIPLYING))
        yield self._line("as they ran", "", self.multiplying_seconds) + f"  {kinds}, and nothing else"
        if self.least_seconds is not None:
            rate = f"{self.fastest_macs_per_second / 1e9:,.1f} GMACs/s"
            yield self._line("at the fastest rate", "", self.least_seconds) + f"  the same, all at {rate}"

    def _line(self, label: str, runs: str, seconds: float) -> str:
        return f"  {label:<22}{runs:>8}{1e3 * seconds:>13,.2f} ms{self.share(seconds):>9.1%}"
