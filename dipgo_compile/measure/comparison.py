"""What a comparison found: differences, tolerances and the verdict. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dipgo_compile.errors import InputError, ParityError
from dipgo_compile.program import Array


@dataclass(frozen=True, slots=True)
class Tolerance:
    """``noise_pred``: absolute, per element of every call's prediction. ``latents``: relative L2 of the final
    ones.
    """

    noise_pred: float
    latents: float


# fp32: predictions are of unit size, and two correct float32 denoisers that add up in different orders differ
# by about 1e-5; a block computed or reused at the wrong call moves them by more than 1e-2.
#
# bf16: engines compute with 8 bits. On models/tiny-sd (trained mask, random masks and none; several seeds)
# OpenVINO's predictions were off by up to 0.063 (PyTorch's bfloat16: 0.046), and after 50 calls the latents
# by 0.01 to 0.15, once by 0.27. Limits as wide as these find wrong weights, not a block reused too often:
# for that, verify the bundle in fp32.
#
# fp16: weights and what blocks hand on have 11 bits. With the trained masks of models/tiny-sd and
# models/tiny-dit (residual reuse, too; two seeds each; ONNX Runtime's CPU provider, which computes some
# operators in float32) predictions of up to 4.4 were off by up to 6.3e-3, and the latents after 50 calls by
# up to 9.2e-4. No GPU has been measured yet: the limits leave room for sums in another order.
TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(noise_pred=1e-3, latents=1e-3),
    "bf16": Tolerance(noise_pred=0.1, latents=0.4),
    "fp16": Tolerance(noise_pred=2e-2, latents=1e-2),
}


@dataclass(frozen=True, slots=True)
class CallDifference:
    """One denoiser call. ``computed``: the plan runs something in it; otherwise it answers with an older
    value.
    """

    call: int
    timestep: float
    computed: bool
    max_abs_diff: float


@dataclass(frozen=True)
class Comparison:
    """What was found, in the order of the calls, and what would have been accepted."""

    bundle: str
    model: str
    seed: int
    prompt: str | None
    guidance_scale: float | None
    tolerance: Tolerance
    calls: tuple[CallDifference, ...]
    latents_relative_l2: float

    @property
    def failed_calls(self) -> tuple[CallDifference, ...]:
        return tuple(call for call in self.calls if not call.max_abs_diff <= self.tolerance.noise_pred)

    @property
    def passed(self) -> bool:
        return not self.failed_calls and self.latents_relative_l2 <= self.tolerance.latents

    def check(self) -> None:
        """Raises ParityError, naming the first call that disagrees."""
        if self.passed:
            return
        if self.failed_calls:
            first = self.failed_calls[0]
            raise ParityError(
                f"{len(self.failed_calls)} of {len(self.calls)} noise predictions differ from the reference "
                f"by more than {self.tolerance.noise_pred:g}, first that of call {first.call}: "
                f"{first.max_abs_diff:.3g}",
                where=self.bundle,
                mend="build the bundle again if the model's weights have changed; otherwise find the pass at "
                "fault with: dipgo-compile build --disable-pass",
            )
        raise ParityError(
            "every noise prediction agrees, but the final latents are off by "
            f"{self.latents_relative_l2:.3g} (relative L2, tolerance {self.tolerance.latents:g}): the "
            "schedule or the guidance differs",
            where=self.bundle,
        )

    def to_json(self) -> dict[str, Any]:
        """Differences that aren't finite become null."""
        return {
            **asdict(self),
            "calls": [{**asdict(c), "max_abs_diff": _finite(c.max_abs_diff)} for c in self.calls],
            "latents_relative_l2": _finite(self.latents_relative_l2),
            "passed": self.passed,
        }


def max_abs_diff(actual: Array, expected: Array) -> float:
    """The largest absolute difference; NaN where either has one, infinity for different shapes."""
    if actual.shape != expected.shape:
        return math.inf
    return float(np.max(np.abs(_difference(actual, expected)), initial=0.0))


def relative_l2(actual: Array, expected: Array) -> float:
    """``|actual - expected| / |expected|``; NaN where either has one, infinity for different shapes."""
    if actual.shape != expected.shape:
        return math.inf
    distance = float(np.linalg.norm(_difference(actual, expected)))
    size = float(np.linalg.norm(expected.astype(np.float64)))
    if size == 0.0:
        return math.inf if distance else 0.0
    return distance / size


def default_tolerance(precision: str) -> Tolerance:
    """The tolerance for a precision. Raises InputError where none is known to be right."""
    try:
        return TOLERANCES[precision]
    except KeyError:
        raise InputError(
            f"there is no default tolerance for {precision}", available=TOLERANCES, mend="state one"
        ) from None


def _difference(actual: Array, expected: Array) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which fails every comparison: as it should
        return actual.astype(np.float64) - expected.astype(np.float64)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
