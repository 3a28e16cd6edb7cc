"""Reading untrusted JSON: every access checks the type and names the path of what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dipgo_compile.errors import BundleError
from dipgo_compile.program import TensorSpec

MAX_INT = (
    1 << 48
)  # 256 TiB: larger sizes are damage, and products of two still fit Python's and numpy's int64 checks

MAX_RANK = 8  # axes of a tensor: more than a denoiser has, and all that TensorRT takes
DTYPES = frozenset({"float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"})


class Field:
    """A JSON value and its path, such as ``plan.json: tensors[3].shape[0]``."""

    __slots__ = ("path", "value")

    def __init__(self, value: Any, path: str) -> None:
        self.value = value
        self.path = path

    def error(self, problem: str) -> BundleError:
        return BundleError(
            problem, where=self.path, mend="build the bundle again, or copy it again from its source"
        )

    def _expected(self, kind: str) -> BundleError:
        shown = repr(self.value)
        return self.error(f"expected {kind}, found {shown if len(shown) <= 60 else shown[:57] + '...'}")

    def get(self, key: str) -> Field:
        """A required member of an object."""
        if not isinstance(self.value, dict):
            raise self._expected("an object")
        if key not in self.value:
            raise BundleError(
                f"the field {key!r} is missing",
                where=self.path,
                available=self.value,
                mend="build the bundle again",
            )
        return Field(self.value[key], f"{self.path}{'' if self.path.endswith(': ') else '.'}{key}")

    def has(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def mapping(self) -> Mapping[str, Any]:
        if not isinstance(self.value, dict):
            raise self._expected("an object")
        return self.value

    def members(self) -> dict[str, Field]:
        return {key: self.get(key) for key in self.mapping()}

    def items(self) -> tuple[Field, ...]:
        if not isinstance(self.value, list):
            raise self._expected("an array")
        return tuple(Field(value, f"{self.path}[{index}]") for index, value in enumerate(self.value))

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self._expected("a string")
        return self.value

    def texts(self) -> tuple[str, ...]:
        return tuple(item.text() for item in self.items())

    def optional_text(self) -> str | None:
        return None if self.value is None else self.text()

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self._expected("true or false")
        return self.value

    def integer(self, low: int = 0, high: int = MAX_INT) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self._expected("an integer")
        if not low <= self.value <= high:
            raise self._expected(f"an integer from {low} to {high}")
        return self.value

    def number(self) -> float:
        if not isinstance(self.value, int | float) or isinstance(self.value, bool):
            raise self._expected("a number")
        try:
            number = float(self.value)
        except OverflowError:
            raise self._expected("a finite number") from None
        if not math.isfinite(number):
            raise self._expected("a finite number")
        return number

    def name(self, known: Mapping[str, Any] | frozenset[str], kind: str) -> str:
        """A string that must be one of ``known``."""
        text = self.text()
        if text not in known:
            raise self.error(f"there is no {kind} called {text!r}")
        return text

    def tensor_spec(self) -> TensorSpec:
        """The members ``dtype`` and ``shape`` of an object."""
        dtype = self.get("dtype").name(DTYPES, "element type")
        axes = self.get("shape").items()
        if len(axes) > MAX_RANK:
            raise self.get("shape").error(f"a tensor has at most {MAX_RANK} axes, not {len(axes)}")
        shape = tuple(size.integer(low=1) for size in axes)
        if math.prod(shape) > MAX_INT:
            raise self.get("shape").error(f"a tensor of shape {list(shape)} cannot be meant")
        return TensorSpec(dtype, shape)
